"""Single instructions against plain Python, on values at the edges."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable

import numpy as np
import pytest

from tests.device.host.programs import call, plain

M32, M64 = (1 << 32) - 1, (1 << 64) - 1
EDGES32 = (0, 1, 2, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x12345678, 0xCAFEF00D, 255)
EDGES64 = (0, 1, 63, 64, M32, 1 << 32, (1 << 63) - 1, 1 << 63, M64, 0x0123456789ABCDEF)
Reference = Callable[[int, int, int], int]


def s32(value: int) -> int:
    return ((value & M32) ^ 0x80000000) - 0x80000000


def s64(value: int) -> int:
    return ((value & M64) ^ (1 << 63)) - (1 << 63)


def quotient(a: int, b: int) -> int:
    whole = abs(a) // abs(b)
    return whole if (a < 0) == (b < 0) else -whole


def shf_left(a: int, b: int, c: int) -> int:
    return ((b << 32 | a) << (c & 31)) >> 32


def field(a: int, b: int, c: int) -> int:
    position, length = b & 255, c & 255
    return a >> position & ((1 << min(length, 32)) - 1)


def signed_field(a: int, b: int, c: int) -> int:
    position, length = b & 255, c & 255
    if length == 0:
        return 0
    wide = s32(a) >> position
    if length >= 32 or position + length > 32:
        return wide
    value = wide & ((1 << length) - 1)
    return value - (1 << length) if value >> (length - 1) else value


def permute(a: int, b: int, c: int) -> int:
    both = (b << 32 | a).to_bytes(8, "little")
    out = bytearray()
    for index in range(4):
        selector = c >> (4 * index) & 15
        byte = both[selector & 7]
        out.append((255 if byte & 128 else 0) if selector & 8 else byte)
    return int.from_bytes(out, "little")


def lop3(table: int) -> Reference:
    def value(a: int, b: int, c: int) -> int:
        result = 0
        for bit in range(32):
            row = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | (c >> bit & 1)
            result |= (table >> row & 1) << bit
        return result

    return value


INTEGER32: list[tuple[str, Reference]] = [
    ("add.s32 %w, %wa, %wb", lambda a, b, c: a + b),
    ("sub.u32 %w, %wa, %wb", lambda a, b, c: a - b),
    ("mul.lo.s32 %w, %wa, %wb", lambda a, b, c: a * b),
    ("mul.hi.u32 %w, %wa, %wb", lambda a, b, c: a * b >> 32),
    ("mul.hi.s32 %w, %wa, %wb", lambda a, b, c: s32(a) * s32(b) >> 32),
    ("mad.lo.u32 %w, %wa, %wb, %wc", lambda a, b, c: a * b + c),
    ("div.u32 %w, %wa, %wb", lambda a, b, c: a // b if b else M32),
    ("div.s32 %w, %wa, %wb", lambda a, b, c: quotient(s32(a), s32(b)) if b else M32),
    ("rem.u32 %w, %wa, %wb", lambda a, b, c: a % b if b else a),
    ("min.s32 %w, %wa, %wb", lambda a, b, c: min(s32(a), s32(b))),
    ("max.u32 %w, %wa, %wb", lambda a, b, c: max(a, b)),
    ("sad.u32 %w, %wa, %wb, %wc", lambda a, b, c: abs(a - b) + c),
    ("abs.s32 %w, %wa", lambda a, b, c: abs(s32(a))),
    ("neg.s32 %w, %wa", lambda a, b, c: -a),
    ("and.b32 %w, %wa, %wb", lambda a, b, c: a & b),
    ("not.b32 %w, %wa", lambda a, b, c: ~a),
    ("cnot.b32 %w, %wa", lambda a, b, c: int(a == 0)),
    ("shl.b32 %w, %wa, %wb", lambda a, b, c: a << b if b < 32 else 0),
    ("shr.u32 %w, %wa, %wb", lambda a, b, c: a >> b if b < 32 else 0),
    ("shr.s32 %w, %wa, %wb", lambda a, b, c: s32(a) >> min(b, 31)),
    ("shf.l.wrap.b32 %w, %wa, %wb, %wc", shf_left),
    ("shf.r.clamp.b32 %w, %wa, %wb, %wc", lambda a, b, c: (b << 32 | a) >> min(c, 32)),
    ("popc.b32 %w, %wa", lambda a, b, c: a.bit_count()),
    ("clz.b32 %w, %wa", lambda a, b, c: 32 - a.bit_length()),
    ("brev.b32 %w, %wa", lambda a, b, c: int(f"{a:032b}"[::-1], 2)),
    ("bfind.u32 %w, %wa", lambda a, b, c: a.bit_length() - 1),
    ("bfind.s32 %w, %wa", lambda a, b, c: (a ^ (M32 if s32(a) < 0 else 0)).bit_length() - 1),
    ("bfe.u32 %w, %wa, %wb, %wc", field),
    ("bfe.s32 %w, %wa, %wb, %wc", signed_field),
    ("prmt.b32 %w, %wa, %wb, %wc", permute),
    ("lop3.b32 %w, %wa, %wb, %wc, 0xca", lop3(0xCA)),
    ("lop3.b32 %w, %wa, %wb, %wc, 0x96", lop3(0x96)),
    ("cvt.s32.s8 %w, %wa", lambda a, b, c: ((a & 255) ^ 128) - 128),
    ("cvt.u32.u16 %w, %wa", lambda a, b, c: a & 0xFFFF),
    ("cvt.sat.s8.s32 %w, %wa", lambda a, b, c: max(-128, min(127, s32(a)))),
    (
        "setp.lt.s32 %p, %wa, %wb; selp.b32 %w, 7, 9, %p",
        lambda a, b, c: 7 if s32(a) < s32(b) else 9,
    ),
    ("setp.hi.u32 %p, %wa, %wb; selp.b32 %w, %wc, 0, %p", lambda a, b, c: c if a > b else 0),
    ("set.ge.u32.s32 %w, %wa, %wb", lambda a, b, c: M32 if s32(a) >= s32(b) else 0),
    ("slct.b32.s32 %w, %wa, %wb, %wc", lambda a, b, c: a if s32(c) >= 0 else b),
    ("mov.b32 {%h, _}, %wa; cvt.u32.u16 %w, %h", lambda a, b, c: a & 0xFFFF),
    ("mov.b32 %w, {%ha, %hb}", lambda a, b, c: (b & 0xFFFF) << 16 | (a & 0xFFFF)),
    ("mov.u32 %w, 5; setp.eq.u32 %p, %wa, 1; @!%p add.u32 %w, %w, 1", lambda a, b, c: 5 + (a != 1)),
    (
        "setp.ne.u32 %p|%q, %wa, %wb; selp.b32 %w, 1, 0, %q",
        lambda a, b, c: int(a == b),
    ),
]
INTEGER64: list[tuple[str, Reference]] = [
    ("add.s64 %d, %a, %b", lambda a, b, c: a + b),
    ("mul.lo.u64 %d, %a, %b", lambda a, b, c: a * b),
    ("mul.hi.u64 %d, %a, %b", lambda a, b, c: a * b >> 64),
    ("mul.wide.s32 %d, %wa, %wb", lambda a, b, c: s32(a) * s32(b)),
    ("mul.wide.u32 %d, %wa, %wb", lambda a, b, c: (a & M32) * (b & M32)),
    ("mad.wide.u32 %d, %wa, %wb, %c", lambda a, b, c: (a & M32) * (b & M32) + c),
    ("div.s64 %d, %a, %b", lambda a, b, c: quotient(s64(a), s64(b)) if b else M64),
    ("rem.s64 %d, %a, %b", lambda a, b, c: s64(a) - s64(b) * quotient(s64(a), s64(b)) if b else a),
    ("shl.b64 %d, %a, %wb", lambda a, b, c: a << (b & M32) if b & M32 < 64 else 0),
    ("shr.s64 %d, %a, %wb", lambda a, b, c: s64(a) >> min(b & M32, 63)),
    ("clz.b64 %w, %a; cvt.u64.u32 %d, %w", lambda a, b, c: 64 - a.bit_length()),
    ("mov.b64 {%wa, %wb}, %a; mov.b64 %d, {%wb, %wa}", lambda a, b, c: a >> 32 | (a & M32) << 32),
    ("cvt.s64.s32 %d, %wa", lambda a, b, c: s32(a)),
    (
        "add.cc.u32 %wa, %wa, %wb; addc.u32 %w, 0, 0; mov.b64 %d, {%wa, %w}",
        lambda a, b, c: (a & M32) + (b & M32),
    ),
    (
        "sub.cc.u32 %wa, %wa, %wb; subc.u32 %w, 0, 0; mov.b64 %d, {%wa, %w}",
        lambda a, b, c: (a & M32) - (b & M32),
    ),
    (
        "mad.lo.cc.u32 %w, %wa, %wb, %wc; madc.hi.u32 %wa, %wa, %wb, 0; mov.b64 %d, {%w, %wa}",
        lambda a, b, c: (a & M32) * (b & M32) + (c & M32),
    ),
]


def check(rows: list[tuple[str, Reference]], edges: tuple[int, ...], store: str, mask: int) -> None:
    # Each row starts from the arguments again: instructions may change them.
    reload = "cvt.u32.u64 %wa, %a; cvt.u32.u64 %wb, %b; cvt.u32.u64 %wc, %c;"
    body = "".join(f"{reload} {text}; {store % (8 * i)}\n" for i, (text, _) in enumerate(rows))
    program = plain(body)
    for a, b, c in itertools.product(edges, edges, edges[1::3]):
        got = call(program, len(rows), a, b, c)
        for word, (text, reference) in zip(got, rows, strict=True):
            expected = reference(a, b, c) & mask
            assert word == expected, f"{text}: a={a:#x} b={b:#x} c={c:#x}"


def test_32_bit_integers_match_python() -> None:
    """Clamping shifts, division by zero, bit fields, permutations, lop3."""
    check(INTEGER32, EDGES32, "st.u32 [%%out+%d], %%w;", M32)


def test_64_bit_integers_and_carry_chains_match_python() -> None:
    """Wide products, carries, packs."""
    check(INTEGER64, EDGES64, "st.u64 [%%out+%d], %%d;", M64)


FLOATS = (0.0, -0.0, 1.0, -1.5, 2.5, 3.5, 1e30, -1e30, 1e-40, math.inf, -math.inf, math.nan, 0.1)


def bits(value: float) -> int:
    return int.from_bytes(struct.pack("<f", value), "little")


def numpy_float(function: Callable[[np.float32, np.float32, np.float32], object]) -> Reference:
    def value(a: int, b: int, c: int) -> int:
        x, y, z = np.array([a, b, c], np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            result = np.float32(function(x, y, z))  # type: ignore[arg-type]
        return int(result.view(np.uint32))

    return value


def to_int(low: int, high: int, rounding: Callable[[float], float]) -> Reference:
    def value(a: int, b: int, c: int) -> int:
        x = struct.unpack("<f", struct.pack("<I", a))[0]
        if math.isnan(x):
            return 0
        return max(low, min(high, int(rounding(x)))) if math.isfinite(x) else (low, high)[x > 0]

    return value


def smallest(a: np.float32, b: np.float32, c: np.float32) -> np.float32:
    if a == b == 0:
        return a if np.signbit(a) else b
    return np.float32(np.fmin(a, b))


FLOATING: list[tuple[str, Reference]] = [
    ("add.rn.f32 %w, %wa, %wb", numpy_float(lambda a, b, c: a + b)),
    ("sub.f32 %w, %wa, %wb", numpy_float(lambda a, b, c: a - b)),
    ("mul.rn.f32 %w, %wa, %wb", numpy_float(lambda a, b, c: a * b)),
    ("div.rn.f32 %w, %wa, %wb", numpy_float(lambda a, b, c: a / b)),
    ("sqrt.rn.f32 %w, %wa", numpy_float(lambda a, b, c: np.sqrt(a))),
    ("min.f32 %w, %wa, %wb", numpy_float(smallest)),
    ("neg.f32 %w, %wa", lambda a, b, c: a ^ 0x80000000),
    ("abs.f32 %w, %wa", lambda a, b, c: a & 0x7FFFFFFF),
    ("cvt.rzi.s32.f32 %w, %wa", to_int(-(1 << 31), (1 << 31) - 1, math.trunc)),
    ("cvt.rni.u32.f32 %w, %wa", to_int(0, M32, round)),
    ("cvt.rmi.s32.f32 %w, %wa", to_int(-(1 << 31), (1 << 31) - 1, math.floor)),
    ("cvt.rpi.f32.f32 %w, %wa", numpy_float(lambda a, b, c: np.ceil(a))),
    ("cvt.rn.f32.s32 %w, %wa", lambda a, b, c: bits(float(np.float32(s32(a))))),
    ("setp.ne.f32 %p, %wa, %wb; selp.b32 %w, 1, 0, %p", lambda a, b, c: unequal(a, b, False)),
    ("setp.neu.f32 %p, %wa, %wb; selp.b32 %w, 1, 0, %p", lambda a, b, c: unequal(a, b, True)),
    ("cvt.f64.f32 %d, %wa; mul.f64 %d, %d, 0d4000000000000000; cvt.rn.f32.f64 %w, %d",
     numpy_float(lambda a, b, c: np.float64(a) * 2.0)),
    ("mov.b32 %w, 0f3F800000; fma.rn.f32 %w, %wa, %w, %wb", numpy_float(lambda a, b, c: a + b)),
]  # fmt: skip


def unequal(a: int, b: int, with_nan: bool) -> int:
    x, y = (struct.unpack("<f", struct.pack("<I", v))[0] for v in (a, b))
    if math.isnan(x) or math.isnan(y):
        return int(with_nan)
    return int(x != y)


def is_nan(word: int) -> bool:
    return word & 0x7FFFFFFF > 0x7F800000


def test_floats_match_numpy_bit_for_bit() -> None:
    """IEEE results, saturating conversions, NaN in comparisons; NaN payloads are left out."""
    body = "".join(f"{t}; st.u32 [%out+{8 * i}], %w;\n" for i, (t, _) in enumerate(FLOATING))
    program = plain(body)
    for x, y in itertools.product(FLOATS, FLOATS):
        a, b = bits(x), bits(y)
        for word, (text, reference) in zip(
            call(program, len(FLOATING), a, b, 0), FLOATING, strict=True
        ):
            expected = reference(a, b, 0) & M32
            both_nan = is_nan(word) and is_nan(expected)
            assert word == expected or both_nan, f"{text}: {x} {y}: {word:#x} {expected:#x}"


def test_half_precision_conversions() -> None:
    """f16 is for conversions only."""
    program = plain(
        "cvt.rn.f16.f32 %h, %wa; st.b16 [%out], %h; cvt.f32.f16 %w, %h; st.b32 [%out+8], %w;"
    )
    for value in (0.0, 1.0, -2.5, 65504.0, 1e-7, 0.1):
        half = np.float16(value)
        expected = [int(half.view(np.uint16)), bits(float(half))]
        assert call(program, 2, bits(value), 0, 0) == expected


def test_atomics_return_the_old_value() -> None:
    """inc and dec wrap as PTX says; cas, exch, min, max, f32 add."""
    program = plain(
        """
        st.u32 [%out], %wa;
        atom.inc.u32 %w, [%out], %wb; st.u32 [%out+8], %w;
        atom.dec.u32 %w, [%out], %wb; st.u32 [%out+16], %w;
        atom.cas.b32 %w, [%out], %wa, %wc; st.u32 [%out+24], %w;
        atom.max.s32 %w, [%out], 7; st.u32 [%out+32], %w;
        atom.exch.b32 %w, [%out], 0f3F800000; st.u32 [%out+40], %w;
        red.add.f32 [%out], 0f40000000;
        """
    )
    got = call(program, 6, 5, 9, 3)
    assert got == [bits(3.0), 5, 6, 5, 3, 7]
    got = call(program, 6, 9, 9, 3)
    assert got == [bits(3.0), 9, 0, 9, 3, 7]


def test_narrow_accesses_truncate_and_extend() -> None:
    """A narrow store keeps the low bits; a narrow load fills the register."""
    program = plain(
        """
        st.u64 [%out], -1; st.u8 [%out], %wa; ld.s8 %w, [%out]; st.u32 [%out+8], %w;
        ld.u8 %w, [%out]; st.u32 [%out+16], %w; ld.s16 %d, [%out]; st.u64 [%out+24], %d;
        st.v2.b32 [%out+32], {%wa, %wb}; ld.v2.u16 {%h, _}, [%out+36]; cvt.u32.u16 %w, %h;
        st.u32 [%out+40], %w;
        """
    )
    got = call(program, 6, 0x12345680, 0xABCD1234, 0)
    assert got[1:4] == [0xFFFFFF80, 0x80, M64 - 0x7F]
    assert got[4:] == [0xABCD1234_12345680, 0x1234]


@pytest.mark.parametrize("mode", ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"])
def test_prmt_modes(mode: str) -> None:
    """Each mode against the table of the PTX manual."""
    tables = {
        "f4e": ["3210", "4321", "5432", "6543"],
        "b4e": ["5670", "6701", "7012", "0123"],
        "rc8": ["0000", "1111", "2222", "3333"],
        "ecl": ["3210", "3211", "3222", "3333"],
        "ecr": ["0000", "1110", "2210", "3210"],
        "rc16": ["1010", "3232", "1010", "3232"],
    }
    program = plain(f"prmt.b32.{mode} %w, %wa, %wb, %wc; st.u32 [%out], %w;")
    for control in range(4):
        picks = [int(digit) for digit in reversed(tables[mode][control])]
        source = bytes(range(0x10, 0x18))
        expected = int.from_bytes(bytes(source[pick] for pick in picks), "little")
        assert call(program, 1, 0x13121110, 0x17161514, control) == [expected]
