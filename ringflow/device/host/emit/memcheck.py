"""memcheck: every access is compared with the memory that the kernel may touch, before it is made.

- A shared or local access is compared with the block's or the thread's own memory.
- Any other is compared with the range that this place in the code hit last; where that does not
  fit, the runtime looks in the launch's table, and keeps what it finds at the site.
- Sites lie in the CTA, in front of its shared variables, after the local variables of native
  calls; a changed table makes them void.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ringflow.device.host import cta
from ringflow.device.host.control_flow.graph import Trap
from ringflow.device.host.emit.guarded import LOCALS_BEGIN, LOCALS_BYTES
from ringflow.device.host.ptx.ast import Function, Instruction

if TYPE_CHECKING:
    from ringflow.device.host.emit.core import ModuleContext
    from ringflow.device.host.emit.region import RegionEmitter

MEMORY_TRAP: Final = Trap(cta.TRAP_MEMORY, 0)
SITE_BYTES: Final = 32
SITES_MAX: Final = 256
_ACCESSES: Final = frozenset({"ld", "ldu", "st", "atom", "red"})
_SPACES: Final = {"shared": cta.SPACE_SHARED, "local": cta.SPACE_LOCAL}


def site_count(function: Function) -> int:
    """Return how many sites a kernel keeps; past the most that there are, accesses share them."""
    count = sum(
        isinstance(statement, Instruction) and statement.parts[0] in _ACCESSES
        for statement in function.body or ()
    )
    return min(max(count, 1), SITES_MAX)


def sites_offset_bytes(context: ModuleContext) -> int:
    """Return where the sites begin: after the local variables of native calls."""
    return LOCALS_BEGIN + (LOCALS_BYTES if context.guarded else 0)


def reserved_bytes(context: ModuleContext, function: Function) -> int:
    """Return what is kept in front of a kernel's shared variables."""
    if not context.memcheck:
        return 0
    end = sites_offset_bytes(context) + site_count(function) * SITE_BYTES
    return end + -end % 128


def emit_check(
    emitter: RegionEmitter, pointer: str, space: str, kind: int, size_bytes: int
) -> None:
    """Compare an access through an LLVM pointer; a wrong one is noted, and ends the thread."""
    address = emitter.value(f"ptrtoint ptr {pointer} to i64")
    site = "null"
    if space in _SPACES:
        good = _in_own_memory(emitter, address, space, size_bytes)
    else:
        site = _next_site(emitter)
        good = _hits(emitter, address, site)
    if size_bytes > 1:
        low = emitter.value(f"and i64 {address}, {size_bytes - 1}")
        aligned = emitter.value(f"icmp eq i64 {low}, 0")
        good = emitter.value(f"and i1 {good}, {aligned}")
    slow, bad, on = emitter.label("slow"), emitter.label("bad"), emitter.label("on")
    emitter.emit(f"br i1 {good}, label %{on}, label %{slow}, !prof !8")
    emitter.place(slow)
    access = kind | size_bytes << 8 | _SPACES.get(space, cta.SPACE_GENERIC) << 16
    answer = emitter.extern(
        "ringflow_memcheck",
        "i32",
        "ptr %cta",
        "i32 %thread",
        f"i64 {address}",
        f"i32 {access}",
        f"i32 {emitter.line()}",
        f"ptr {site}",
    )
    allowed = emitter.value(f"icmp ne i32 {answer}, 0")
    emitter.emit(f"br i1 {allowed}, label %{on}, label %{bad}")
    emitter.place(bad)
    emitter.finish(str(cta.STATE_TRAPPED | emitter.plan.traps.index(MEMORY_TRAP)))
    emitter.place(on)


def _in_own_memory(emitter: RegionEmitter, address: str, space: str, size_bytes: int) -> str:
    if space == "shared":
        begin = emitter.offset(emitter.shared_base(), emitter.memory.reserved_bytes)
        total = emitter.value(f"sub i64 {emitter.shared_bytes()}, {emitter.memory.reserved_bytes}")
    else:
        begin = emitter.local_base()
        total = emitter.resize(emitter.header(cta.LOCAL_BYTES), 32, 64)
    offset = emitter.value(f"sub i64 {address}, {begin}")
    begins = emitter.value(f"icmp ult i64 {offset}, {total}")
    end = emitter.value(f"add i64 {offset}, {size_bytes}")
    ends = emitter.value(f"icmp ule i64 {end}, {total}")
    return emitter.value(f"and i1 {begins}, {ends}")


def _next_site(emitter: RegionEmitter) -> str:
    begin = sites_offset_bytes(emitter.context)
    number = emitter.sites % ((emitter.memory.reserved_bytes - begin) // SITE_BYTES)
    emitter.sites += 1
    return emitter.pointer(emitter.shared_base(), begin + number * SITE_BYTES)


def _hits(emitter: RegionEmitter, address: str, site: str) -> str:
    """Whether the access lies in the range kept at the site, and the table is still the same."""
    cell = emitter.header(cta.BOUNDS, "i64")
    table = emitter.value(f"load atomic i64, ptr {emitter.pointer(cell)} monotonic, align 8")
    words = []
    for offset_bytes in (0, 8, 16):
        place = emitter.value(f"getelementptr i8, ptr {site}, i64 {offset_bytes}")
        words.append(emitter.value(f"load i64, ptr {place}, align 8"))
    same = emitter.value(f"icmp eq i64 {table}, {words[0]}")
    offset = emitter.value(f"sub i64 {address}, {words[1]}")
    inside = emitter.value(f"icmp ult i64 {offset}, {words[2]}")
    return emitter.value(f"and i1 {same}, {inside}")
