"""Single float instructions and conversions against exact fractions, rounded once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction

import pytest

from tests.device.host import model
from tests.device.host.lanes import (
    EDGES,
    Case,
    Model,
    bound,
    check,
)
from tests.device.host.model import mask, signed

M32 = mask(32)
FLOATS32 = (
    0,
    1 << 31,
    1,
    0x80000001,
    0x007FFFFF,
    0x00800000,
    0x3F800000,
    0xBF800000,
    0x3F800001,
    0x40490FDB,
    0xC2C80000,
    0x4B7FFFFF,
    0x4F000000,
    0xCF000000,
    0x7F7FFFFF,
    0xFF7FFFFF,
    0x7F800000,
    0xFF800000,
    0x7FC00000,
    0x33800000,
    0x3F000000,
    0x40200000,
)
FLOATS64 = (
    0,
    1 << 63,
    1,
    0x000FFFFFFFFFFFFF,
    0x3FF0000000000000,
    0xBFF0000000000001,
    0x400921FB54442D18,
    0x41DFFFFFFFC00000,
    0x43E0000000000000,
    0xC3E0000000000000,
    0x7FEFFFFFFFFFFFFF,
    0x7FF0000000000000,
    0xFFF0000000000000,
    0x7FF8000000000000,
    0x3CA0000000000000,
    0x47EFFFFFF0000000,
    0x3810000000000001,
    0x36A0000000000000,
    0x40EFFC0000000000,
    0x3F10000000000001,
    0x40EFFE0000000000,
)
FLOATS16 = (
    0,
    0x8000,
    1,
    0x03FF,
    0x0400,
    0x3C00,
    0xBC01,
    0x4248,
    0x7BFF,
    0xFBFF,
    0x7C00,
    0xFC00,
    0x7E00,
    0x1400,
    0x5640,
)


def rounded_rows(bits: int) -> list[Case]:
    w, target = ("w", "%w") if bits == 32 else ("", "%d")
    operations: list[tuple[str, str, Callable[[int, int, int, str], int]]] = [
        ("add", "%{w}a, %{w}b", lambda a, b, c, m: model.add(a, b, bits, m)),
        ("sub", "%{w}a, %{w}b", lambda a, b, c, m: model.subtract(a, b, bits, m)),
        ("mul", "%{w}a, %{w}b", lambda a, b, c, m: model.multiply(a, b, bits, m)),
        ("div", "%{w}a, %{w}b", lambda a, b, c, m: model.divide(a, b, bits, m)),
        ("fma", "%{w}a, %{w}b, %{w}c", lambda a, b, c, m: model.fma(a, b, c, bits, m)),
        ("sqrt", "%{w}a", lambda a, b, c, m: model.square_root(a, bits, m)),
        ("rcp", "%{w}a", lambda a, b, c, m: model.divide(model.one(bits), a, bits, m)),
    ]
    return [
        (
            f"{name}.{mode}.f{bits} {target}, {operands.format(w=w)}",
            target,
            bits,
            bound(lambda a, b, c, f, m: f(a, b, c, m), function, mode),
        )
        for name, operands, function in operations
        for mode in model.MODES
    ]


@pytest.mark.parametrize("bits", [32, 64])
def test_rounding_modes(bits: int) -> None:
    """Every mode of every arithmetic instruction against exact fractions rounded once."""
    values = FLOATS32 if bits == 32 else FLOATS64
    check(rounded_rows(bits), (values, values, values[::7]), floats=bits)


def test_flushing_to_zero() -> None:
    """With .ftz, denormal operands and results become zeros of the same sign."""

    def flushed(function: Model) -> Model:
        return lambda a, b, c: model.flush(function(*(model.flush(x, 32) for x in (a, b, c))), 32)

    def row(text: str, function: Model) -> Case:
        return text, "%w", 32, flushed(function)

    rows = [
        row("add.ftz.f32 %w, %wa, %wb", lambda a, b, c: model.add(a, b, 32, "rn")),
        row("sub.rz.ftz.f32 %w, %wa, %wb", lambda a, b, c: model.subtract(a, b, 32, "rz")),
        row("mul.rn.ftz.f32 %w, %wa, %wb", lambda a, b, c: model.multiply(a, b, 32, "rn")),
        row("div.rp.ftz.f32 %w, %wa, %wb", lambda a, b, c: model.divide(a, b, 32, "rp")),
        row("fma.rm.ftz.f32 %w, %wa, %wb, %wc", lambda a, b, c: model.fma(a, b, c, 32, "rm")),
        row("sqrt.rn.ftz.f32 %w, %wa", lambda a, b, c: model.square_root(a, 32, "rn")),
        row("min.ftz.f32 %w, %wa, %wb", lambda a, b, c: model.smaller(a, b, 32)),
        row("max.ftz.f32 %w, %wa, %wb", lambda a, b, c: model.larger(a, b, 32)),
        row("neg.ftz.f32 %w, %wa", lambda a, b, c: a ^ 1 << 31),
        row("abs.ftz.f32 %w, %wa", lambda a, b, c: a & mask(31)),
        row("cvt.rpi.ftz.f32.f32 %w, %wa", lambda a, b, c: to_whole(a)),
        (
            "setp.eq.ftz.f32 %p, %wa, 0f00000000",
            "%p",
            1,
            lambda a, b, c: int(model.magnitude(model.flush(a, 32), 32) == 0),
        ),
        (
            "cvt.rpi.ftz.s32.f32 %w, %wa",
            "%w",
            32,
            lambda a, b, c: model.to_integer(model.flush(a, 32), 32, -(1 << 31), mask(31), "rpi"),
        ),
        (
            "cvt.ftz.f64.f32 %d, %wa",
            "%d",
            64,
            lambda a, b, c: model.convert(model.flush(a, 32), 32, 64, "rn"),
        ),
    ]
    check(rows[:-1], (FLOATS32, FLOATS32, FLOATS32[1::6]), floats=32)
    check(rows[-1:], (FLOATS32, (0,), (0,)), floats=64)


def to_whole(a: int) -> int:
    """cvt.rpi of a float to a float."""
    if model.is_nan(a, 32) or model.is_infinite(a, 32):
        return a
    value = model.whole(model.value_of(a, 32), "rpi")
    return model.encode(Fraction(value), 32, "rn", zero_sign=model.sign_of(a, 32))


def extremes(bits: int) -> list[Case]:
    w, target = ("w", "%w") if bits == 32 else ("", "%d")
    rows: list[Case] = [
        (
            f"min.f{bits} {target}, %{w}a, %{w}b",
            target,
            bits,
            lambda a, b, c: model.smaller(a, b, bits),
        ),
        (
            f"max.f{bits} {target}, %{w}a, %{w}b",
            target,
            bits,
            lambda a, b, c: model.larger(a, b, bits),
        ),
        (
            f"copysign.f{bits} {target}, %{w}a, %{w}b",
            target,
            bits,
            lambda a, b, c: b & mask(bits - 1) | a & 1 << (bits - 1),
        ),
    ]
    for how, holds in COMPARISONS.items():
        for unordered in ("", "u"):
            rows += [
                (
                    f"setp.{how}{unordered}.f{bits} %p, %{w}a, %{w}b",
                    "%p",
                    1,
                    bound(lambda a, b, c, f, u: compared(a, b, bits, f, u), holds, unordered),
                )
            ]
    rows += [
        (
            f"setp.num.f{bits} %p, %{w}a, %{w}b",
            "%p",
            1,
            lambda a, b, c: int(not model.is_nan(a, bits) and not model.is_nan(b, bits)),
        ),
        (
            f"setp.nan.f{bits} %p, %{w}a, %{w}b",
            "%p",
            1,
            lambda a, b, c: int(model.is_nan(a, bits) or model.is_nan(b, bits)),
        ),
    ]
    classes: dict[str, Callable[[int], bool]] = {
        "notanumber": lambda a: model.is_nan(a, bits),
        "number": lambda a: not model.is_nan(a, bits),
        "infinite": lambda a: model.is_infinite(a, bits),
        "finite": lambda a: not model.is_nan(a, bits) and not model.is_infinite(a, bits),
        "subnormal": lambda a: model.is_subnormal(a, bits),
        "normal": lambda a: (
            not (model.is_nan(a, bits) or model.is_infinite(a, bits) or model.is_subnormal(a, bits))
        ),
    }
    rows += [
        (f"testp.{name}.f{bits} %p, %{w}a", "%p", 1, bound(lambda a, b, c, f: int(f(a)), test))
        for name, test in classes.items()
    ]
    return rows


COMPARISONS: dict[str, Callable[[int], bool]] = {
    "eq": lambda order: order == 0,
    "ne": lambda order: order != 0,
    "lt": lambda order: order < 0,
    "le": lambda order: order <= 0,
    "gt": lambda order: order > 0,
    "ge": lambda order: order >= 0,
}


def compared(a: int, b: int, bits: int, holds: Callable[[int], bool], unordered: str) -> int:
    if model.is_nan(a, bits) or model.is_nan(b, bits):
        return int(bool(unordered))
    less, more = model.ordered_less(a, b, bits), model.ordered_less(b, a, bits)
    return int(holds(more - less))


@pytest.mark.parametrize("bits", [32, 64])
def test_nan_and_signed_zeros(bits: int) -> None:
    """min and max pass a number by, -0 < +0 there but not in comparisons; testp's classes."""
    values = FLOATS32 if bits == 32 else FLOATS64
    check(extremes(bits), (values, values, (0,)), floats=bits)


