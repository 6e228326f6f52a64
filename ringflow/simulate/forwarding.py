"""A device that passes every call on to another one, and has a word first."""

from __future__ import annotations

from collections.abc import Sequence

from ringflow.device.api import (
    Allocation,
    Device,
    Launch,
    LoadedCode,
    MappedAllocation,
    Stepping,
    check_room,
    stepping_of,
)
from ringflow.device.compiler.api import CompiledCode, CompileTarget
from ringflow.device.parking import Lot, lot_of
from ringflow.files import Buffer
from ringflow.spec import Dim3


class ForwardingDevice:
    """``Device`` over another one; ``_reached`` hears of each effect before it and may raise."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def _reached(self, call: str, what: str = "") -> bool:
        """Hear of a call; ``what`` is the label of its memory, or the code's entry point.

        Returns whether one bit of what is copied in is to be written wrongly.
        """
        return False

    @property
    def stepping(self) -> Stepping | None:
        return stepping_of(self._device)

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

    @property
    def memory_bytes(self) -> int:
        return self._device.memory_bytes

    @property
    def free_bytes(self) -> int:
        return self._device.free_bytes

    def allocate(self, size_bytes: int, *, label: str) -> Allocation:
        self._reached("allocate", label)
        return self._device.allocate(size_bytes, label=label)

    def allocate_mapped(self, size_bytes: int, *, label: str) -> MappedAllocation:
        self._reached("allocate_mapped", label)
        return self._device.allocate_mapped(size_bytes, label=label)

    def free(self, allocation: Allocation) -> None:
        self._reached("free", allocation.label)
        self._device.free(allocation)

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

    def check_room(self, grid: Dim3) -> None:
        check_room(self._device, grid)

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
