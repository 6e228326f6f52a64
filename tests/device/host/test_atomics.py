"""Every atomic against a written model, alone and with many threads at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from ringflow.device.host.translate import translate
from tests.device.host import model
from tests.device.host.lanes import EDGES, Case, bound, check
from tests.device.host.model import mask, signed
from tests.device.host.programs import HEAD, run

Change = Callable[[int, int, int, int], int]
"""The new value from the old one, the operand, the second operand, and the width."""

INTEGER: dict[str, tuple[str, Change]] = {
    "add": ("us", lambda old, b, c, n: old + b),
    "min": ("us", lambda old, b, c, n: min(old, b)),
    "max": ("us", lambda old, b, c, n: max(old, b)),
    "and": ("b", lambda old, b, c, n: old & b),
    "or": ("b", lambda old, b, c, n: old | b),
    "xor": ("b", lambda old, b, c, n: old ^ b),
    "exch": ("b", lambda old, b, c, n: b),
    "cas": ("b", lambda old, b, c, n: c if old == b else old),
    "inc": ("u", lambda old, b, c, n: 0 if old >= b else old + 1),
    "dec": ("u", lambda old, b, c, n: b if old == 0 or old > b else old - 1),
}
FLOATS = {
    32: (0, 1 << 31, 0x3F800000, 0x33800000, 0x7F7FFFFF, 0xFF800000, 0x7FC00000, 1),
    64: (0, 1 << 63, 0x3FF0000000000000, 0x3CA0000000000000, 0x7FEFFFFFFFFFFFFF, 1),
}
PLACES = {
    "global": ("", "[%at]"),
    "generic": ("", "[%at]"),
    "shared": (
        "mov.u32 %v, %tid.x; shl.b32 %v, %v, 3; mov.u32 %w, cells; add.u32 %v, %v, %w; "
        "cvt.u64.u32 %e, %v; ",
        "[%e]",
    ),
}


def rows_of(space: str, operation: str, kind: str, bits: int, change: Change) -> list[Case]:
    """Return rows for what an atomic gives and for what it leaves, and for red."""
    prepare, cell = PLACES[space]
    where = "" if space == "generic" else f".{space}"
    target, b, c = ("%w", "%wb", "%wc") if bits == 32 else ("%d", "%b", "%c")
    operands = f"{b}, {c}" if operation == "cas" else b
    orders = ("", ".relaxed.cta", ".acq_rel.sys") if space == "global" else ("",)

    def old(x: int, y: int, z: int) -> int:
        return x

    def new(x: int, y: int, z: int, bits: int, kind: str) -> int:
        def read(word: int) -> int:
            return signed(word, bits) if kind == "s" else word & mask(bits)

        return change(read(x), read(y), read(z), bits)

    start = f"{prepare}st{where}.u64 {cell}, %a; "
    finish = f"; ld{where}.b{bits} {target}, {cell}"
    rows: list[Case] = []
    for order in orders:
        text = f"{start}atom{order}{where}.{operation}.{kind}{bits} {target}, {cell}, {operands}"
        rows.append((text, target, bits, old))
        rows.append((text + finish, target, bits, bound(new, bits, kind)))
    if operation not in ("exch", "cas"):
        text = f"{start}red{where}.{operation}.{kind}{bits} {cell}, {operands}{finish}"
        rows.append((text, target, bits, bound(new, bits, kind)))
    return rows


@pytest.mark.parametrize("space", list(PLACES))
def test_integer_atomics(space: str) -> None:
    """What they return, what they leave; inc and dec wrap at their operand."""
    rows: list[Case] = []
    for operation, (kinds, change) in INTEGER.items():
        for kind, bits in itertools.product(kinds, (32, 64)):
            if (operation in ("inc", "dec") and bits == 64) or kind + str(bits) == "s64":
                continue
            rows += rows_of(space, operation, kind, bits, change)
    rows += rows_of(space, "min", "s", 64, INTEGER["min"][1])
    edges = (EDGES[::2], (*EDGES[::3], 5, 4), EDGES[::7])
    check(rows, edges, registers=".shared .align 8 .b8 cells[512];")


@pytest.mark.parametrize("bits", [32, 64])
def test_float_atomics(bits: int) -> None:
    """Sums round to nearest even and keep denormals."""
    rows: list[Case] = []
    for space in PLACES:
        rows += rows_of(space, "add", "f", bits, lambda old, b, c, n: model.add(old, b, n, "rn"))
    values = FLOATS[bits]
    check(rows, (values, values, (0,)), floats=bits, registers=".shared .align 8 .b8 cells[512];")


def test_a_narrow_compare_and_swap() -> None:
    """cas of 16 bits leaves its neighbours alone."""
    start = "st.global.u64 [%at], %a; atom.global.cas.b16 %h, [%at], %hb, %hc"
    rows: list[Case] = [
        (start, "%h", 16, lambda a, b, c: a),
        (
            start + "; ld.global.u64 %d, [%at]",
            "%d",
            64,
            lambda a, b, c: a & ~0xFFFF | (c if (a ^ b) & 0xFFFF == 0 else a) & 0xFFFF,
        ),
    ]
    check(rows, (EDGES, EDGES[::2], EDGES[::3]))


MANY = f"""{HEAD}
.visible .entry k(.param .u64 cells, .param .u32 rounds)
{{
    .shared .align 4 .b8 own[4];
    .reg .b64 %c; .reg .b32 %i, %n, %t, %w, %s; .reg .f32 %f; .reg .pred %p, %q;
    ld.param.u64 %c, [cells];
    ld.param.u32 %n, [rounds];
    mov.u32 %w, %ctaid.x; mov.u32 %t, %ntid.x; mov.u32 %i, %tid.x;
    mad.lo.u32 %t, %w, %t, %i;
    mov.u32 %s, own;
    setp.eq.u32 %p, %i, 0;
    @%p st.shared.u32 [own], 0;
    bar.sync 0;
    mov.u32 %i, 0;
    mov.f32 %f, 0f3F000000;
loop:
    red.global.add.u32 [%c], 3;
    red.global.max.u32 [%c+4], %t;
    red.global.xor.b32 [%c+8], %t;
    red.global.inc.u32 [%c+12], 99;
    red.global.add.f32 [%c+16], %f;
    red.relaxed.gpu.global.or.b32 [%c+20], %t;
    red.shared.add.u32 [%s], 1;
try:
    ld.volatile.global.u32 %w, [%c+24];
    add.u32 %t, %w, 1;
    atom.global.cas.b32 %t, [%c+24], %w, %t;
    setp.ne.u32 %q, %t, %w;
    @%q bra try;
    mov.u32 %w, %ctaid.x; mov.u32 %t, %ntid.x;
    mul.lo.u32 %t, %w, %t; mov.u32 %w, %tid.x; add.u32 %t, %t, %w;
    add.u32 %i, %i, 1;
    setp.lt.u32 %q, %i, %n;
    @%q bra loop;
    bar.sync 0;
    @!%p bra done;
    ld.shared.u32 %w, [own];
    red.global.add.u32 [%c+28], %w;
done:
    ret;
}}
"""


@pytest.mark.parametrize("threads", [33, 256])
def test_atomics_of_many_threads_lose_nothing(threads: int) -> None:
    """Counts, extremes and a loop of compare-and-swap over several blocks."""
    cells = np.zeros(8, np.uint32)
    blocks, rounds = 3, 5
    run(translate(MANY), "k", blocks, threads, cells, rounds)
    total, every = blocks * threads * rounds, range(blocks * threads)
    odd = 0
    for thread in every:
        odd ^= thread  # an odd number of rounds
    ored = 0
    for thread in every:
        ored |= thread
    assert cells[:4].tolist() == [3 * total, blocks * threads - 1, odd, total % 100]
    assert cells[4:5].view(np.float32)[0] == total / 2
    assert cells[5:].tolist() == [ored, total, total]
