"""Memory of the host device: zeroed pages from the system, with a limit that is accounted for."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
from typing import Final

from ringflow.errors import DeviceError, DeviceMemoryError

HUGE_PAGE_FROM_BYTES: Final = 4 << 20


class HostAllocation:
    """Zeroed, page-aligned memory; kernels and the host see it at the same address."""

    def __init__(self, size_bytes: int, *, label: str) -> None:
        assert size_bytes > 0, f"{label} has no bytes"
        self._pages: mmap.mmap | None = mmap.mmap(-1, size_bytes)
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
        return memoryview(self._pages)

    def release(self) -> None:
        """Give the pages back; where views of them live, when the last of these has gone."""
        if self._pages is not None:
            with contextlib.suppress(BufferError):
                self._pages.close()
            self._pages = None


class Arena:
    """Accounts for a device's allocations against its limit."""

    def __init__(self, device: str, limit_bytes: int) -> None:
        self._device = device
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

    def allocate(self, size_bytes: int, *, label: str) -> HostAllocation:
        """Take zeroed memory; raises ``DeviceMemoryError`` past the limit."""
        with self._lock:
            if size_bytes > self.free_bytes:
                raise DeviceMemoryError(self._device, size_bytes, self.free_bytes)
            try:
                made = HostAllocation(size_bytes, label=label)
            except OSError as error:
                raise DeviceMemoryError(self._device, size_bytes, self.free_bytes) from error
            self._used_bytes += size_bytes
            self._allocations[made.address] = made
        return made

    def free(self, address: int) -> None:
        """Give an allocation back; raises ``DeviceError`` if it is not one, or no longer."""
        with self._lock:
            allocation = self._allocations.pop(address, None)
            if allocation is None:
                raise DeviceError(
                    f"{self._device!r} has no allocation at {address:#x}; free each one once",
                    call="free",
                    code="unknown allocation",
                )
            self._used_bytes -= allocation.size_bytes
            allocation.release()

    def find(self, address: int) -> HostAllocation | None:
        """Return the allocation that starts at an address."""
        return self._allocations.get(address)

    def labels(self) -> list[str]:
        """Return the labels of what is allocated, in order of allocation."""
        return [allocation.label for allocation in self._allocations.values()]

    def close(self) -> None:
        """Give all memory back."""
        for address in list(self._allocations):
            self.free(address)
