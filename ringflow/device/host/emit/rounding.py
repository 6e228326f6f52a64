"""Roundings other than to nearest even, and the flushing of denormals.

- A directed rounding of arithmetic runs in a function of its own that sets the thread's rounding
  mode and sets it back; LLVM moves nothing across the two.
- Conversions round directedly by arithmetic on bits, so that they vectorise.
- A flushed number keeps its sign, as operand and as result; a result is flushed after rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ringflow.device.host.emit.core import FLOAT_NAMES, Emitter

NEAREST: Final = "rn"
DIRECTED: Final[Mapping[str, int]] = {"rz": 0, "rp": 2, "rm": 3}
"""Directed modes by LLVM's number for ``llvm.set.rounding``, where 1 is to nearest even."""
ROUNDINGS: Final = frozenset({NEAREST, *DIRECTED})
_MANTISSA_BITS: Final[Mapping[int, int]] = {16: 11, 32: 24, 64: 53}


def directed(emitter: Emitter, operation: str, bits: int, mode: str, values: Sequence[str]) -> str:
    """Return ``operation`` (fadd, fsub, fmul, fdiv, fma, sqrt) of floats, rounded as ``mode``."""
    kind = FLOAT_NAMES[bits]
    name = f"ringflow.{operation}.{mode}.f{bits}"
    formal = [f"{kind} %a{index}" for index in range(len(values))]
    intrinsic = f"llvm.experimental.constrained.{operation}.f{bits}"
    emitter.context.intrinsic(intrinsic, kind, *[kind] * len(values), "metadata", "metadata")
    emitter.context.intrinsic("llvm.set.rounding", "void", "i32")
    rules = 'metadata !"round.dynamic", metadata !"fpexcept.ignore"'
    emitter.context.define(
        name,
        f'define internal {kind} @"{name}"({", ".join(formal)}) noinline strictfp nounwind {{\n'
        f"call void @llvm.set.rounding(i32 {DIRECTED[mode]}) strictfp\n"
        f"%r = call {kind} @{intrinsic}({', '.join(formal)}, {rules}) strictfp\n"
        "call void @llvm.set.rounding(i32 1) strictfp\n"
        f"ret {kind} %r\n}}",
    )
    typed = ", ".join(f"{kind} {value}" for value in values)
    return emitter.value(f'call {kind} @"{name}"({typed})')


def flush(emitter: Emitter, value: str, bits: int) -> str:
    """Return a float with denormals replaced by zeros of the same sign."""
    kind = FLOAT_NAMES[bits]
    word = emitter.value(f"bitcast {kind} {value} to i{bits}")
    sign = 1 << (bits - 1)
    magnitude = emitter.value(f"and i{bits} {word}, {sign - 1}")
    denormal = emitter.value(f"icmp ult i{bits} {magnitude}, {1 << (_MANTISSA_BITS[bits] - 1)}")
    zero = emitter.value(f"and i{bits} {word}, {-sign}")
    word = emitter.value(f"select i1 {denormal}, i{bits} {zero}, i{bits} {word}")
    return emitter.value(f"bitcast i{bits} {word} to {kind}")


def quiet_nan(bits: int) -> int:
    """Return the bits of the NaN without a sign or payload."""
    mantissa = _MANTISSA_BITS[bits]
    return ((1 << (bits - mantissa)) - 1) << (mantissa - 1) | 1 << (mantissa - 2)


def extreme(emitter: Emitter, kind: str, a: str, b: str, bits: int) -> str:
    """Return the "min" or "max" of two floats: a number wins over NaN, -0 is less than +0.

    LLVM's intrinsics of that meaning give NaN on x86 where it knows one operand to be a number.
    """
    name, word = FLOAT_NAMES[bits], f"i{bits}"
    first = emitter.value(f"fcmp {'olt' if kind == 'min' else 'ogt'} {name} {a}, {b}")
    chosen = emitter.value(f"select i1 {first}, {name} {a}, {name} {b}")
    signs = [emitter.value(f"bitcast {name} {value} to {word}") for value in (a, b)]
    join = "or" if kind == "min" else "and"
    alike = emitter.value(f"{join} {word} {signs[0]}, {signs[1]}")
    alike = emitter.value(f"bitcast {word} {alike} to {name}")
    equal = emitter.value(f"fcmp oeq {name} {a}, {b}")
    chosen = emitter.value(f"select i1 {equal}, {name} {alike}, {name} {chosen}")
    lost = emitter.value(f"fcmp uno {name} {b}, {b}")
    return emitter.value(f"select i1 {lost}, {name} {a}, {name} {chosen}")


def saturate(emitter: Emitter, value: str, bits: int) -> str:
    """Clamp to 0..1; NaN and -0 become 0."""
    name = FLOAT_NAMES[bits]
    above = emitter.value(f"fcmp ogt {name} {value}, 0.0")
    value = emitter.value(f"select i1 {above}, {name} {value}, {name} 0.0")
    below = emitter.value(f"fcmp olt {name} {value}, 1.0")
    return emitter.value(f"select i1 {below}, {name} {value}, {name} 1.0")


