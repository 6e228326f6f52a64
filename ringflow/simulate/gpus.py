"""Model GPUs: a deterministic host device under the rules of GPUs that the engine has to live with.

- It runs clang's code on the CPU; nothing of CUDA is in it, and it shows nothing of a GPU's speed.
- A trap loses the device with all that is on it, until its process ends.
- Code is not loaded beside a running grid: the persistent ones are parked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, final

from ringflow.device.api import (
    Allocation,
    Device,
    Launch,
    LaunchStatus,
    LoadedCode,
    MappedAllocation,
    Stepping,
)
from ringflow.device.compiler.api import CompiledCode, CompileTarget
from ringflow.device.host.device import HostDevice
from ringflow.device.parking import Lot
from ringflow.errors import DeviceLostError
from ringflow.files import Buffer
from ringflow.spec import Dim3

GPU_NAME: Final = re.compile(r"cuda:(0|[1-9]\d{0,3})\Z")
PEER_PATH: Final = "pcie peer"


@final
class ModelGpu:
    """``Device`` named ``cuda:N`` in simulated worlds.

    Attributes:
        lot: where its grids are parked.
    """

    rings = True
    loads_while_running = False

    def __init__(self, name: str, *, seed: int, memory_limit_bytes: int | None = None) -> None:
        self._device = HostDevice(
            name, deterministic_seed=seed, memory_limit_bytes=memory_limit_bytes
        )
        self._launches: list[Launch] = []
        self._reason = ""
        self.lot = Lot(now_ns=lambda: self._device.virtual_time_ns)

    @property
    def lost(self) -> str:
        if not self._reason:
            for launch in self._launches:
                if launch.status is LaunchStatus.TRAPPED:
                    self.lose(f"a kernel trapped: {launch.detail}")
                    break
        return self._reason

    def lose(self, reason: str) -> None:
        """Lose the device: all its grids end, and only giving things back works from now on."""
        self._reason = reason
        for launch in self._launches:
            if launch.status is LaunchStatus.RUNNING:
                launch.abort()

    def _check(self, call: str) -> None:
        if self.lost:
            raise DeviceLostError(self.name, self.lost, call=call)

    @property
    def stepping(self) -> Stepping | None:
        return self._device.stepping

    @property
    def name(self) -> str:
        return self._device.name

    @property
    def uuid(self) -> str:
        return f"model-{self.name}"  # the same on every machine

    @property
    def target(self) -> CompileTarget:
        return self._device.target

    @property
    def memory_bytes(self) -> int:
        return self._device.memory_bytes

    @property
    def free_bytes(self) -> int:
        return self._device.free_bytes

    def allocate(self, size_bytes: int, *, label: str) -> Allocation:
        self._check("allocate")
        return self._device.allocate(size_bytes, label=label)

    def allocate_mapped(self, size_bytes: int, *, label: str) -> MappedAllocation:
        self._check("allocate_mapped")
        return self._device.allocate_mapped(size_bytes, label=label)

    def free(self, allocation: Allocation) -> None:
        self._device.free(allocation)

    def copy_in(self, target: Allocation, data: Buffer, *, offset_bytes: int = 0) -> None:
        self._check("copy_in")
        self._device.copy_in(target, data, offset_bytes=offset_bytes)

    def copy_out(
        self, source: Allocation, *, offset_bytes: int = 0, size_bytes: int | None = None
    ) -> memoryview:
        self._check("copy_out")
        return self._device.copy_out(source, offset_bytes=offset_bytes, size_bytes=size_bytes)

    def view(self, source: Allocation) -> memoryview | None:
        return self._device.view(source)

    def copy_to_peer(self, source: Allocation, peer: Device, target: Allocation) -> str:
        self._check("copy_to_peer")
        path = self._device.copy_to_peer(source, peer, target)
        return PEER_PATH if GPU_NAME.match(peer.name) else path

    def digest_blocks(self, source: Allocation) -> bytes:
        self._check("digest_blocks")
        return self._device.digest_blocks(source)

    def load(self, code: CompiledCode) -> LoadedCode:
        self._check("load")
        with self.lot.quiet(self.name, "load"):
            return self._device.load(code)

    def unload(self, code: LoadedCode) -> None:
        self._device.unload(code)

    def grid_that_fits(
        self, code: LoadedCode, entry_point: str, block: Dim3, *, dynamic_shared_bytes: int = 0
    ) -> int:
        return self._device.grid_that_fits(
            code, entry_point, block, dynamic_shared_bytes=dynamic_shared_bytes
        )

    def launch(
        self,
        code: LoadedCode,
        entry_point: str,
        *,
        grid: Dim3,
        block: Dim3,
        parameters: tuple[bytes, ...],
        dynamic_shared_bytes: int = 0,
        memory: Sequence[Allocation] | None = None,
    ) -> Launch:
        self._check("launch")
        ended = (LaunchStatus.COMPLETED, LaunchStatus.ABORTED)
        self._launches = [one for one in self._launches if one.status not in ended]
        launch = self._device.launch(
            code,
            entry_point,
            grid=grid,
            block=block,
            parameters=parameters,
            dynamic_shared_bytes=dynamic_shared_bytes,
            memory=memory,
        )
        self._launches.append(launch)
        return launch

    def close(self) -> None:
        self._device.close()