def test_minimum_that_passes_nan_on() -> None:
    """With .NaN, one NaN is enough; .sat takes NaN for 0."""

    def passing(function: Callable[[int, int, int], int]) -> Model:
        def value(a: int, b: int, c: int) -> int:
            one_is = model.is_nan(a, 32) or model.is_nan(b, 32)
            return model.nan(32) if one_is else function(a, b, 32)

        return value

    def saturated_sum(a: int, b: int, c: int) -> int:
        total = model.add(a, b, 32, "rn")
        if model.is_nan(total, 32) or model.sign_of(total, 32):
            return 0
        return min(total, model.one(32))

    rows: list[Case] = [
        ("min.NaN.f32 %w, %wa, %wb", "%w", 32, passing(model.smaller)),
        ("max.NaN.f32 %w, %wa, %wb", "%w", 32, passing(model.larger)),
        ("add.sat.f32 %w, %wa, %wb", "%w", 32, saturated_sum),
    ]
    check(rows, (FLOATS32, FLOATS32, (0,)), floats=32)


def conversion_rows() -> list[Case]:
    rows: list[Case] = []
    for of, source in ((32, "%wa"), (64, "%a"), (16, "%ha")):
        for kind, to in itertools.product("su", (8, 16, 32, 64)):
            target = "%d" if to == 64 else "%w" if to == 32 else "%h"
            low, high = (-(1 << (to - 1)), mask(to - 1)) if kind == "s" else (0, mask(to))
            for mode in ("rni", "rzi", "rmi", "rpi"):
                rows += [
                    (
                        f"cvt.{mode}.{kind}{to}.f{of} {target}, {source}",
                        target,
                        max(to, 16),
                        bound(
                            lambda a, b, c, of, low, high, mode: model.to_integer(
                                a & mask(of), of, low, high, mode
                            ),
                            of,
                            low,
                            high,
                            mode,
                        ),
                    )
                ]
    return rows


