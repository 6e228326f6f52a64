"""Arithmetic on f32 and f64.

- Only round to nearest even; other roundings and ``.ftz`` are refused, never taken as .rn.
- ``.approx`` and ``.full`` are computed more exactly than a GPU does.
"""

from __future__ import annotations

from collections.abc import Mapping

from ringflow.device.host.emit.core import FLOAT_NAMES, Emitter
from ringflow.device.host.emit.integer import Emit
from ringflow.device.host.ptx.ast import Instruction

_FINITE, _INFINITE, _NUMBER, _NAN, _NORMAL, _SUBNORMAL = 0x1F8, 0x204, 0x3FC, 0x3, 0x108, 0x90
_CLASSES = {
    "finite": _FINITE,
    "infinite": _INFINITE,
    "number": _NUMBER,
    "notanumber": _NAN,
    "normal": _NORMAL,
    "subnormal": _SUBNORMAL,
}
_LIBM = {"sin": "sin", "cos": "cos", "ex2": "exp2", "lg2": "log2", "tanh": "tanh"}


def _kind(emitter: Emitter, ins: Instruction, *modifiers: str) -> tuple[int, set[str]]:
    kind = ins.parts[-1]
    if kind not in ("f32", "f64"):
        raise emitter.unsupported(ins, f"type .{kind}")
    found = set(ins.parts[1:-1])
    unknown = found.difference(modifiers)
    if unknown:
        detail = f".{sorted(unknown)[0]}: only round to nearest even with denormals kept is"
        raise emitter.unsupported(ins, detail)
    return int(kind[1:]), found


def constant(value: float, bits: int) -> str:
    """Return a float constant that both widths hold exactly."""
    return f"{value:.1f}"


def saturate(emitter: Emitter, value: str, bits: int) -> str:
    """Clamp to 0..1; NaN becomes 0."""
    name = FLOAT_NAMES[bits]
    value = emitter.call(
        f"llvm.maximumnum.f{bits}", name, f"{name} {value}", f"{name} {constant(0.0, bits)}"
    )
    return emitter.call(
        f"llvm.minimumnum.f{bits}", name, f"{name} {value}", f"{name} {constant(1.0, bits)}"
    )


def _finish(emitter: Emitter, ins: Instruction, value: str, bits: int, found: set[str]) -> None:
    if "sat" in found:
        value = saturate(emitter, value, bits)
    emitter.write_float(ins.operands[0], value, bits)


def _binary(emitter: Emitter, ins: Instruction) -> None:
    bits, found = _kind(emitter, ins, "rn", "sat", *(("approx", "full") * (ins.parts[0] == "div")))
    a, b = (emitter.read_float(operand, bits) for operand in ins.operands[1:3])
    value = emitter.value(f"f{ins.parts[0]} {FLOAT_NAMES[bits]} {a}, {b}")
    _finish(emitter, ins, value, bits, found)


def _fused(emitter: Emitter, ins: Instruction) -> None:
    bits, found = _kind(emitter, ins, "rn", "sat")
    name = FLOAT_NAMES[bits]
    values = [f"{name} {emitter.read_float(operand, bits)}" for operand in ins.operands[1:4]]
    _finish(emitter, ins, emitter.call(f"llvm.fma.f{bits}", name, *values), bits, found)


def _minimum_or_maximum(emitter: Emitter, ins: Instruction) -> None:
    bits, found = _kind(emitter, ins, "NaN")
    name = FLOAT_NAMES[bits]
    stem = {"min": "minimum", "max": "maximum"}[ins.parts[0]] + ("" if "NaN" in found else "num")
    operands = [emitter.read_float(operand, bits) for operand in ins.operands[1:]]
    value = operands[0]
    for operand in operands[1:]:
        value = emitter.call(f"llvm.{stem}.f{bits}", name, f"{name} {value}", f"{name} {operand}")
    emitter.write_float(ins.operands[0], value, bits)


def _sign(emitter: Emitter, ins: Instruction) -> None:
    bits, _ = _kind(emitter, ins)
    a = emitter.read(ins.operands[1], bits)
    sign = -(1 << (bits - 1))
    if ins.parts[0] == "neg":
        value = emitter.value(f"xor i{bits} {a}, {sign}")
    else:
        value = emitter.value(f"and i{bits} {a}, {~sign}")
    emitter.write(ins.operands[0], value, bits)


def _copy_sign(emitter: Emitter, ins: Instruction) -> None:
    bits, _ = _kind(emitter, ins)
    name = FLOAT_NAMES[bits]
    sign, magnitude = (emitter.read_float(operand, bits) for operand in ins.operands[1:3])
    value = emitter.call(f"llvm.copysign.f{bits}", name, f"{name} {magnitude}", f"{name} {sign}")
    emitter.write_float(ins.operands[0], value, bits)


def _root_or_inverse(emitter: Emitter, ins: Instruction) -> None:
    bits, _ = _kind(emitter, ins, "rn", "approx")
    name = FLOAT_NAMES[bits]
    value = emitter.read_float(ins.operands[1], bits)
    if ins.parts[0] in ("sqrt", "rsqrt"):
        value = emitter.call(f"llvm.sqrt.f{bits}", name, f"{name} {value}")
    if ins.parts[0] in ("rcp", "rsqrt"):
        value = emitter.value(f"fdiv {name} {constant(1.0, bits)}, {value}")
    emitter.write_float(ins.operands[0], value, bits)


def _transcendental(emitter: Emitter, ins: Instruction) -> None:
    bits, _ = _kind(emitter, ins, "approx")
    name = FLOAT_NAMES[bits]
    value = emitter.read_float(ins.operands[1], bits)
    function = _LIBM[ins.parts[0]] + ("f" if bits == 32 else "")
    result = emitter.extern(function, name, f"{name} {value}")
    emitter.write_float(ins.operands[0], result, bits)


def _test_property(emitter: Emitter, ins: Instruction) -> None:
    bits = int(ins.parts[-1][1:])
    mask = _CLASSES.get(ins.parts[1])
    if mask is None:
        raise emitter.unsupported(ins)
    name = FLOAT_NAMES[bits]
    value = emitter.read_float(ins.operands[1], bits)
    result = emitter.call(f"llvm.is.fpclass.f{bits}", "i1", f"{name} {value}", f"i32 {mask}")
    emitter.write(ins.operands[0], result, 1)


FLOATING: Mapping[str, Emit] = {
    **dict.fromkeys(("add", "sub", "mul", "div"), _binary),
    **dict.fromkeys(("fma", "mad"), _fused),
    **dict.fromkeys(("min", "max"), _minimum_or_maximum),
    **dict.fromkeys(("neg", "abs"), _sign),
    "copysign": _copy_sign,
    **dict.fromkeys(("sqrt", "rsqrt", "rcp"), _root_or_inverse),
    **dict.fromkeys(_LIBM, _transcendental),
    "testp": _test_property,
}
"""Emitters for instructions whose last part is f32 or f64, by the opcode's first part."""
