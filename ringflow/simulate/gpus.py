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
)
from ringflow.device.compiler.api import CompiledCode
from ringflow.device.host.device import HostDevice
from ringflow.device.parking import Lot
from ringflow.errors import DeviceLostError
from ringflow.simulate.forwarding import ForwardingDevice
from ringflow.spec import Dim3

GPU_NAME: Final = re.compile(r"cuda:(0|[1-9]\d{0,3})\Z")
PEER_PATH: Final = "pcie peer"
GIVES_BACK: Final = ("free", "unload")


@final
class ModelGpu(ForwardingDevice):
    """``Device`` named ``cuda:N`` in simulated worlds."""

    def __init__(self, name: str, *, seed: int, memory_limit_bytes: int | None = None) -> None:
        device = HostDevice(name, deterministic_seed=seed, memory_limit_bytes=memory_limit_bytes)
        super().__init__(device)
        self._launches: list[Launch] = []
        self._reason = ""
        self._lot = Lot(now_ns=lambda: device.virtual_time_ns)

    @property
    def lot(self) -> Lot:
        """Where its grids are parked."""
        return self._lot

    @property
    def loads_while_running(self) -> bool:
        return False

    @property
    def uuid(self) -> str:
        return f"model-{self.name}"  # the same on every machine

    @property
    def lost(self) -> str:
        if not self._reason:
            for launch in self._launches:
                if launch.status is LaunchStatus.TRAPPED:
                    self.lose(f"a kernel trapped: {launch.detail}")
                    break
        return self._reason

    def lose(self, reason: str) -> None:
        """Lose the device: all its grids end, and only giving things back works from now on.

        A device that is lost stays so, for the reason that it was.
        """
        self._reason = self._reason or reason
        for launch in self._launches:
            if launch.status is LaunchStatus.RUNNING:
                launch.abort()

    def _reached(self, call: str, what: str = "") -> bool:
        if self.lost and call not in GIVES_BACK:
            raise DeviceLostError(self.name, self.lost, call=call)
        return False

    def copy_to_peer(self, source: Allocation, peer: Device, target: Allocation) -> str:
        path = super().copy_to_peer(source, peer, target)
        return PEER_PATH if GPU_NAME.match(peer.name) else path

    def load(self, code: CompiledCode) -> LoadedCode:
        self._reached("load")
        with self.lot.quiet(self.name, "load"):
            return super().load(code)

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
        launch = super().launch(
            code,
            entry_point,
            grid=grid,
            block=block,
            parameters=parameters,
            dynamic_shared_bytes=dynamic_shared_bytes,
            memory=memory,
        )
        ended = (LaunchStatus.COMPLETED, LaunchStatus.ABORTED)
        self._launches = [one for one in self._launches if one.status not in ended]
        self._launches.append(launch)
        return launch
