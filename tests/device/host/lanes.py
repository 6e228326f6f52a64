"""Run rows of PTX on arrays: each thread takes one set of inputs, each row gives one result."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import numpy as np

from ringflow.device.host.program import Program
from ringflow.device.host.translate import translate
from tests.device.host import model
from tests.device.host.model import mask
from tests.device.host.programs import HEAD, run

Model = Callable[[int, int, int], int]
Case = tuple[str, str, int, Model]
"""A row's text and result, the bits of the result that count, and what it should be."""
Words = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]
_INPUTS = "abc"


@attrs.frozen
class Row:
    """Statements that leave their result in %w (32 bits), %d (64), %h (16) or %p.

    Inputs are %a, %b, %c (64 bits), their low halves %wa, %wb, %wc and low quarters %ha, %hb, %hc.
    """

    text: str
    result: str = "%w"


_STORE = {
    "%w": "cvt.u64.u32 %d, %w;",
    "%h": "cvt.u64.u16 %d, %h;",
    "%p": "selp.u64 %d, 1, 0, %p;",
    "%d": "",
}


def program_of(rows: list[Row], *, registers: str = "") -> Program:
    """Return a module with ``k(a, b, c, out, n)``; a row's results lie side by side in out."""
    reload = "".join(
        f"mov.b64 %{x}, %i{x}; cvt.u32.u64 %w{x}, %i{x}; cvt.u16.u64 %h{x}, %i{x};\n"
        for x in _INPUTS
    )
    body = "".join(
        f"{reload}{row.text};\n{_STORE[row.result]} st.global.u64 [%at], %d; "
        "add.u64 %at, %at, %step;\n"
        for row in rows
    )
    loads = "".join(
        f"ld.param.u64 %at, [{x}]; mad.wide.u32 %at, %i, 8, %at; ld.global.u64 %i{x}, [%at];\n"
        for x in _INPUTS
    )
    text = f"""{HEAD}
.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 out, .param .u32 n)
{{
    .reg .b64 %ia, %ib, %ic, %a, %b, %c, %d, %e, %at, %step;
    .reg .b32 %wa, %wb, %wc, %w, %v, %i, %n;
    .reg .b16 %ha, %hb, %hc, %h;
    .reg .pred %p, %q, %in;
    {registers}
    mov.u32 %w, %ctaid.x;
    mov.u32 %v, %ntid.x;
    mov.u32 %i, %tid.x;
    mad.lo.u32 %i, %w, %v, %i;
    ld.param.u32 %n, [n];
    setp.ge.u32 %in, %i, %n;
    @%in bra done;
    mul.wide.u32 %step, %n, 8;
    {loads}
    ld.param.u64 %at, [out];
    mad.wide.u32 %at, %i, 8, %at;
    {body}
done:
    ret;
}}
"""
    return translate(text)


def results_of(
    program: Program, row_count: int, a: Words, b: Words, c: Words, *, block: int = 64
) -> Words:
    """Return uint64[rows, n]; blocks of fewer than eight threads run thread by thread."""
    n = len(a)
    out = np.zeros((row_count, n), np.uint64)
    run(program, "k", (n + block - 1) // block, block, a, b, c, out, n)
    return out


def combinations(*edges: tuple[int, ...]) -> tuple[Words, Words, Words]:
    """Return every combination of three lists of words."""
    grid = np.meshgrid(*[np.array(edge, np.uint64) for edge in edges], indexing="ij")
    a, b, c = (np.ascontiguousarray(axis.ravel()) for axis in grid)
    return a, b, c


def bound(function: Callable[..., int], *more: object) -> Model:
    """Return ``function`` of a, b, c and the arguments given here."""
    return lambda a, b, c: function(a, b, c, *more)


EDGES = (0, 1, 2, 7, 31, 32, 33, 63, 64, 255, 256, 0x7FFFFFFF, 0x80000000, mask(32), 0xCAFEF00D,
         1 << 32, (1 << 63) - 1, 1 << 63, mask(64), 0x0123456789ABCDEF, mask(64) - 31)  # fmt: skip
AMOUNTS = (0, 1, 5, 15, 16, 31, 32, 33, 63, 64, 65, 255, 256, 1 << 31, mask(32))
BLOCKS = (64, 4)
"""Blocks of 64 threads run as vectors, of 4 thread by thread."""


def check(
    rows: Sequence[Case],
    edges: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
    *,
    floats: int = 0,
    registers: str = "",
) -> None:
    """Compare rows of (text, result, bits, model); ``floats`` is the width in which NaNs match."""
    a, b, c = combinations(*edges)
    inputs = [(int(x), int(y), int(z)) for x, y, z in zip(a, b, c, strict=True)]
    for first in range(0, len(rows), 30):
        part = rows[first : first + 30]
        program = program_of(
            [Row(text, result) for text, result, _, _ in part], registers=registers
        )
        for block in BLOCKS:
            got = results_of(program, len(part), a, b, c, block=block)
            for (text, _, bits, reference), words in zip(part, got, strict=True):
                for given, word in zip(inputs, words.tolist(), strict=True):
                    expected = reference(*given) & mask(bits)
                    if word == expected:
                        continue
                    both = floats and model.is_nan(word, floats) and model.is_nan(expected, floats)
                    shown = ", ".join(f"{x:#x}" for x in given)
                    assert both, f"{text}: {shown}: {word:#x}, not {expected:#x} (block {block})"


def both_widths(template: str, reference: Callable[[int, int, int, int], int]) -> list[Case]:
    """Return rows for 32 and 64 bits; the template names {n}, {d}, {a}, {b}, {c}."""
    rows: list[Case] = []
    for bits in (32, 64):
        w = "w" if bits == 32 else ""
        target = "%w" if bits == 32 else "%d"
        names = {"n": bits, "d": target, "a": f"%{w}a", "b": f"%{w}b", "c": f"%{w}c"}

        def narrowed(a: int, b: int, c: int, bits: int = bits) -> int:
            return reference(a & mask(bits), b & mask(bits), c & mask(bits), bits)

        rows.append((template.format(**names), target, bits, narrowed))
    return rows