def test_conversions_to_integers_saturate() -> None:
    """Every width, sign and rounding; NaN gives 0, infinities the ends."""
    halves = tuple(x | 0x3F800000_00000000 for x in FLOATS16)
    values = (*FLOATS32, *FLOATS64, *halves, 0x4F7FFFFF, 0x437F8000, 0xC3008000, 0x41DFFFFFFFE00000)
    check(conversion_rows(), (values, (0,), (0,)))


def test_conversions_to_floats_round_once() -> None:
    """Integers and wider floats in every mode; f64 to f16 does not round twice."""
    integers: list[Case] = []
    for kind, of, to, mode in itertools.product("su", (32, 64), (16, 32, 64), model.MODES):
        target = {16: "%h", 32: "%w", 64: "%d"}[to]
        source = "%wa" if of == 32 else "%a"
        integers.append(
            (
                f"cvt.{mode}.f{to}.{kind}{of} {target}, {source}",
                target,
                to,
                bound(
                    lambda a, b, c, k, of, to, m: model.encode(
                        Fraction(signed(a, of) if k == "s" else a & mask(of)), to, m
                    ),
                    kind,
                    of,
                    to,
                    mode,
                ),
            )
        )
    more = (0x01000001, 0x01000003, 65519, 65520, 65505, 0x20000000000001, 0xFFFFFFFFFFFFFBFF)
    check(integers, ((*EDGES, *more), (0,), (0,)))
    floats: list[Case] = []
    for of, to in ((64, 32), (64, 16), (32, 16)):
        target = "%w" if to == 32 else "%h"
        source = "%a" if of == 64 else "%wa"
        for mode in model.MODES:
            floats += [
                (
                    f"cvt.{mode}.f{to}.f{of} {target}, {source}",
                    target,
                    to,
                    bound(
                        lambda a, b, c, of, to, m: model.convert(a & mask(of), of, to, m),
                        of,
                        to,
                        mode,
                    ),
                )
            ]
    twice = (0x3FF0020000000001, 0x3FF001FFFFFFFFFF, 0x3E70000000000001, 0x3F0FFC0000000001)
    values = (*FLOATS64, *FLOATS32, *twice, *(x | 1 << 63 for x in twice))
    check(floats[:4], (values, (0,), (0,)), floats=32)
    check(floats[4:], (values, (0,), (0,)), floats=16)


