"""Arenas: memory that a device takes once, when it is opened, and hands out in pieces. Pure.

- Sizes are rounded up to ``UNIT_BYTES``, so every piece is aligned to it if the arena is.
- A piece whose kernel may still run is held: nobody can use it any more, and nobody gets it yet.
"""

from __future__ import annotations

import bisect
import threading
from typing import Final, final

import attrs

from ringflow.errors import DeviceError, DeviceMemoryError

UNIT_BYTES: Final = 256
"""What the driver aligns its own allocations to; more than the 128 bytes that kernels need."""


@final
@attrs.frozen
class CudaAllocation:
    """A piece of an arena.

    Attributes:
        host_address: where the host sees it; 0 for memory of the GPU.
    """

    address: int
    size_bytes: int
    label: str
    host_address: int = 0


class Extents:
    """Free stretches of a range of addresses, in order, no two of them adjacent."""

    def __init__(self, address: int, size_bytes: int) -> None:
        self._starts = [address]
        self._sizes = {address: size_bytes}

    @property
    def free_bytes(self) -> int:
        return sum(self._sizes.values())

    @property
    def largest_bytes(self) -> int:
        return max(self._sizes.values(), default=0)

    def take(self, size_bytes: int) -> int | None:
        """Return the address of the smallest stretch that is large enough, its front taken."""
        fitting = [start for start in self._starts if self._sizes[start] >= size_bytes]
        if not fitting:
            return None
        start = min(fitting, key=self._sizes.__getitem__)
        rest_bytes = self._sizes.pop(start) - size_bytes
        index = bisect.bisect_left(self._starts, start)
        if rest_bytes:
            self._starts[index] = start + size_bytes
            self._sizes[start + size_bytes] = rest_bytes
        else:
            del self._starts[index]
        return start

    def give(self, address: int, size_bytes: int) -> None:
        """Take a stretch back and join it with its neighbours."""
        index = bisect.bisect_left(self._starts, address)
        if index < len(self._starts) and self._starts[index] == address + size_bytes:
            size_bytes += self._sizes.pop(self._starts.pop(index))
        if index and self._starts[index - 1] + self._sizes[self._starts[index - 1]] == address:
            self._sizes[self._starts[index - 1]] += size_bytes
        else:
            self._starts.insert(index, address)
            self._sizes[address] = size_bytes


def rounded(size_bytes: int) -> int:
    """Return what a piece of a size takes of its arena."""
    return -(-size_bytes // UNIT_BYTES) * UNIT_BYTES


class CudaArena:
    """One arena of a device: which pieces are taken, held and free."""

    def __init__(
        self,
        device: str,
        address: int,
        size_bytes: int,
        *,
        host_address: int = 0,
        what: str = "",
        advice: str = "migrate a kernel away or raise the device's limit",
    ) -> None:
        """Manage a range of memory that somebody else takes and gives back.

        Args:
            host_address: where the host sees its first byte; 0 if it doesn't.
            what, advice: how errors name the memory, and what they say to do.
        """
        self._device, self._what, self._advice = device, what, advice
        self._address, self._host_address = address, host_address
        self.size_bytes = size_bytes // UNIT_BYTES * UNIT_BYTES
        self._lock = threading.Lock()
        self._extents = Extents(address, self.size_bytes)
        self._taken: dict[int, CudaAllocation] = {}
        self._held: dict[int, tuple[CudaAllocation, int]] = {}

    @property
    def free_bytes(self) -> int:
        with self._lock:
            return self._extents.free_bytes

    def has(self, address: int) -> bool:
        """Return whether an address lies in the arena."""
        return self._address <= address < self._address + self.size_bytes

    def find(self, address: int) -> CudaAllocation | None:
        """Return the piece that starts at an address."""
        return self._taken.get(address)

    def take(self, size_bytes: int, *, label: str) -> CudaAllocation:
        """Take a piece, with whatever it holds; raises ``DeviceMemoryError``."""
        assert size_bytes > 0, f"{label} has no bytes"
        with self._lock:
            address = self._extents.take(rounded(size_bytes))
            if address is None:
                free_bytes, largest = self._extents.free_bytes, self._extents.largest_bytes
                raise DeviceMemoryError(
                    self._device,
                    size_bytes,
                    free_bytes,
                    largest_bytes=None if largest == free_bytes else largest,
                    what=self._what,
                    advice=self._advice,
                )
            host = self._host_address + address - self._address if self._host_address else 0
            made = CudaAllocation(address, size_bytes, label, host)
            self._taken[address] = made
            return made

    def free(self, address: int, *, holds: int = 0) -> None:
        """Give a piece back, or hold it until so many ``settle``; raises ``DeviceError``."""
        with self._lock:
            piece = self._taken.pop(address, None)
            if piece is None:
                raise DeviceError(
                    f"{self._device!r} has no allocation at {address:#x}; free each one once",
                    call="free",
                    code="unknown allocation",
                )
            if holds:
                self._held[address] = piece, holds
            else:
                self._extents.give(address, rounded(piece.size_bytes))

    def settle(self, address: int) -> None:
        """Take one hold off a piece; after the last one nothing uses it any more."""
        with self._lock:
            piece, holds = self._held.pop(address)
            if holds > 1:
                self._held[address] = piece, holds - 1
            else:
                self._extents.give(address, rounded(piece.size_bytes))

    def labels(self) -> list[str]:
        """Return the labels of the pieces that are taken, in order of allocation."""
        with self._lock:
            return [piece.label for piece in self._taken.values()]
