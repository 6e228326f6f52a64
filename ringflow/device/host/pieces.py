"""Small pieces of memory that share pages: what is kept of each launch and each kernel.

- A piece is zeroed and starts at a multiple of 128 bytes; no two share a cache line.
- Its bytes are another's soon after it was released, views of it or not: for the device's own
  structures only, never for what a user looks at.
- Pages are kept for later pieces of the same size; there are as many as were ever in use at once.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from typing import Final

from ringflow.device.host.memory import HostAllocation
from ringflow.errors import DeviceError

PIECE_BYTES_MAX: Final = 16 << 10
_ALIGN_BYTES: Final = 128
_PAGES_BYTES: Final = 128 << 10


class _Store:
    """Pages, and the places in them that are free by size."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[int, list[tuple[HostAllocation, int]]] = {}
        self._given: deque[tuple[HostAllocation, int, int]] = deque()
        self._pages: HostAllocation | None = None
        self._end = 0

    def take(self, size_bytes: int) -> tuple[HostAllocation, int]:
        """Return pages and a place in them, zeroed."""
        with self._lock:
            while self._given:
                pages, offset, given_bytes = self._given.popleft()
                self._free.setdefault(given_bytes, []).append((pages, offset))
            if free := self._free.get(size_bytes):
                pages, offset = free.pop()
                ctypes.memset(pages.address + offset, 0, size_bytes)
                return pages, offset
            if self._pages is None or self._end + size_bytes > _PAGES_BYTES:
                self._pages, self._end = HostAllocation(_PAGES_BYTES, label="pieces"), 0
            pages, offset = self._pages, self._end
            self._end += size_bytes
            return pages, offset

    def give(self, pages: HostAllocation, offset: int, size_bytes: int) -> None:
        """Take a place back; without the lock, for a collection of garbage may come in ``take``."""
        self._given.append((pages, offset, size_bytes))


_store: Final = _Store()


class Piece(HostAllocation):
    """A small piece; released when nobody has it any longer, at the latest."""

    __slots__ = ("_offset", "_return", "_shared")

    def __init__(self, size_bytes: int, *, label: str) -> None:
        assert 0 < size_bytes <= PIECE_BYTES_MAX, f"{label} has {size_bytes} bytes"
        rounded = (size_bytes + _ALIGN_BYTES - 1) // _ALIGN_BYTES * _ALIGN_BYTES
        self._shared, self._offset = _store.take(rounded)
        self._address = self._shared.address + self._offset
        self._size_bytes = size_bytes
        self._label = label
        self._return = weakref.finalize(self, _store.give, self._shared, self._offset, rounded)
        self._return.atexit = False  # workers may use it to the end

    @property
    def view(self) -> memoryview:
        """The memory itself: uint8[size_bytes], writable."""
        if not self._return.alive:
            raise DeviceError(f"allocation {self.label!r} was freed", call="view", code="freed")
        return self._shared.view[self._offset : self._offset + self._size_bytes]

    def release(self) -> None:
        """Give the bytes to another piece."""
        self._return()


def piece_or_pages(size_bytes: int, *, label: str) -> HostAllocation:
    """Return a piece where it is small, else pages of its own."""
    if size_bytes <= PIECE_BYTES_MAX:
        return Piece(size_bytes, label=label)
    return HostAllocation(size_bytes, label=label)