def _step(emitter: Emitter, value: str, bits: int, when: str, towards_zero: str) -> str:
    """Return the next float towards or away from zero under a condition; both are i1."""
    kind = FLOAT_NAMES[bits]
    word = emitter.value(f"bitcast {kind} {value} to i{bits}")
    by = emitter.value(f"select i1 {towards_zero}, i{bits} -1, i{bits} 1")
    by = emitter.value(f"select i1 {when}, i{bits} {by}, i{bits} 0")
    return emitter.value(f"bitcast i{bits} {emitter.value(f'add i{bits} {word}, {by}')} to {kind}")


def _is_negative(emitter: Emitter, value: str, bits: int) -> str:
    word = emitter.value(f"bitcast {FLOAT_NAMES[bits]} {value} to i{bits}")
    return emitter.value(f"icmp slt i{bits} {word}, 0")


def _truncate_once(emitter: Emitter, value: str, of: int, to: int, mode: str) -> str:
    wide, narrow = FLOAT_NAMES[of], FLOAT_NAMES[to]
    result = emitter.value(f"fptrunc {wide} {value} to {narrow}")
    if to == 16:
        result = _overflowing(emitter, value, result, wide)
    if mode == NEAREST:
        return result
    back = emitter.value(f"fpext {narrow} {result} to {wide}")
    if mode == "rz":
        size, exact = (emitter.call(f"llvm.fabs.f{of}", wide, f"{wide} {v}") for v in (back, value))
        over = emitter.value(f"fcmp ogt {wide} {size}, {exact}")
        return _step(emitter, result, to, over, "true")
    order = "olt" if mode == "rp" else "ogt"
    wrong = emitter.value(f"fcmp {order} {wide} {back}, {value}")
    negative = _is_negative(emitter, result, to)
    towards = negative if mode == "rp" else emitter.value(f"xor i1 {negative}, true")
    return _step(emitter, result, to, wrong, towards)


def _overflowing(emitter: Emitter, value: str, result: str, wide: str) -> str:
    """Return f16 with infinity where the value overflows.

    LLVM takes integers of few significant bits for exact in f16, however large they are.
    """
    infinity = emitter.call("llvm.copysign.f16", "half", "half 0xH7C00", f"half {result}")
    bits = 64 if wide == "double" else 32
    size = emitter.call(f"llvm.fabs.f{bits}", wide, f"{wide} {value}")
    over = emitter.value(f"fcmp oge {wide} {size}, 65520.0")
    return emitter.value(f"select i1 {over}, half {infinity}, half {result}")


def truncate(emitter: Emitter, value: str, of: int, to: int, mode: str) -> str:
    """Return a float in a narrower format, rounded once as ``mode``."""
    if (of, to) != (64, 16):
        return _truncate_once(emitter, value, of, to, mode)
    # By way of f32, whose last bit keeps that something was cut off: then one rounding is left.
    cut = _truncate_once(emitter, value, 64, 32, "rz")
    back = emitter.value(f"fpext float {cut} to double")
    inexact = emitter.value(f"fcmp one double {back}, {value}")
    word = emitter.value(f"bitcast float {cut} to i32")
    odd = emitter.value(f"or i32 {word}, {emitter.resize(inexact, 1, 32)}")
    odd = emitter.value(f"bitcast i32 {odd} to float")
    return _truncate_once(emitter, odd, 32, 16, mode)


def from_integer(emitter: Emitter, value: str, of: int, to: int, mode: str, *, signed: bool) -> str:
    """Return an integer as a float, rounded once as ``mode``."""
    if to == 16:
        single = from_integer(emitter, value, of, 32, mode, signed=signed)
        # Above 2^24 both formats are inexact, but there f16 has only its largest number left.
        return truncate(emitter, single, 32, 16, mode)
    kind = FLOAT_NAMES[to]
    cast = "sitofp" if signed else "uitofp"
    if mode == NEAREST or of < _MANTISSA_BITS[to]:
        return emitter.value(f"{cast} i{of} {value} to {kind}")
    negative = emitter.value(f"icmp slt i{of} {value}, 0") if signed else "false"
    magnitude = value
    if signed:
        opposite = emitter.value(f"sub i{of} 0, {value}")
        magnitude = emitter.value(f"select i1 {negative}, i{of} {opposite}, i{of} {value}")
    zeros = emitter.call(f"llvm.ctlz.i{of}", f"i{of}", f"i{of} {magnitude}", "i1 false")
    spare = emitter.value(f"sub i{of} {of - _MANTISSA_BITS[to]}, {zeros}")
    spare = emitter.call(f"llvm.smax.i{of}", f"i{of}", f"i{of} {spare}", f"i{of} 0")
    mask = emitter.value(f"xor i{of} {emitter.value(f'shl i{of} -1, {spare}')}, -1")
    lost = emitter.value(f"and i{of} {magnitude}, {mask}")
    kept = emitter.value(f"xor i{of} {magnitude}, {lost}")
    result = emitter.value(f"uitofp i{of} {kept} to {kind}")
    inexact = emitter.value(f"icmp ne i{of} {lost}, 0")
    away = {"rz": "false", "rm": negative}.get(mode) or emitter.value(f"xor i1 {negative}, true")
    up = emitter.value(f"and i1 {inexact}, {away}")
    result = _step(emitter, result, to, up, "false")
    opposite = emitter.value(f"fneg {kind} {result}")
    return emitter.value(f"select i1 {negative}, {kind} {opposite}, {kind} {result}")
