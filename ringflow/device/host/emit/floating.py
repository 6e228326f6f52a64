"""Arithmetic on f16, f32 and f64.

- Every rounding mode of the PTX ISA, and ``.ftz``; what a type does not have is refused.
- ``.approx`` and ``.full`` are computed more exactly than a GPU does.
- f16 is computed in a wider format and rounded once; the widths are such that this is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ringflow.device.host.emit.core import FLOAT_NAMES, Emitter
from ringflow.device.host.emit.integer import Emit
from ringflow.device.host.emit.rounding import (
    DIRECTED,
    NEAREST,
    ROUNDINGS,
    directed,
    extreme,
    flush,
    quiet_nan,
    saturate,
    truncate,
)
from ringflow.device.host.ptx.ast import Instruction

_FINITE, _INFINITE, _NUMBER, _NAN, _SUBNORMAL = 0x1F8, 0x204, 0x3FC, 0x3, 0x90
_CLASSES = {
    "finite": _FINITE,
    "infinite": _INFINITE,
    "number": _NUMBER,
    "notanumber": _NAN,
    "normal": _FINITE & ~_SUBNORMAL,  # zeros are normal here
    "subnormal": _SUBNORMAL,
}
_LIBM = {"sin": "sin", "cos": "cos", "ex2": "exp2", "lg2": "log2", "tanh": "tanh"}
_ALL = " ".join(sorted(ROUNDINGS))
_ARITHMETIC = {"f32": f"{_ALL} ftz sat", "f64": _ALL, "f16": "rn ftz sat"}
_EXTREMES = {"f32": "ftz NaN", "f64": "", "f16": "ftz NaN"}
_SIGNS = {"f32": "ftz", "f64": "", "f16": "ftz"}
_FORMS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("add", "sub", "mul", "fma", "mad"), _ARITHMETIC),
    **dict.fromkeys(("min", "max"), _EXTREMES),
    **dict.fromkeys(("neg", "abs"), _SIGNS),
    "div": {"f32": f"{_ALL} ftz approx full", "f64": _ALL},
    "copysign": {"f32": "", "f64": ""},
    "sqrt": {"f32": f"{_ALL} ftz approx", "f64": _ALL},
    "rcp": {"f32": f"{_ALL} ftz approx", "f64": f"{_ALL} ftz approx"},
    "rsqrt": {"f32": "ftz approx", "f64": "ftz approx"},
    **{name: {"f32": "ftz approx"} for name in _LIBM},
}
"""The modifiers that each instruction has, by type."""


class _Form:
    """The type and the modifiers of an instruction; refuses what the ISA or the host lacks."""

    def __init__(self, emitter: Emitter, ins: Instruction) -> None:
        kind = ins.parts[-1]
        allowed = _FORMS[ins.parts[0]].get(kind)
        if allowed is None:
            raise emitter.unsupported(ins, f"type .{kind}")
        self.found = set(ins.parts[1:-1])
        unknown = self.found.difference(allowed.split())
        if unknown:
            raise emitter.unsupported(ins, f".{sorted(unknown)[0]} with .{kind}")
        precision = self.found & {*ROUNDINGS, "approx", "full"}
        if len(precision) > 1:
            raise emitter.unsupported(ins, "more than one rounding")
        self.bits = int(kind[1:])
        self.name = FLOAT_NAMES[self.bits]
        self.mode = next(iter(precision & ROUNDINGS), NEAREST)
        self.ftz = "ftz" in self.found
        self.emitter = emitter
        self.ins = ins

    def operands(self) -> list[str]:
        """Return the source operands as floats, flushed where the instruction says so."""
        values = [self.emitter.read_float(o, self.bits) for o in self.ins.operands[1:]]
        return [flush(self.emitter, v, self.bits) for v in values] if self.ftz else values

    def exactly(self, count: int) -> list[str]:
        values = self.operands()
        if len(values) != count:
            raise ValueError(f"{count} are needed")
        return values

    def finish(self, value: str) -> None:
        """Write the result: flushed, then saturated."""
        if self.ftz:
            value = flush(self.emitter, value, self.bits)
        if "sat" in self.found:
            value = saturate(self.emitter, value, self.bits)
        self.emitter.write_float(self.ins.operands[0], value, self.bits)


def _rounded(form: _Form, operation: str, values: list[str]) -> str:
    """Return ``operation`` (fadd, fma, sqrt ...) of the values as the form rounds."""
    emitter, bits = form.emitter, form.bits
    if form.mode in DIRECTED:
        return directed(emitter, operation, bits, form.mode, values)
    if bits == 16:
        # One rounding: a product of two f16 and its sum with a third are exact in f64 as far as
        # their rounding to f16 can see.
        wide = [emitter.value(f"fpext half {value} to double") for value in values]
        return truncate(emitter, _nearest(emitter, operation, 64, wide), 64, 16, NEAREST)
    return _nearest(emitter, operation, bits, values)


def _nearest(emitter: Emitter, operation: str, bits: int, values: list[str]) -> str:
    name = FLOAT_NAMES[bits]
    if operation in ("fma", "sqrt"):
        return emitter.call(f"llvm.{operation}.f{bits}", name, *[f"{name} {v}" for v in values])
    return emitter.value(f"{operation} {name} {', '.join(values)}")


def _arithmetic(operation: str, count: int) -> Emit:
    def emit(emitter: Emitter, ins: Instruction) -> None:
        form = _Form(emitter, ins)
        form.finish(_rounded(form, operation, form.exactly(count)))

    return emit


def _minimum_or_maximum(emitter: Emitter, ins: Instruction) -> None:
    form = _Form(emitter, ins)
    value, *others = form.operands()
    if not others:
        raise ValueError("two are needed")
    name, bits = form.name, form.bits
    for other in others:
        least = extreme(emitter, ins.parts[0], value, other, bits)
        if "NaN" in form.found:
            lost = emitter.value(f"fcmp uno {name} {value}, {other}")
            quiet = emitter.value(f"bitcast i{bits} {quiet_nan(bits)} to {name}")
            least = emitter.value(f"select i1 {lost}, {name} {quiet}, {name} {least}")
        value = least
    form.finish(value)


def _sign(emitter: Emitter, ins: Instruction) -> None:
    form = _Form(emitter, ins)
    bits = form.bits
    (value,) = form.exactly(1)
    word = emitter.value(f"bitcast {form.name} {value} to i{bits}")
    sign = -(1 << (bits - 1))
    operation = f"xor i{bits} {word}, {sign}"
    if ins.parts[0] == "abs":
        operation = f"and i{bits} {word}, {~sign}"
    emitter.write(ins.operands[0], emitter.value(operation), bits)


def _copy_sign(emitter: Emitter, ins: Instruction) -> None:
    form = _Form(emitter, ins)
    name = form.name
    sign, magnitude = form.exactly(2)
    form.finish(
        emitter.call(f"llvm.copysign.f{form.bits}", name, f"{name} {magnitude}", f"{name} {sign}")
    )


def _inverse(emitter: Emitter, ins: Instruction) -> None:
    form = _Form(emitter, ins)
    values = form.exactly(1)
    if ins.parts[0] == "rsqrt":
        values = [_rounded(form, "sqrt", values)]
    form.finish(_rounded(form, "fdiv", ["1.0", *values]))


def _transcendental(emitter: Emitter, ins: Instruction) -> None:
    form = _Form(emitter, ins)
    (value,) = form.exactly(1)
    function = _LIBM[ins.parts[0]] + "f"
    form.finish(emitter.extern(function, "float", f"float {value}"))


def _test_property(emitter: Emitter, ins: Instruction) -> None:
    if ins.parts[-1] not in ("f32", "f64") or len(ins.parts) != 3:
        raise emitter.unsupported(ins)
    bits = int(ins.parts[-1][1:])
    mask = _CLASSES.get(ins.parts[1])
    if mask is None:
        raise emitter.unsupported(ins)
    name = FLOAT_NAMES[bits]
    value = emitter.read_float(ins.operands[1], bits)
    result = emitter.call(f"llvm.is.fpclass.f{bits}", "i1", f"{name} {value}", f"i32 {mask}")
    emitter.write(ins.operands[0], result, 1)


_BINARY: Mapping[str, Callable[[Emitter, Instruction], None]] = {
    name: _arithmetic(f"f{name}", 2) for name in ("add", "sub", "mul", "div")
}
FLOATING: Mapping[str, Emit] = {
    **_BINARY,
    **dict.fromkeys(("fma", "mad"), _arithmetic("fma", 3)),
    "sqrt": _arithmetic("sqrt", 1),
    **dict.fromkeys(("min", "max"), _minimum_or_maximum),
    **dict.fromkeys(("neg", "abs"), _sign),
    "copysign": _copy_sign,
    **dict.fromkeys(("rsqrt", "rcp"), _inverse),
    **dict.fromkeys(_LIBM, _transcendental),
    "testp": _test_property,
}
"""Emitters for instructions whose last part is a float type, by the opcode's first part."""
