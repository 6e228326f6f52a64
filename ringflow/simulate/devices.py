"""A deterministic host device whose every effect is noted, and can be made to fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from ringflow.device.api import Allocation, Device, Launch, LoadedCode, MappedAllocation, Stepping
from ringflow.device.compiler.api import CompiledCode, CompileTarget
from ringflow.device.parking import Lot, lot_of
from ringflow.device.registry import open_device
from ringflow.errors import DeviceError, UnknownDeviceError, UsageError
from ringflow.files import Buffer
from ringflow.simulate.faults import Faults
from ringflow.simulate.gpus import GPU_NAME, ModelGpu
from ringflow.spec import Dim3


@final
class SimulatedDevice:
    """``Device`` over a host device without workers; its kernels move when they are looked at."""

    def __init__(
        self, name: str, faults: Faults, *, seed: int, memory_limit_bytes: int | None = None
    ) -> None:
        self._device: Device
        if GPU_NAME.match(name):
            self._device = ModelGpu(name, seed=seed, memory_limit_bytes=memory_limit_bytes)
        elif name.startswith("cuda"):  # there are real ones of such names
            raise UnknownDeviceError(name, ("host:N", "cuda:N"), advice="name one of these forms")
        else:
            self._device = open_device(
                name, deterministic_seed=seed, memory_limit_bytes=memory_limit_bytes
            )
        self._faults = faults
        self._allocated: list[Allocation] = []
        self._lost: list[Allocation] = []

    @property
    def lost_bytes(self) -> int:
        """Memory that an injected failure kept from being freed."""
        return sum(allocation.size_bytes for allocation in self._lost)

    @property
    def labels(self) -> list[str]:
        """The labels of what is allocated, in order of allocation."""
        return [allocation.label for allocation in self._allocated]

    def _reached(self, call: str, what: str = "") -> bool:
        return self._faults.reached(self.name, call, what)

    @property
    def stepping(self) -> Stepping | None:
        stepping: Stepping | None = getattr(self._device, "stepping", None)
        return stepping

    @property
    def name(self) -> str:
        return self._device.name

    @property
    def uuid(self) -> str:
        return self._device.uuid

    @property
    def target(self) -> CompileTarget:
        return self._device.target

    @property
    def rings(self) -> bool:
        return self._device.rings

    @property
    def loads_while_running(self) -> bool:
        return self._device.loads_while_running

    @property
    def lost(self) -> str:
        return self._device.lost

    @property
    def lot(self) -> Lot | None:
        return lot_of(self._device)

    def lose(self) -> None:
        """Lose the device as a fault of its hardware does; raises ``UsageError`` if it has none."""
        if not isinstance(self._device, ModelGpu):
            raise UsageError(f"{self.name!r} can't be lost; name a cuda:N")
        self._device.lose("its hardware failed")

    @property
    def memory_bytes(self) -> int:
        return self._device.memory_bytes

    @property
    def free_bytes(self) -> int:
        return self._device.free_bytes

    def allocate(self, size_bytes: int, *, label: str) -> Allocation:
        self._reached("allocate", label)
        allocation = self._device.allocate(size_bytes, label=label)
        self._allocated.append(allocation)
        return allocation

    def allocate_mapped(self, size_bytes: int, *, label: str) -> MappedAllocation:
        self._reached("allocate_mapped", label)
        allocation = self._device.allocate_mapped(size_bytes, label=label)
        self._allocated.append(allocation)
        return allocation

    def free(self, allocation: Allocation) -> None:
        self._allocated = [one for one in self._allocated if one is not allocation]
        try:
            self._reached("free", allocation.label)
        except DeviceError:
            self._lost.append(allocation)
            raise
        self._device.free(allocation)
        self._lost = [one for one in self._lost if one is not allocation]

    def copy_in(self, target: Allocation, data: Buffer, *, offset_bytes: int = 0) -> None:
        flips = self._reached("copy_in", target.label)
        self._device.copy_in(target, data, offset_bytes=offset_bytes)
        if flips:
            memory = self._device.view(target)
            assert memory is not None
            memory[offset_bytes] ^= 1

    def copy_out(
        self, source: Allocation, *, offset_bytes: int = 0, size_bytes: int | None = None
    ) -> memoryview:
        self._reached("copy_out", source.label)
        return self._device.copy_out(source, offset_bytes=offset_bytes, size_bytes=size_bytes)

    def view(self, source: Allocation) -> memoryview | None:
        return self._device.view(source)

    def copy_to_peer(self, source: Allocation, peer: Device, target: Allocation) -> str:
        self._reached("copy_to_peer", source.label)
        return self._device.copy_to_peer(source, peer, target)

    def digest_blocks(self, source: Allocation) -> bytes:
        self._reached("digest_blocks", source.label)
        return self._device.digest_blocks(source)

    def load(self, code: CompiledCode) -> LoadedCode:
        self._reached("load", code.entry_point)
        return self._device.load(code)

    def unload(self, code: LoadedCode) -> None:
        self._reached("unload")
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
        self._reached("launch", entry_point)
        return self._device.launch(
            code,
            entry_point,
            grid=grid,
            block=block,
            parameters=parameters,
            dynamic_shared_bytes=dynamic_shared_bytes,
            memory=memory,
        )

    def close(self) -> None:
        self._device.close()


def open_devices(
    memory_bytes: Mapping[str, int | None], faults: Faults, *, seed: int
) -> dict[str, SimulatedDevice]:
    """Open devices, each with its own order drawn from the seed.

    Args:
        memory_bytes: limit by name, None for the machine's memory.
    """
    return {
        name: SimulatedDevice(name, faults, seed=seed * 1009 + index, memory_limit_bytes=limit)
        for index, (name, limit) in enumerate(memory_bytes.items())
    }
