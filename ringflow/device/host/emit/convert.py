"""mov, cvt, comparisons and selections.

- A float converted to an integer saturates, NaN gives 0.
- A conversion that can lose bits has to say how it rounds.
- lt, ne and the like are false with a NaN, ltu, neu and the like true.
"""

from __future__ import annotations

from collections.abc import Mapping

from ringflow.device.host.emit.core import FLOAT_NAMES, Emitter, bits_of
from ringflow.device.host.emit.integer import Emit
from ringflow.device.host.emit.rounding import (
    ROUNDINGS,
    flush,
    from_integer,
    saturate,
    truncate,
)
from ringflow.device.host.ptx.ast import TYPE_BYTES, Instruction, Pair, Vector

_ROUND_TO_INTEGER = {"rni": "roundeven", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}
_INTEGER_COMPARE = frozenset({"lt", "le", "gt", "ge"})
_UNSIGNED_COMPARE = {"lo": "ult", "ls": "ule", "hi": "ugt", "hs": "uge"}
_FLOAT_COMPARE = {
    **{name: "o" + name for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name + "u": "u" + name for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "num": "ord",
    "nan": "uno",
}


def _move(emitter: Emitter, ins: Instruction) -> None:
    if len(ins.parts) != 2 or ins.parts[1] not in TYPE_BYTES or ins.parts[1] == "b128":
        raise emitter.unsupported(ins)
    bits = bits_of(ins.parts[1])
    target, source = ins.operands
    if isinstance(source, Vector):
        each = bits // len(source.items)
        whole = "0"
        for index, item in enumerate(source.items):
            part = emitter.resize(emitter.read(item, each), each, bits)
            part = emitter.value(f"shl i{bits} {part}, {index * each}")
            whole = emitter.value(f"or i{bits} {whole}, {part}")
        emitter.write(target, whole, bits)
    elif isinstance(target, Vector):
        each = bits // len(target.items)
        whole = emitter.read(source, bits)
        for index, item in enumerate(target.items):
            part = emitter.value(f"lshr i{bits} {whole}, {index * each}")
            emitter.write(item, emitter.resize(part, bits, each), each)
    else:
        emitter.write(target, emitter.read(source, bits), bits)


def _is_float(kind: str) -> bool:
    return kind[0] == "f"


_CONVERTED = frozenset(k for k in TYPE_BYTES if k[0] in "usf")


def _convert(emitter: Emitter, ins: Instruction) -> None:
    parts = ins.parts
    if len(parts) < 3 or parts[-1] not in _CONVERTED or parts[-2] not in _CONVERTED:
        raise emitter.unsupported(ins)
    target, source = parts[-2], parts[-1]
    found = set(parts[1:-2])
    unknown = found - {"ftz", "sat", *ROUNDINGS, *_ROUND_TO_INTEGER}
    if unknown:
        raise emitter.unsupported(ins, f".{sorted(unknown)[0]}")
    rounding = found - {"ftz", "sat"}
    if len(rounding) > 1:
        raise emitter.unsupported(ins, "more than one rounding")
    mode = next(iter(rounding), "")
    if _is_float(source) and _is_float(target):
        _float_to_float(emitter, ins, target, source, mode)
    elif _is_float(source):
        _float_to_integer(emitter, ins, target, source, mode)
    elif _is_float(target):
        _integer_to_float(emitter, ins, target, source, mode)
    elif mode or "ftz" in found:
        raise emitter.unsupported(ins, "a rounding between integers")
    else:
        _integer_to_integer(emitter, ins, target, source, "sat" in found)


def _whole(emitter: Emitter, ins: Instruction, value: str, bits: int, mode: str) -> str:
    """Return a float rounded to an integer."""
    if mode not in _ROUND_TO_INTEGER:
        raise emitter.unsupported(ins, "it names no rounding to an integer")
    name = FLOAT_NAMES[bits]
    return emitter.call(f"llvm.{_ROUND_TO_INTEGER[mode]}.f{bits}", name, f"{name} {value}")


def _source(emitter: Emitter, ins: Instruction, bits: int) -> str:
    value = emitter.read_float(ins.operands[1], bits)
    return flush(emitter, value, bits) if "ftz" in ins.parts and bits == 32 else value


def _put(emitter: Emitter, ins: Instruction, value: str, bits: int) -> None:
    if "ftz" in ins.parts and bits == 32:
        value = flush(emitter, value, bits)
    if "sat" in ins.parts:
        value = saturate(emitter, value, bits)
    emitter.write_float(ins.operands[0], value, bits)


def _float_to_float(
    emitter: Emitter, ins: Instruction, target: str, source: str, mode: str
) -> None:
    to, of = bits_of(target), bits_of(source)
    value = _source(emitter, ins, of)
    if mode in _ROUND_TO_INTEGER and to == of:
        value = _whole(emitter, ins, value, of, mode)
    elif mode and mode not in ROUNDINGS:
        raise emitter.unsupported(ins, "a rounding to an integer in another format")
    elif to > of:
        value = emitter.value(f"fpext {FLOAT_NAMES[of]} {value} to {FLOAT_NAMES[to]}")
    elif to < of:
        if not mode:
            raise emitter.unsupported(ins, "it names no rounding")
        value = truncate(emitter, value, of, to, mode)
    _put(emitter, ins, value, to)


def _float_to_integer(
    emitter: Emitter, ins: Instruction, target: str, source: str, mode: str
) -> None:
    to, of = bits_of(target), bits_of(source)
    signed = target[0] == "s"
    value = _whole(emitter, ins, _source(emitter, ins, of), of, mode)
    if of == 16:  # LLVM saturates f16 itself wrongly where the CPU has instructions for it
        value, of = emitter.value(f"fpext half {value} to float"), 32
    name = f"llvm.fpto{'s' if signed else 'u'}i.sat.i{to}.f{of}"
    result = emitter.call(name, f"i{to}", f"{FLOAT_NAMES[of]} {value}")
    emitter.write(ins.operands[0], result, to, signed=signed)


def _integer_to_float(
    emitter: Emitter, ins: Instruction, target: str, source: str, mode: str
) -> None:
    to, of = bits_of(target), bits_of(source)
    if mode not in ROUNDINGS:
        raise emitter.unsupported(ins, "it names no rounding")
    value = emitter.read(ins.operands[1], of)
    value = from_integer(emitter, value, of, to, mode, signed=source[0] == "s")
    _put(emitter, ins, value, to)


def _integer_to_integer(
    emitter: Emitter, ins: Instruction, target: str, source: str, saturating: bool
) -> None:
    to, of = bits_of(target), bits_of(source)
    signed = source[0] == "s"
    value = emitter.read(ins.operands[1], of)
    if saturating:
        wide = max(to, of) + 1
        value = emitter.resize(value, of, wide, signed=signed)
        to_signed = target[0] == "s"
        high = (1 << (to - 1 if to_signed else to)) - 1
        low = -(1 << (to - 1)) if to_signed else 0
        value = emitter.call(
            f"llvm.smin.i{wide}", f"i{wide}", f"i{wide} {value}", f"i{wide} {high}"
        )
        value = emitter.call(f"llvm.smax.i{wide}", f"i{wide}", f"i{wide} {value}", f"i{wide} {low}")
        value = emitter.resize(value, wide, to)
    else:
        value = emitter.resize(value, of, to, signed=signed)
    emitter.write(ins.operands[0], value, to, signed=target[0] == "s")


def _compare(
    emitter: Emitter, ins: Instruction, modifiers: tuple[str, ...]
) -> tuple[str, list[str]]:
    """Return the comparison of the two sources, and how it is combined with a predicate."""
    how, kind = ins.parts[1], ins.parts[-1]
    ftz = "ftz" in modifiers
    combine = [part for part in modifiers if part != "ftz"]
    if kind not in TYPE_BYTES or len(combine) > 1 or set(combine) - {"and", "or", "xor"}:
        raise emitter.unsupported(ins)
    if ftz and kind not in ("f16", "f32"):
        raise emitter.unsupported(ins, f".ftz with .{kind}")
    return _comparison(emitter, ins, how, kind, ftz), combine


def _comparison(emitter: Emitter, ins: Instruction, how: str, kind: str, ftz: bool) -> str:
    a, b = ins.operands[1:3]
    bits = bits_of(kind)
    if _is_float(kind):
        if how not in _FLOAT_COMPARE:
            raise emitter.unsupported(ins)
        left, right = emitter.read_float(a, bits), emitter.read_float(b, bits)
        if ftz:
            left, right = flush(emitter, left, bits), flush(emitter, right, bits)
        return emitter.value(f"fcmp {_FLOAT_COMPARE[how]} {FLOAT_NAMES[bits]} {left}, {right}")
    if how in _UNSIGNED_COMPARE:
        code = _UNSIGNED_COMPARE[how]
    elif how in ("eq", "ne"):
        code = how
    elif how in _INTEGER_COMPARE:
        code = ("s" if kind[0] == "s" else "u") + how
    else:
        raise emitter.unsupported(ins)
    left, right = emitter.read(a, bits), emitter.read(b, bits)
    return emitter.value(f"icmp {code} i{bits} {left}, {right}")


def _set_predicate(emitter: Emitter, ins: Instruction) -> None:
    result, combine = _compare(emitter, ins, ins.parts[2:-1])
    target = ins.operands[0]
    second = target.second if isinstance(target, Pair) else None
    first = target.first if isinstance(target, Pair) else target
    inverse = emitter.value(f"xor i1 {result}, true") if second is not None else ""
    if combine:
        other = emitter.read(ins.operands[3], 1)
        result = emitter.value(f"{combine[0]} i1 {result}, {other}")
        if inverse:
            inverse = emitter.value(f"{combine[0]} i1 {inverse}, {other}")
    emitter.write(first, result, 1)
    if second is not None:
        emitter.write(second, inverse, 1)


def _set(emitter: Emitter, ins: Instruction) -> None:
    target = ins.parts[-2]
    result, combine = _compare(emitter, ins, ins.parts[2:-2])
    if combine:
        other = emitter.read(ins.operands[3], 1)
        result = emitter.value(f"{combine[0]} i1 {result}, {other}")
    if target == "f32":
        emitter.write_float(ins.operands[0], emitter.value(f"uitofp i1 {result} to float"), 32)
    elif target in ("u32", "s32", "b32"):
        emitter.write(ins.operands[0], emitter.resize(result, 1, 32, signed=True), 32)
    else:
        raise emitter.unsupported(ins)


def _select(emitter: Emitter, ins: Instruction) -> None:
    if len(ins.parts) != 2 or ins.parts[1] not in TYPE_BYTES:
        raise emitter.unsupported(ins)
    bits = bits_of(ins.parts[1])
    a, b = (emitter.read(operand, bits) for operand in ins.operands[1:3])
    condition = emitter.read(ins.operands[3], 1)
    value = emitter.value(f"select i1 {condition}, i{bits} {a}, i{bits} {b}")
    emitter.write(ins.operands[0], value, bits)


def _select_by_sign(emitter: Emitter, ins: Instruction) -> None:
    parts = tuple(part for part in ins.parts if part != "ftz")
    if len(parts) != 3 or parts[2] not in ("s32", "f32") or parts[1] not in TYPE_BYTES:
        raise emitter.unsupported(ins)
    if len(ins.parts) != 3 and parts[2] != "f32":
        raise emitter.unsupported(ins, ".ftz with .s32")
    bits = bits_of(parts[1])
    a, b = (emitter.read(operand, bits) for operand in ins.operands[1:3])
    if parts[2] == "s32":
        condition = emitter.value(f"icmp sge i32 {emitter.read(ins.operands[3], 32)}, 0")
    else:
        condition = emitter.value(f"fcmp oge float {emitter.read_float(ins.operands[3], 32)}, 0.0")
    value = emitter.value(f"select i1 {condition}, i{bits} {a}, i{bits} {b}")
    emitter.write(ins.operands[0], value, bits)


CONVERT: Mapping[str, Emit] = {
    "mov": _move,
    "cvt": _convert,
    "setp": _set_predicate,
    "set": _set,
    "selp": _select,
    "slct": _select_by_sign,
}
