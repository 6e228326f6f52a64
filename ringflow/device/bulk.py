"""Bulk arenas: bounded memory that host and kernel share, for payloads that no slot carries.

- Messages are finished in the order of their sequences, so an arena of messages is a ring: pieces
  are taken at one end and given back at the other, each in one stretch.
- A piece of a reply's array lies where the kernel says; its message's credit holds it there.
- ``reset`` and ``close`` wait for copies under way: nothing is copied to or from freed memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition
from typing import TYPE_CHECKING, Any, Final, final

import attrs

from ringflow.device.abi import BULK_PIECE, bulk_offset
from ringflow.errors import DeviceError
from ringflow.files import Buffer
from ringflow.spec import BULK_UNIT_BYTES

if TYPE_CHECKING:
    import numpy as np

    from ringflow.device.api import MappedAllocation

COPY_IN_PLACE_BYTES_MAX: Final = 1 << 18  # about 50 us; more is for a thread


@final
@attrs.frozen(eq=False)
class Bulk:
    """A message's bulk: its size, and where its bytes are read from when they are needed.

    Attributes:
        load: returns uint8[size_bytes]; may block, and raise what reading a store raises.
        in_memory: ``load`` neither blocks nor raises.
    """

    size_bytes: int
    load: Callable[[], Buffer]
    in_memory: bool = True

    @classmethod
    def of(cls, data: Buffer) -> Bulk:
        """Return the bulk of bytes that never change."""
        view = memoryview(data).cast("B")
        return cls(len(view), lambda: view)

    @property
    def is_quick(self) -> bool:
        """Whether it may be copied in an event loop."""
        return self.in_memory and self.size_bytes <= COPY_IN_PLACE_BYTES_MAX


def copied(data: Buffer) -> memoryview:
    """Return a read-only copy: uint8[n]; the lock of Python is not held for long."""
    import numpy as np

    return np.frombuffer(data, np.uint8).copy().data.toreadonly()


def _rounded(size_bytes: int) -> int:
    return -(-size_bytes // BULK_UNIT_BYTES) * BULK_UNIT_BYTES


class _Mapped:
    """Mapped memory that is copied to or from by several threads and closed by another one."""

    def __init__(self, mapped: MappedAllocation | None) -> None:
        self._mapped = mapped
        self._changed = Condition()
        self._copies = 0

    @property
    def address(self) -> int:
        """The address as kernels see it, 0 where there is no arena."""
        return self._mapped.address if self._mapped is not None else 0

    @property
    def size_bytes(self) -> int:
        return self._mapped.size_bytes if self._mapped is not None else 0

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Keep the memory for the block; call it under ``_changed``'s lock."""
        self._copies += 1
        self._changed.release()
        try:
            yield
        finally:
            self._changed.acquire()
            self._copies -= 1
            self._changed.notify_all()

    def _bytes(self, offset_bytes: int, size_bytes: int) -> np.ndarray[Any, Any]:
        import numpy as np

        assert self._mapped is not None, "the arena is closed"
        assert offset_bytes + size_bytes <= self.size_bytes, "the piece ends outside of the arena"
        at = self._mapped.host_address + offset_bytes
        memory = memoryview((ctypes.c_uint8 * size_bytes).from_address(at))
        return np.frombuffer(memory, np.uint8)

    def close(self) -> None:
        """Use the memory no more, once the copies under way have ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._copies == 0)
            self._mapped = None


@attrs.define
class _Piece:
    offset_bytes: int
    size_bytes: int
    filled: bool = False


@final
class MessageArena(_Mapped):
    """The bulk of the messages that a device has, or is about to get."""

    def __init__(self, mapped: MappedAllocation | None) -> None:
        super().__init__(mapped)
        self._pieces: dict[int, _Piece] = {}
        self._next_bytes = 0

    def reserve(self, sequence: int, size_bytes: int, *, done_sequence: int) -> bool:
        """Take room for a message's bulk; False if there is none now.

        Args:
            sequence: above those that have room; one that has it already keeps it.
            done_sequence: messages up to it give their room back.
        """
        with self._changed:
            if sequence in self._pieces:
                return True
            self._give_back(done_sequence)
            offset = self._find(_rounded(size_bytes))
            if offset is None:
                return False
            self._pieces[sequence] = _Piece(offset, size_bytes)
            self._next_bytes = offset + _rounded(size_bytes)
            return True

    def _give_back(self, done_sequence: int) -> None:
        for sequence in list(self._pieces):
            if sequence > done_sequence:
                break
            del self._pieces[sequence]

    def _find(self, size_bytes: int) -> int | None:
        """Return where a new piece may lie: after the newest, or at the start."""
        if not self._pieces:
            return 0 if size_bytes <= self.size_bytes else None
        oldest = next(iter(self._pieces.values())).offset_bytes
        if self._next_bytes > oldest:
            if self._next_bytes + size_bytes <= self.size_bytes:
                return self._next_bytes
            return 0 if size_bytes <= oldest else None
        return self._next_bytes if self._next_bytes + size_bytes <= oldest else None

    def fill(self, sequence: int, bulk: Bulk) -> None:
        """Copy a message's bulk to its room; nothing happens if that was taken away meanwhile.

        It may be called in a thread. Raises what ``bulk.load`` raises.
        """
        data = bulk.load()
        with self._changed:
            piece = self._pieces.get(sequence)
            if piece is None or piece.filled:
                return
            with self._in_use():
                self._copy(piece, data)
            piece.filled = True

    def _copy(self, piece: _Piece, data: Buffer) -> None:
        import numpy as np

        target = self._bytes(piece.offset_bytes, piece.size_bytes)
        np.copyto(target, np.frombuffer(data, np.uint8))

    def is_filled(self, sequence: int) -> bool:
        with self._changed:
            piece = self._pieces.get(sequence)
            return piece is not None and piece.filled

    def offset_of(self, sequence: int) -> int:
        """Return where a message's bulk lies, in bytes from the start of the arena."""
        with self._changed:
            return self._pieces[sequence].offset_bytes

    def reset(self) -> None:
        """Take all room back: what was posted is posted anew, or not at all."""
        with self._changed:
            self._changed.wait_for(lambda: self._copies == 0)
            self._pieces.clear()
            self._next_bytes = 0

    def close(self) -> None:
        with self._changed:  # one step: a ``fill`` that waits for the lock finds no piece
            super().close()
            self._pieces.clear()


@final
class ReplyArena(_Mapped):
    """The arrays of outputs that the host has not copied yet."""

    @contextmanager
    def kept(self) -> Iterator[bool]:
        """Put a ``close`` off for the block; yields False if it was closed before."""
        with self._changed, self._in_use():
            yield self._mapped is not None

    def read(self, handle: int) -> memoryview:
        """Return a copy of the array that a reply slot names: uint8[n], read-only.

        Raises:
            DeviceError: the arena is closed; nobody waits for the kernel's outputs any more.
        """
        import numpy as np

        offset = bulk_offset(handle)
        with self.kept() as is_open:
            if not is_open:
                raise DeviceError("the kernel is closed; its outputs are gone", call="read")
            header = self._bytes(offset + BULK_PIECE["size"], 8)
            size_bytes = int(header.view("<u8")[0])
            copy = np.empty(size_bytes, np.uint8)
            np.copyto(copy, self._bytes(offset + BULK_PIECE.size_bytes, size_bytes))
        return copy.data.toreadonly()
