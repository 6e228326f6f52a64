"""What the code of a launch may touch under memcheck: a sorted table that the code itself reads.

- A table never changes; a new one is made and its address stored in the launch's cell. Old ones
  live as long as the launch's bounds, since a running thread may still look at them.
- A persistent kernel has its own allocations; a plain launch whatever its device has allocated.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs

from ringflow.device.host import cta
from ringflow.device.host.program import EntryLayout, Program
from ringflow.device.host.runtime import MISUSE, runtime_address

_READ_ONLY: Final = 1


@attrs.frozen(order=True)
class Range:
    """A piece of memory and what it is called."""

    begin: int
    size_bytes: int
    label: str
    read_only: bool = False

    @property
    def end(self) -> int:
        return self.begin + self.size_bytes


EVERYTHING: Final = Range(1 << 12, (1 << 47) - (1 << 12), "memory")


class Bounds:
    """The ranges of one launch, and the cell from which its code takes their table."""

    def __init__(self, ranges: Iterable[Range]) -> None:
        self._cell = ctypes.c_uint64()
        self._tables: list[object] = []
        self.ranges: tuple[Range, ...] = ()
        self.replace(ranges)

    @property
    def cell_address(self) -> int:
        return ctypes.addressof(self._cell)

    def replace(self, ranges: Iterable[Range]) -> None:
        """Let the code use other ranges from here on; none may overlap another."""
        self.ranges = tuple(sorted(piece for piece in ranges if piece.size_bytes))
        words = [len(self.ranges)]
        for piece in self.ranges:
            words += [piece.begin, piece.end, _READ_ONLY if piece.read_only else 0]
        table = (ctypes.c_uint64 * len(words))(*words)
        self._tables.append(table)
        self._cell.value = ctypes.addressof(table)

    def arm(self, context: int, layout: EntryLayout) -> None:
        """Write into a CTA's header what memcheck needs there, before its first step."""
        for offset, kind, value in (
            (cta.BOUNDS, ctypes.c_uint64, self.cell_address),
            (cta.MISUSE, ctypes.c_uint64, runtime_address(MISUSE)),
            (cta.RESERVED_SHARED, ctypes.c_uint32, layout.reserved_shared_bytes),
        ):
            kind.from_address(context + offset).value = value


def globals_of(program: Program) -> list[Range]:
    """Return the ranges of a program's own variables."""
    return [
        Range(variable.address, variable.size_bytes, variable.name, not variable.mutable)
        for variable in program.globals.values()
    ]


class BoundsKeeper:
    """Hands out the bounds of a device's launches, and keeps the open ones up to date."""

    def __init__(self, allocations: Callable[[], Sequence[Range]]) -> None:
        """``allocations`` returns what the device has allocated now."""
        self._allocations = allocations
        self._lock = threading.Lock()
        self._open: weakref.WeakKeyDictionary[Bounds, Program] = weakref.WeakKeyDictionary()

    def of_kernel(self, program: Program, memory: Iterable[Range]) -> Bounds:
        """Return the bounds of a launch that may touch its own memory only."""
        return Bounds([*memory, *globals_of(program)])

    def of_plain_launch(self, program: Program) -> Bounds:
        """Return the bounds of a launch that may touch all that the device has allocated."""
        with self._lock:
            made = Bounds([*self._allocations(), *globals_of(program)])
            self._open[made] = program
        return made

    def changed(self, *, leaving: int = 0) -> None:
        """Note that the device has allocated something, or is about to free what is at an address.

        Code learns of it at its next access; the one that it is at may still be made.
        """
        with self._lock:
            for bounds, program in self._open.items():
                left = [piece for piece in self._allocations() if piece.begin != leaving]
                bounds.replace([*left, *globals_of(program)])