def test_half_precision_arithmetic() -> None:
    """f16 sums, products and fused products round once; comparisons see NaN."""
    rows: list[Case] = [
        ("add.rn.f16 %h, %ha, %hb", "%h", 16, lambda a, b, c: model.add(a, b, 16, "rn")),
        ("sub.f16 %h, %ha, %hb", "%h", 16, lambda a, b, c: model.subtract(a, b, 16, "rn")),
        ("mul.rn.f16 %h, %ha, %hb", "%h", 16, lambda a, b, c: model.multiply(a, b, 16, "rn")),
        ("fma.rn.f16 %h, %ha, %hb, %hc", "%h", 16, lambda a, b, c: model.fma(a, b, c, 16, "rn")),
        ("min.f16 %h, %ha, %hb", "%h", 16, lambda a, b, c: model.smaller(a, b, 16)),
        ("max.f16 %h, %ha, %hb", "%h", 16, lambda a, b, c: model.larger(a, b, 16)),
        ("neg.f16 %h, %ha", "%h", 16, lambda a, b, c: a ^ 0x8000),
        ("abs.f16 %h, %ha", "%h", 16, lambda a, b, c: a & 0x7FFF),
        (
            "mul.ftz.f16 %h, %ha, %hb",
            "%h",
            16,
            lambda a, b, c: model.flush(
                model.multiply(model.flush(a, 16), model.flush(b, 16), 16, "rn"), 16
            ),
        ),
        ("cvt.f32.f16 %w, %ha; cvt.rn.f16.f32 %h, %w", "%h", 16, lambda a, b, c: a),
        (
            "setp.ltu.f16 %p, %ha, %hb",
            "%p",
            1,
            lambda a, b, c: compared(a, b, 16, COMPARISONS["lt"], "u"),
        ),
    ]
    check(rows, (FLOATS16, FLOATS16, FLOATS16[::3]), floats=16)


def test_what_llvm_knows_of_an_operand_changes_nothing() -> None:
    """LLVM 22 folds wrongly: f16 of large integers, min and max beside a known number."""
    rows: list[Case] = [
        (
            "and.b64 %d, %a, 0x8000000000000000; cvt.rn.f16.s64 %h, %d; cvt.f32.f16 %w, %h",
            "%w",
            32,
            lambda a, b, c: model.infinity(32, True) if a >> 63 else 0,
        ),
        (
            "cvt.rn.f32.u32 %w, %wb; min.f32 %w, %w, %wa",
            "%w",
            32,
            lambda a, b, c: model.smaller(a, model.encode(Fraction(b & M32), 32, "rn"), 32),
        ),
        (
            "cvt.rn.f32.u32 %w, %wb; max.f32 %w, %wa, %w",
            "%w",
            32,
            lambda a, b, c: model.larger(a, model.encode(Fraction(b & M32), 32, "rn"), 32),
        ),
        (
            "cvt.rn.f32.u32 %w, %wb; min.NaN.f32 %w, %w, %wa; max.NaN.f32 %w, %w, 0fFF800000",
            "%w",
            32,
            lambda a, b, c: (
                model.nan(32)
                if model.is_nan(a, 32)
                else model.smaller(a, model.encode(Fraction(b & M32), 32, "rn"), 32)
            ),
        ),
    ]
    check(rows[:1], ((0, 1, 1 << 63, mask(64)), (0,), (0,)))
    check(rows[1:], (FLOATS32, (0, 6, 1 << 31), (0,)), floats=32)
