"""What a trapped block says of itself, from its header, in words for the kernel's author."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Final

from ringflow.device.host import cta
from ringflow.device.host.bounds import Range
from ringflow.device.host.emit.guarded import LOCALS_BEGIN, LOCALS_BYTES
from ringflow.device.host.program import EntryLayout, Program

_KINDS: Final = {cta.ACCESS_LOAD: "load", cta.ACCESS_STORE: "store", cta.ACCESS_ATOMIC: "atomic"}
_CALLS: Final = {
    cta.ACCESS_DEPTH: ("call", ": calls are nested too deeply"),
    cta.ACCESS_FUEL: (
        "endless call",
        ": a function that calls itself, or is called through a pointer, does not end, and cannot "
        "give way",
    ),
    cta.ACCESS_CALL: ("call", ": the pointer is not that of a function with these parameters"),
}
_NULL_BYTES: Final = 1 << 16
_NOT_WAITING: Final = 0xFFFFFFFF


class _Header:
    """Reads the words of a CTA's header."""

    def __init__(self, context: int) -> None:
        self._context = context

    def __getitem__(self, offset_bytes: int) -> int:
        return ctypes.c_uint32.from_address(self._context + offset_bytes).value

    def address(self, offset_bytes: int) -> int:
        return ctypes.c_uint64.from_address(self._context + offset_bytes).value

    def thread(self, number: int) -> str:
        x, y = self[cta.BLOCK_X], self[cta.BLOCK_Y]
        return str((number % x, number // x % y, number // (x * y)))

    @property
    def block(self) -> str:
        return str(tuple(self[offset] for offset in (cta.INDEX_X, cta.INDEX_Y, cta.INDEX_Z)))


def describe_trap(context: int, entry: str, program: Program, ranges: Sequence[Range] = ()) -> str:
    """Return what trapped and where: kind, kernel, block, thread, place in the source.

    Args:
        context: address of the CTA that trapped.
        ranges: what the launch may touch, under memcheck.
    """
    header = _Header(context)
    kind, thread = header[cta.TRAP_KIND], header[cta.TRAP_THREAD]
    if kind in (cta.TRAP_LEFT, cta.TRAP_DIVERGED, cta.TRAP_STUCK):
        return _misuse(header, kind, entry, program)
    what, why = cta.TRAP_NAMES.get(kind, "trap"), ""
    line = header[cta.TRAP_LINE]
    if kind == cta.TRAP_MEMORY:
        what, why = _access(header, program.entries[entry], ranges)
        thread, line = header[cta.FAULT_THREAD], header[cta.FAULT_LINE]
    return (
        f"{what} in kernel {entry!r}, block {header.block}, thread {header.thread(thread)}, "
        f"{program.position(line)}{why}"
    )


def _misuse(header: _Header, kind: int, entry: str, program: Program) -> str:
    lines = program.entries[entry].region_lines

    def place(region: int) -> str:
        return program.position(lines[region]) if region < len(lines) else "its end"

    waiting = (
        f"{cta.TRAP_NAMES[kind]} in kernel {entry!r}, block {header.block}: thread "
        f"{header.thread(header[cta.TRAP_THREAD])} waits at a barrier or warp collective, "
        f"{place(header[cta.TRAP_LINE])}, "
    )
    thread, region = header[cta.FAULT_THREAD], header[cta.FAULT_LINE]
    other = header.thread(thread)
    if kind == cta.TRAP_LEFT:
        return waiting + f"which thread {other} has left the kernel without"
    if thread == header[cta.TRAP_THREAD]:
        own = "whose mask leaves it out" if kind == cta.TRAP_DIVERGED else "for what never comes"
        return waiting + own
    return waiting + f"while thread {other} waits at another one, {place(region)}"


def _access(header: _Header, layout: EntryLayout, ranges: Sequence[Range]) -> tuple[str, str]:
    """Return what was done to which address, and why that is wrong."""
    access, address = header[cta.FAULT_ACCESS], header.address(cta.FAULT_ADDRESS)
    if access & 0xFF in _CALLS:
        return _CALLS[access & 0xFF]
    size, space = access >> 8 & 0xFF, access >> 16
    what = f"{_KINDS.get(access & 0xFF, 'access')} of {size} bytes at {address:#x}"
    if address % size:
        return what, f": the address is no multiple of {size}"
    if space == cta.SPACE_GENERIC:
        return what, ": " + _why(header, layout, ranges, address, size)
    if space == cta.SPACE_SHARED:
        base = header.address(cta.SHARED) + layout.reserved_shared_bytes
        total, name = header[cta.SHARED_BYTES] - layout.reserved_shared_bytes, "shared"
    else:
        total, name = header[cta.LOCAL_BYTES], "local"
        base = header.address(cta.LOCAL) + header[cta.FAULT_THREAD] * total
    own = Range(base, total, f"{name} memory")
    return what.replace(" at ", f" of {name} memory at "), f": {_distance(own, address, size)}"


def _why(
    header: _Header, layout: EntryLayout, ranges: Sequence[Range], address: int, size: int
) -> str:
    for piece in ranges:
        if piece.begin <= address and address + size <= piece.end:
            return f"{piece.label!r} is constant"
    if address < _NULL_BYTES:
        return "a null pointer"
    local, local_bytes = header.address(cta.LOCAL), header[cta.LOCAL_BYTES]
    offset = address - header.address(cta.SHARED)
    if 0 <= offset < LOCALS_BEGIN + LOCALS_BYTES < layout.reserved_shared_bytes:
        return "past the local variables of the call"
    shared = header.address(cta.SHARED) + layout.reserved_shared_bytes
    own = [Range(shared, header[cta.SHARED_BYTES] - layout.reserved_shared_bytes, "shared memory")]
    if local_bytes:
        thread = (address - local) // local_bytes
        if 0 <= thread < header[cta.THREADS]:
            if thread != header[cta.FAULT_THREAD]:
                return f"that is local memory of thread {header.thread(thread)}"
            own.append(Range(local + thread * local_bytes, local_bytes, "local memory"))
    candidates = [*ranges, *own]
    nearest = min(candidates, key=_farness(address, size))
    return _distance(nearest, address, size)


def _farness(address: int, size: int) -> Callable[[Range], int]:
    return lambda piece: max(piece.begin - address - size + 1, address - piece.end + 1, 0)


def _distance(piece: Range, address: int, size: int) -> str:
    name = f"{piece.label!r} ({piece.size_bytes} bytes)"
    if address >= piece.end:
        return f"{address - piece.end} bytes past the end of {name}, the nearest"
    if address < piece.begin:
        if address + size > piece.begin:
            return f"it begins {piece.begin - address} bytes before {name}"
        return f"{piece.begin - address} bytes before {name}, the nearest"
    return f"it ends {address + size - piece.end} bytes past the end of {name}"
