"""Memory of the host device: zeroed pages from the system, with a limit that is accounted for.

- Poisoned memory is filled when it is freed, and kept until newer pieces push it out: who reads
  it sees ``POISON`` instead of another kernel's data, and a write to it is found.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
from collections import deque
from typing import Final, Protocol

from ringflow.errors import DeviceError, DeviceMemoryError

HUGE_PAGE_FROM_BYTES: Final = 4 << 20
POISON: Final = 0xDD
KEPT_BYTES_MAX: Final = 64 << 20
_CHUNK_BYTES: Final = 1 << 20


class HostAllocation:
    """Zeroed, page-aligned memory; kernels and the host see it at the same address."""

    __slots__ = ("__weakref__", "_address", "_label", "_pages", "_size_bytes")

    def __init__(self, size_bytes: int, *, label: str, gap_bytes: int = 0) -> None:
        """Take memory; ``gap_bytes`` of addresses after it belong to no other piece."""
        assert size_bytes > 0, f"{label} has no bytes"
        self._pages: mmap.mmap | None = mmap.mmap(-1, size_bytes + gap_bytes)
        if size_bytes >= HUGE_PAGE_FROM_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages
                self._pages.madvise(mmap.MADV_HUGEPAGE)
        anchor = ctypes.c_char.from_buffer(self._pages)
        self._address = ctypes.addressof(anchor)
        self._size_bytes = size_bytes
        self._label = label

    @property
    def address(self) -> int:
        return self._address

    @property
    def host_address(self) -> int:
        return self._address

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def label(self) -> str:
        return self._label

    @property
    def view(self) -> memoryview:
        """The memory itself: uint8[size_bytes], writable."""
        if self._pages is None:
            raise DeviceError(f"allocation {self._label!r} was freed", call="view", code="freed")
        return memoryview(self._pages)[: self._size_bytes]

    def release(self) -> None:
        """Give the pages back; where views of them live, when the last of these has gone."""
        if self._pages is not None:
            with contextlib.suppress(BufferError):
                self._pages.close()
            self._pages = None


class Poisoned:
    """Freed memory that is kept for a while, filled with ``POISON``; its bytes are bounded."""

    def __init__(self, *, verify: bool = True) -> None:
        """``verify``: look for writes to it; else it is kept only so that none harms others."""
        self._verify = verify
        self._kept: deque[HostAllocation] = deque()
        self._kept_bytes = 0

    def add(self, allocation: HostAllocation) -> list[str]:
        """Fill and keep memory; return the labels of pushed out pieces that were written to."""
        ctypes.memset(allocation.address, POISON, allocation.size_bytes)
        self._kept.append(allocation)
        self._kept_bytes += allocation.size_bytes
        return self._release(KEPT_BYTES_MAX)

    def close(self) -> list[str]:
        """Give everything back; return the labels of the pieces that were written to."""
        return self._release(0)

    def _release(self, bytes_max: int) -> list[str]:
        written = []
        while self._kept_bytes > bytes_max:
            oldest = self._kept.popleft()
            self._kept_bytes -= oldest.size_bytes
            if self._verify and not _is_poison(oldest.view):
                written.append(oldest.label)
            oldest.release()
        return written


def _is_poison(memory: memoryview) -> bool:
    pattern = bytes([POISON]) * min(len(memory), _CHUNK_BYTES)
    return all(
        memory[start : start + _CHUNK_BYTES] == pattern[: len(memory) - start]
        for start in range(0, len(memory), _CHUNK_BYTES)
    )


class Make(Protocol):
    """What makes an allocation."""

    def __call__(self, size_bytes: int, *, label: str) -> HostAllocation: ...


class Arena:
    """Accounts for a device's allocations against its limit."""

    def __init__(
        self,
        device: str,
        limit_bytes: int,
        *,
        poison_freed: bool = False,
        keep_freed: bool = False,
        gap_bytes: int = 0,
    ) -> None:
        """``keep_freed``: as ``poison_freed``, but nobody looks whether it is written to."""
        self._device = device
        self._gap_bytes = gap_bytes
        keeps = poison_freed or keep_freed
        self._poisoned = Poisoned(verify=poison_freed) if keeps else None
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._used_bytes = 0
        self._allocations: dict[int, HostAllocation] = {}

    @property
    def limit_bytes(self) -> int:
        return self._limit_bytes

    @property
    def free_bytes(self) -> int:
        return self._limit_bytes - self._used_bytes

    def allocate(self, size_bytes: int, *, label: str, make: Make | None = None) -> HostAllocation:
        """Take zeroed memory; raises ``DeviceMemoryError`` past the limit.

        Args:
            make: makes it from a size and a label; by default it has pages of its own.
        """
        with self._lock:
            if size_bytes > self.free_bytes:
                raise DeviceMemoryError(self._device, size_bytes, self.free_bytes)
            try:
                if make is not None:
                    made = make(size_bytes, label=label)
                else:
                    made = HostAllocation(size_bytes, label=label, gap_bytes=self._gap_bytes)
            except OSError as error:
                raise DeviceMemoryError(self._device, size_bytes, self.free_bytes) from error
            self._used_bytes += size_bytes
            self._allocations[made.address] = made
        return made

    def free(self, address: int) -> None:
        """Give an allocation back.

        Raises:
            DeviceError: it is not one, or no longer; or poisoned memory that had to go now was
                written to after it had been freed (this allocation is free all the same).
        """
        with self._lock:
            allocation = self._allocations.pop(address, None)
            if allocation is None:
                raise DeviceError(
                    f"{self._device!r} has no allocation at {address:#x}; free each one once",
                    call="free",
                    code="unknown allocation",
                )
            self._used_bytes -= allocation.size_bytes
            if self._poisoned is None:
                allocation.release()
                return
            written = self._poisoned.add(allocation)
        self._check_written(written)

    def _check_written(self, labels: list[str]) -> None:
        if labels:
            raise DeviceError(
                f"memory of {self._device!r} was written to after it had been freed: "
                f"{', '.join(labels)}; look for a kernel that outlives its regions",
                call="free",
                code="written after free",
            )

    def find(self, address: int) -> HostAllocation | None:
        """Return the allocation that starts at an address."""
        return self._allocations.get(address)

    def allocations(self) -> list[HostAllocation]:
        """Return what is allocated, in order of allocation."""
        with self._lock:
            return list(self._allocations.values())

    def labels(self) -> list[str]:
        """Return the labels of what is allocated, in order of allocation."""
        return [allocation.label for allocation in self._allocations.values()]

    def close(self) -> None:
        """Give all memory back; raises ``DeviceError`` if poisoned memory was written to."""
        with self._lock:
            for allocation in self._allocations.values():
                allocation.release()
            self._allocations.clear()
            self._used_bytes = 0
            written = self._poisoned.close() if self._poisoned else []
        self._check_written(written)
