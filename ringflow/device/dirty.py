"""Dirty marks: which blocks of a kernel's regions it says that it has written.

- Two bitmaps with a bit a 64 KiB block of each region; marks go into the one of the dirty epoch.
- Only the kernel swaps them, at a boundary, when the host has raised the epoch. The host reads
  and clears the other one, so that none of its writes meets a mark.
- A round is: request, await the swap, collect. While no grid runs both bitmaps are the host's.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from ringflow.device import abi
from ringflow.device.api import Allocation, Device
from ringflow.errors import KernelStateError, UsageError
from ringflow.storage.blocks import BLOCK_BYTES

_RANGE: Final = struct.Struct("<QQQ")
assert _RANGE.size == abi.DIRTY_RANGE.size_bytes


class DirtyTable:
    """Where a kernel's marks lie: the regions' ranges, then the two bitmaps.

    Attributes:
        size_bytes: memory that the table needs.
    """

    def __init__(self, regions: Mapping[str, Allocation]) -> None:
        self._regions = dict(regions)
        self._first_bits: dict[str, int] = {}
        bit = 0
        for name, region in regions.items():
            self._first_bits[name] = bit
            bit += block_count(region.size_bytes)
        self._bit_count = bit
        self._ranges_bytes = len(regions) * _RANGE.size
        self._bitmap_bytes = -(-bit // 64) * 8
        self.size_bytes = max(self._ranges_bytes + 2 * self._bitmap_bytes, 8)

    @property
    def range_count(self) -> int:
        return len(self._regions)

    def ranges(self) -> bytes:
        """Return the table of ``abi.DIRTY_RANGE``."""
        return b"".join(
            _RANGE.pack(one.address, one.address + one.size_bytes, self._first_bits[name])
            for name, one in self._regions.items()
        )

    def bitmap(self, parity: int) -> tuple[int, int]:
        """Return offset and size in bytes of the bitmap of even (0) or odd (1) epochs."""
        return self._ranges_bytes + parity * self._bitmap_bytes, self._bitmap_bytes

    def blocks(self, bitmap: bytes) -> dict[str, tuple[int, ...]]:
        """Return the set bits as block indices, ascending, by region; clean regions are left out.

        Args:
            bitmap: uint8[bitmap size], bit 0 is the lowest of byte 0.
        """
        import numpy as np

        bits = np.unpackbits(
            np.frombuffer(bitmap, np.uint8), count=self._bit_count, bitorder="little"
        )
        found = {}
        for name, first in self._first_bits.items():
            past = first + block_count(self._regions[name].size_bytes)
            indices = np.flatnonzero(bits[first:past])
            if len(indices):
                found[name] = tuple(indices.tolist())
        return found


def block_count(size_bytes: int) -> int:
    """Return the number of blocks, the last of which may be shorter."""
    return -(-size_bytes // BLOCK_BYTES)


class DirtyMarks:
    """The marks of one kernel in its device's memory, over all of its launches.

    Attributes:
        requested: the last epoch asked for.
        swapped: the last one that was obeyed, as far as the host has looked.
    """

    def __init__(
        self, device: Device, kernel_id: str, table: DirtyTable, memory: Allocation
    ) -> None:
        """``memory`` is zeroed and has the table's size."""
        self._device, self._kernel_id = device, kernel_id
        self._table, self._memory = table, memory
        self.requested = 0
        self.swapped = 0
        self._collected = 0
        device.copy_in(memory, table.ranges())

    @property
    def words(self) -> dict[str, int]:
        """What a launch's workspace says of the marks, by word."""
        first, second = (self._memory.address + self._table.bitmap(one)[0] for one in (0, 1))
        return {
            "dirty_bitmap_0": first,
            "dirty_bitmap_1": second,
            "dirty_ranges": self._memory.address,
            "dirty_range_count": self._table.range_count,
            "dirty_swapped": self.swapped,
        }

    def request(self) -> int:
        """Return the next epoch; raises ``KernelStateError`` before the last one is collected."""
        if self.requested != self._collected:
            raise KernelStateError(
                self._kernel_id, "with a swap of its dirty bitmaps under way", "to be collected"
            )
        self.requested = self.requested + 1 & 0xFFFFFFFF
        return self.requested

    def note_swapped(self, epoch: int) -> None:
        """Take over the last epoch that a launch obeyed; the next launch goes on from there."""
        if epoch == self.requested:
            self.swapped = epoch

    def collect(self, *, swapped: int, resting: bool) -> dict[str, tuple[int, ...]]:
        """Return the blocks marked before the last swap, and clear their marks.

        Args:
            swapped: the last epoch that the kernel obeyed.
            resting: no grid runs: return what is in either bitmap.
        Raises:
            KernelStateError: no swap was requested since the last call, or it has not come yet.
        """
        if resting:
            first, second = (self._take(parity) for parity in (0, 1))
            marks = bytes(one | other for one, other in zip(first, second, strict=True))
            self.swapped = self.requested
        elif self.requested == self._collected or swapped != self.requested:
            raise KernelStateError(
                self._kernel_id, "taking marks", "to have swapped: request and await that first"
            )
        else:
            marks = self._take(~swapped & 1)
            self.note_swapped(swapped)
        self._collected = self.requested
        return self._table.blocks(marks)

    def _take(self, parity: int) -> bytes:
        offset_bytes, size_bytes = self._table.bitmap(parity)
        taken = self._device.copy_out(
            self._memory, offset_bytes=offset_bytes, size_bytes=size_bytes
        )
        self._device.copy_in(self._memory, bytes(size_bytes), offset_bytes=offset_bytes)
        return bytes(taken)


def no_marks(kernel_id: str) -> UsageError:
    """Return the error for a kernel that takes no marks."""
    return UsageError(
        f"kernel {kernel_id!r} takes no dirty marks; launch it with KernelSpec(track_dirty=True)"
    )
