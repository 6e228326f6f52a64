"""Single integer instructions against a written model, on every combination of edges."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from tests.device.host import model
from tests.device.host.lanes import (
    AMOUNTS,
    EDGES,
    Case,
    Row,
    both_widths,
    bound,
    check,
    program_of,
    results_of,
)
from tests.device.host.model import mask, signed

M32, M64 = mask(32), mask(64)


def shift(direction: str, kind: str) -> Callable[[int, int, int, int], int]:
    def value(a: int, b: int, c: int, bits: int) -> int:
        amount = min(b & M32, bits)
        if direction == "shl":
            return a << amount
        return (signed(a, bits) if kind == "s" else a) >> amount

    return value


def test_shifts_out_of_range_clamp() -> None:
    """Amounts are unsigned and 32 bits wide; shf clamps or wraps."""
    rows = both_widths("shl.b{n} {d}, {a}, %wb", shift("shl", "b"))
    rows += both_widths("shr.u{n} {d}, {a}, %wb", shift("shr", "u"))
    rows += both_widths("shr.s{n} {d}, {a}, %wb", shift("shr", "s"))
    rows += both_widths("shr.b{n} {d}, {a}, %wb", shift("shr", "u"))
    rows += [
        ("shl.b16 %h, %ha, %wb", "%h", 16, lambda a, b, c: (a & 0xFFFF) << min(b & M32, 16)),
        ("shr.u16 %h, %ha, %wb", "%h", 16, lambda a, b, c: (a & 0xFFFF) >> min(b & M32, 16)),
        ("shr.s16 %h, %ha, %wb", "%h", 16, lambda a, b, c: signed(a, 16) >> min(b & M32, 16)),
        ("shl.b32 %w, %wa, 40", "%w", 32, lambda a, b, c: 0),
        ("shr.s32 %w, %wa, 40", "%w", 32, lambda a, b, c: signed(a, 32) >> 31),
    ]
    for mode, limit in (("wrap", lambda n: n & 31), ("clamp", lambda n: min(n, 32))):
        rows += [
            (
                f"shf.l.{mode}.b32 %w, %wa, %wc, %wb",
                "%w",
                32,
                bound(lambda a, b, c, f: ((c & M32) << 32 | a & M32) << f(b & M32) >> 32, limit),
            ),
            (
                f"shf.r.{mode}.b32 %w, %wa, %wc, %wb",
                "%w",
                32,
                bound(lambda a, b, c, f: ((c & M32) << 32 | a & M32) >> f(b & M32), limit),
            ),
        ]
    check(rows, (EDGES, AMOUNTS, EDGES[::5]))


def divide(a: int, b: int, c: int, bits: int) -> int:
    return model.quotient(signed(a, bits), signed(b, bits)) if b else -1


def remainder(a: int, b: int, c: int, bits: int) -> int:
    if not b:
        return a
    x, y = signed(a, bits), signed(b, bits)
    return x - y * model.quotient(x, y)


def test_division_by_zero_and_of_the_smallest() -> None:
    """x / 0 is all ones, x rem 0 is x, INT_MIN / -1 wraps."""
    rows = both_widths("div.s{n} {d}, {a}, {b}", divide)
    rows += both_widths("rem.s{n} {d}, {a}, {b}", remainder)
    rows += both_widths("div.u{n} {d}, {a}, {b}", lambda a, b, c, n: a // b if b else -1)
    rows += both_widths("rem.u{n} {d}, {a}, {b}", lambda a, b, c, n: a % b if b else a)
    rows += [
        ("div.s16 %h, %ha, %hb", "%h", 16, lambda a, b, c: divide(a & 0xFFFF, b & 0xFFFF, 0, 16)),
        ("rem.u16 %h, %ha, %hb", "%h", 16, lambda a, b, c: remainder16(a & 0xFFFF, b & 0xFFFF)),
    ]
    check(rows, (EDGES, EDGES, (0,)))


def remainder16(a: int, b: int) -> int:
    return a % b if b else a


def saturated(value: int) -> int:
    return model.clamp(value, -(1 << 31), (1 << 31) - 1)


def dot(a: int, b: int, c: int, kinds: str, *, half: str = "") -> int:
    """dp4a without ``half``, dp2a with it; kinds says s or u for a and for b."""
    count, bits = (2, 16) if half else (4, 8)
    first = 2 if half == "hi" else 0
    total = c
    for index in range(count):
        x = a >> (bits * index) & mask(bits)
        y = b >> (8 * (first + index)) & 255
        x = signed(x, bits) if kinds[0] == "s" else x
        total += x * (signed(y, 8) if kinds[1] == "s" else y)
    return total


def test_products_sums_and_saturation() -> None:
    """Halves of products, sums that saturate, 24-bit products, dot products of bytes."""
    rows = both_widths("mul.hi.u{n} {d}, {a}, {b}", lambda a, b, c, n: a * b >> n)
    rows += both_widths(
        "mul.hi.s{n} {d}, {a}, {b}", lambda a, b, c, n: signed(a, n) * signed(b, n) >> n
    )
    rows += both_widths(
        "mad.hi.s{n} {d}, {a}, {b}, {c}", lambda a, b, c, n: (signed(a, n) * signed(b, n) >> n) + c
    )
    rows += both_widths("mad.lo.u{n} {d}, {a}, {b}, {c}", lambda a, b, c, n: a * b + c)
    rows += both_widths(
        "sad.s{n} {d}, {a}, {b}, {c}", lambda a, b, c, n: abs(signed(a, n) - signed(b, n)) + c
    )
    rows += both_widths("sad.u{n} {d}, {a}, {b}, {c}", lambda a, b, c, n: abs(a - b) + c)
    rows += both_widths(
        "min.s{n} {d}, {a}, {b}", lambda a, b, c, n: min(signed(a, n), signed(b, n))
    )
    rows += both_widths("max.u{n} {d}, {a}, {b}", lambda a, b, c, n: max(a, b))
    rows += both_widths("abs.s{n} {d}, {a}", lambda a, b, c, n: abs(signed(a, n)))
    rows += both_widths("cnot.b{n} {d}, {a}", lambda a, b, c, n: int(not a))
    rows += [
        ("mul.wide.s16 %w, %ha, %hb", "%w", 32, lambda a, b, c: signed(a, 16) * signed(b, 16)),
        ("mul.wide.u16 %w, %ha, %hb", "%w", 32, lambda a, b, c: (a & 65535) * (b & 65535)),
        (
            "mad.wide.s32 %d, %wa, %wb, %c",
            "%d",
            64,
            lambda a, b, c: signed(a, 32) * signed(b, 32) + c,
        ),
        (
            "add.sat.s32 %w, %wa, %wb",
            "%w",
            32,
            lambda a, b, c: saturated(signed(a, 32) + signed(b, 32)),
        ),
        (
            "sub.sat.s32 %w, %wa, %wb",
            "%w",
            32,
            lambda a, b, c: saturated(signed(a, 32) - signed(b, 32)),
        ),
        (
            "mad.hi.sat.s32 %w, %wa, %wb, %wc",
            "%w",
            32,
            lambda a, b, c: saturated((signed(a, 32) * signed(b, 32) >> 32) + signed(c, 32)),
        ),
        ("mul24.lo.s32 %w, %wa, %wb", "%w", 32, lambda a, b, c: signed(a, 24) * signed(b, 24)),
        (
            "mul24.hi.u32 %w, %wa, %wb",
            "%w",
            32,
            lambda a, b, c: (a & mask(24)) * (b & mask(24)) >> 16,
        ),
        (
            "mad24.hi.sat.s32 %w, %wa, %wb, %wc",
            "%w",
            32,
            lambda a, b, c: saturated(
                signed(signed(a, 24) * signed(b, 24) >> 16, 32) + signed(c, 32)
            ),
        ),
        *[
            (
                f"dp4a.{x}32.{y}32 %w, %wa, %wb, %wc",
                "%w",
                32,
                bound(lambda a, b, c, k: dot(a, b, c, k), x + y),
            )
            for x in "su"
            for y in "su"
        ],
        *[
            (
                f"dp2a.{half}.{x}32.{y}32 %w, %wa, %wb, %wc",
                "%w",
                32,
                bound(lambda a, b, c, k, h: dot(a, b, c, k, half=h), x + y, half),
            )
            for half in ("lo", "hi")
            for x in "su"
            for y in "su"
        ],
    ]
    check(rows, (EDGES, EDGES, EDGES[::4]))


def extract(kind: str) -> Callable[[int, int, int, int], int]:
    def value(a: int, b: int, c: int, bits: int) -> int:
        position, length = b & 255, c & 255
        if not length:
            return 0
        if kind == "u":
            return a >> position & mask(length)
        return signed(signed(a, bits) >> position & mask(length), length)

    return value


def insert(a: int, b: int, c: int, bits: int) -> int:
    position, length = b & 255, c & 255
    field = mask(length) << position & mask(bits)
    return a << position & field | ~a & mask(bits) & ~field


def test_bit_fields_beyond_the_word() -> None:
    """Positions and lengths are 8 bits wide and may reach past the word; an empty field is 0."""
    rows = both_widths("bfe.u{n} {d}, {a}, %wb, %wc", extract("u"))
    rows += both_widths("bfe.s{n} {d}, {a}, %wb, %wc", extract("s"))
    rows += both_widths("not.b{n} {d}, {a}; bfi.b{n} {d}, {a}, {d}, %wb, %wc", insert)
    check(rows, (EDGES, AMOUNTS, AMOUNTS))


def find(kind: str, *, amount: bool = False) -> Callable[[int, int, int, int], int]:
    def value(a: int, b: int, c: int, bits: int) -> int:
        if kind == "s" and a >> (bits - 1):
            a ^= mask(bits)
        top = a.bit_length() - 1
        return top if top < 0 or not amount else bits - 1 - top

    return value


def narrow_result(template: str, reference: Callable[[int, int, int, int], int]) -> list[Case]:
    """Rows whose result has 32 bits whatever the source."""
    rows = both_widths(template.replace("{d}", "%w"), reference)
    return [(text, "%w", 32, row) for text, _, _, row in rows]


def test_counting_and_finding_bits() -> None:
    """bfind of nothing is all ones; clz of nothing is the width."""
    rows = narrow_result("bfind.u{n} {d}, {a}", find("u"))
    rows += narrow_result("bfind.s{n} {d}, {a}", find("s"))
    rows += narrow_result("bfind.shiftamt.u{n} {d}, {a}", find("u", amount=True))
    rows += narrow_result("bfind.shiftamt.s{n} {d}, {a}", find("s", amount=True))
    rows += narrow_result("popc.b{n} {d}, {a}", lambda a, b, c, n: a.bit_count())
    rows += narrow_result("clz.b{n} {d}, {a}", lambda a, b, c, n: n - a.bit_length())
    rows += both_widths("brev.b{n} {d}, {a}", lambda a, b, c, n: int(f"{a:0{n}b}"[::-1], 2))
    rows.append(
        (
            "bmsk.clamp.b32 %w, %wa, %wb",
            "%w",
            32,
            lambda a, b, c: mask(min(b & M32, 32)) << min(a & M32, 32),
        )
    )
    check(rows, ((*EDGES, *(1 << n for n in range(0, 64, 3))), AMOUNTS, (0,)))


def permute(a: int, b: int, c: int) -> int:
    data = ((b & M32) << 32 | a & M32).to_bytes(8, "little")
    out = bytearray()
    for index in range(4):
        selector = c >> (4 * index) & 15
        byte = data[selector & 7]
        out.append((255 if byte & 128 else 0) if selector & 8 else byte)
    return int.from_bytes(out, "little")


def lookup(table: int, a: int, b: int, c: int) -> int:
    result = 0
    for row in range(8):
        if table >> row & 1:
            picks = [x if row >> (2 - i) & 1 else ~x for i, x in enumerate((a, b, c))]
            result |= picks[0] & picks[1] & picks[2]
    return result & M32


def test_permutations_and_lookups() -> None:
    """prmt with its sign mode on every selector; lop3 with every table."""
    selectors = tuple(range(16)) + tuple(0x1111 * n for n in range(16)) + (0x3210, 0xFEDC, 0x5A5A)
    bytes_ = (0x80FF0102, 0x7F8000FE, 0x01020384, M32)
    rows = [("prmt.b32 %w, %wa, %wb, %wc", "%w", 32, permute)]
    check(rows, (bytes_, bytes_[::-1], selectors))
    tables: list[Case] = [
        (
            f"lop3.b32 %w, %wa, %wb, %wc, {n}",
            "%w",
            32,
            bound(lambda a, b, c, n: lookup(n, a, b, c), n),
        )
        for n in range(256)
    ]
    tables.append(
        (
            "setp.ne.u32 %q, %wb, 0; lop3.or.b32 %w|%p, %wa, %wb, %wc, 0x80, %q",
            "%p",
            1,
            lambda a, b, c: int(bool(lookup(0x80, a, b, c)) or bool(b & M32)),
        )
    )
    check(tables, ((0xF0F0F0F0,), (0xCCCCCCCC, 0), (0xAAAAAAAA,)))


def test_carry_chains() -> None:
    """Sums, differences and products of 128 bits from pieces, with every carry."""
    add = (
        "mov.b64 {%wa, %wb}, %a; mov.b64 {%v, %wc}, %b; add.cc.u32 %wa, %wa, %v; "
        "addc.cc.u32 %wb, %wb, %wc; addc.u32 %w, 0, 0; "
    )
    subtract = add.replace("add.cc", "sub.cc").replace("addc", "subc")
    product = (
        "mov.b64 {%wa, %wb}, %a; cvt.u32.u64 %wc, %c; mul.lo.u32 %v, %wa, %wc; "
        "mad.lo.cc.u32 %v, %wa, %wc, %wb; madc.hi.u32 %w, %wa, %wc, 7"
    )
    rows: list[Case] = [
        (add, "%w", 32, lambda a, b, c: a + b >> 64),
        (add + "mov.b64 %d, {%wa, %wb}", "%d", 64, lambda a, b, c: a + b),
        (subtract, "%w", 32, lambda a, b, c: -1 if a < b else 0),
        (subtract + "mov.b64 %d, {%wa, %wb}", "%d", 64, lambda a, b, c: a - b),
        (product, "%w", 32, lambda a, b, c: ((a & M32) * (c & M32) + (a >> 32) >> 32) + 7),
        ("add.cc.u64 %d, %a, %b; addc.u64 %d, %c, 0", "%d", 64, lambda a, b, c: c + (a + b >> 64)),
        ("sub.cc.s64 %d, %a, %b; subc.s64 %d, %c, 0", "%d", 64, lambda a, b, c: c - (a < b)),
        (
            "mad.hi.cc.u32 %v, %wa, %wb, %wc; addc.u32 %w, 0, 0",
            "%w",
            32,
            lambda a, b, c: ((a & M32) * (b & M32) >> 32) + (c & M32) >> 32,
        ),
    ]
    check(rows, (EDGES, EDGES, EDGES[::3]))


def test_conversions_between_integers() -> None:
    """Truncation, extension and saturation between all widths."""
    rows: list[Case] = []
    for (x, of), (y, to) in itertools.product(itertools.product("su", (8, 16, 32, 64)), repeat=2):
        target = "%d" if to == 64 else "%w" if to == 32 else "%h"
        low, high = (-(1 << (to - 1)), mask(to - 1)) if y == "s" else (0, mask(to))

        def read(a: int, x: str = x, of: int = of) -> int:
            return signed(a, of) if x == "s" else a & mask(of)

        def put(value: int, y: str = y, to: int = to) -> int:
            return signed(value, to) if y == "s" else value & mask(to)

        width = max(to, 16)
        rows.append(
            (
                f"cvt.{y}{to}.{x}{of} {target}, %a",
                target,
                width,
                bound(lambda a, b, c, r, p: p(r(a)), read, put),
            )
        )
        rows.append(
            (
                f"cvt.sat.{y}{to}.{x}{of} {target}, %a",
                target,
                width,
                bound(lambda a, b, c, r, low, high: model.clamp(r(a), low, high), read, low, high),
            )
        )
    check(rows, ((*EDGES, 0x80, 0x7F, 0xFF80, 0x8000, 0x12345678), (0,), (0,)))


def test_selections_and_combined_comparisons() -> None:
    """setp with and, or, xor and its second result; set, selp, slct."""
    rows: list[Case] = []
    for join, f in (
        ("and", lambda x, y: x and y),
        ("or", lambda x, y: x or y),
        ("xor", lambda x, y: x != y),
    ):
        for sign in ("", "!"):
            text = f"setp.gt.s32 %q, %wc, 3; setp.lt.{join}.s32 %p|%in, %wa, %wb, {sign}%q"
            rows += [
                (
                    text,
                    "%p",
                    1,
                    bound(lambda a, b, c, f, s: int(f(less(a, b), above(c, s))), f, sign),
                ),
                (
                    text + "; mov.pred %p, %in",
                    "%p",
                    1,
                    bound(lambda a, b, c, f, s: int(f(not less(a, b), above(c, s))), f, sign),
                ),
            ]
    rows += [
        ("set.hi.u32.u32 %w, %wa, %wb", "%w", 32, lambda a, b, c: -int(a & M32 > b & M32)),
        (
            "set.ls.f32.u32 %w, %wa, %wb",
            "%w",
            32,
            lambda a, b, c: model.one(32) if a & M32 <= b & M32 else 0,
        ),
        ("slct.u64.s32 %d, %a, %b, %wc", "%d", 64, lambda a, b, c: a if signed(c, 32) >= 0 else b),
        ("slct.b32.f32 %w, %wa, %wb, %wc", "%w", 32, lambda a, b, c: a if sign_selects(c) else b),
        (
            "slct.f32.s32 %w, 1.5, 0f40000000, %wc",
            "%w",
            32,
            lambda a, b, c: 0x3FC00000 if signed(c, 32) >= 0 else 0x40000000,
        ),
    ]
    check(rows, (EDGES, EDGES[::2], (*EDGES[::3], 0x7FC00000, 3, 4)))


def less(a: int, b: int) -> bool:
    return signed(a, 32) < signed(b, 32)


def above(c: int, sign: str) -> bool:
    return (signed(c, 32) > 3) != (sign == "!")


def sign_selects(c: int) -> bool:
    word = c & M32
    return not model.is_nan(word, 32) and (
        not model.sign_of(word, 32) or not model.magnitude(word, 32)
    )


def test_every_result_depends_on_the_row() -> None:
    """The harness keeps rows apart: neighbours see their own inputs."""
    program = program_of(
        [
            Row("add.u64 %d, %a, %b", "%d"),
            Row("mov.b64 %a, 0; mov.b64 %d, %c", "%d"),
            Row("mov.b64 %d, %a", "%d"),
        ]
    )
    a = np.arange(10, dtype=np.uint64)
    got = results_of(program, 3, a, a + 1, a + 2)
    assert got.tolist() == [(2 * a + 1).tolist(), (a + 2).tolist(), a.tolist()]
