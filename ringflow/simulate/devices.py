"""A deterministic host device whose every effect is noted, and can be made to fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from ringflow.device.api import Allocation, Device, MappedAllocation
from ringflow.device.registry import open_device
from ringflow.errors import DeviceError, UnknownDeviceError, UsageError
from ringflow.simulate.faults import Faults
from ringflow.simulate.forwarding import ForwardingDevice
from ringflow.simulate.gpus import GPU_NAME, ModelGpu


@final
class SimulatedDevice(ForwardingDevice):
    """``Device`` over a host device without workers; its kernels move when they are looked at."""

    def __init__(
        self, name: str, faults: Faults, *, seed: int, memory_limit_bytes: int | None = None
    ) -> None:
        device: Device
        if GPU_NAME.match(name):
            device = ModelGpu(name, seed=seed, memory_limit_bytes=memory_limit_bytes)
        elif name.startswith("cuda"):  # there are real ones of such names
            raise UnknownDeviceError(name, ("host:N", "cuda:N"), advice="name one of these forms")
        else:
            device = open_device(
                name, deterministic_seed=seed, memory_limit_bytes=memory_limit_bytes
            )
        super().__init__(device)
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

    def lose(self) -> None:
        """Lose the device as a fault of its hardware does; raises ``UsageError`` if it has none."""
        if not isinstance(self._device, ModelGpu):
            raise UsageError(f"{self.name!r} can't be lost; name a cuda:N")
        self._device.lose("its hardware failed")

    def allocate(self, size_bytes: int, *, label: str) -> Allocation:
        allocation = super().allocate(size_bytes, label=label)
        self._allocated.append(allocation)
        return allocation

    def allocate_mapped(self, size_bytes: int, *, label: str) -> MappedAllocation:
        allocation = super().allocate_mapped(size_bytes, label=label)
        self._allocated.append(allocation)
        return allocation

    def free(self, allocation: Allocation) -> None:
        self._allocated = [one for one in self._allocated if one is not allocation]
        try:
            super().free(allocation)
        except DeviceError:
            self._lost.append(allocation)
            raise
        self._lost = [one for one in self._lost if one is not allocation]


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
