"""Integer arithmetic and carry chains.

Semantics are those of the PTX ISA: x/0 is all ones, INT_MIN/-1 wraps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ringflow.device.host.emit.core import Emitter, bits_of
from ringflow.device.host.ptx.ast import TYPE_BYTES, Instruction

CARRY = "%carry"
Emit = Callable[[Emitter, Instruction], None]


def integer_kind(emitter: Emitter, ins: Instruction, *modifiers: str) -> tuple[str, int, set[str]]:
    """Return the type, its bits and the modifiers; refuses those not listed."""
    kind = ins.parts[-1]
    if kind not in TYPE_BYTES or kind[0] not in "bus" or kind == "b128":
        raise emitter.unsupported(ins, f"type .{kind}")
    found = set(ins.parts[1:-1])
    unknown = found.difference(modifiers)
    if unknown:
        raise emitter.unsupported(ins, f".{sorted(unknown)[0]}")
    return kind, bits_of(kind), found


def _carry(emitter: Emitter) -> str:
    emitter.allocas.setdefault(CARRY, "i1")
    return CARRY


def _set_carry(emitter: Emitter, value: str) -> None:
    emitter.emit(f"store i1 {value}, ptr {_carry(emitter)}")


def _with_carry(emitter: Emitter, operation: str, bits: int, a: str, b: str, carry_in: bool) -> str:
    """Return a + b or a - b in ``i{bits + 8}``, whose bit ``bits`` is the carry or borrow."""
    wide = bits + 8
    a = emitter.resize(a, bits, wide)
    b = emitter.resize(b, bits, wide)
    total = emitter.value(f"{operation} i{wide} {a}, {b}")
    if carry_in:
        carry = emitter.value(f"load i1, ptr {_carry(emitter)}")
        carry = emitter.resize(carry, 1, wide)
        total = emitter.value(f"{operation} i{wide} {total}, {carry}")
    return total


def _finish_carry(emitter: Emitter, ins: Instruction, total: str, bits: int, out: bool) -> None:
    wide = bits + 8
    if out:
        shifted = emitter.value(f"lshr i{wide} {total}, {bits}")
        _set_carry(emitter, emitter.resize(shifted, wide, 1))
    emitter.write(ins.operands[0], emitter.resize(total, wide, bits), bits)


def _add_or_subtract(emitter: Emitter, ins: Instruction) -> None:
    kind, bits, modifiers = integer_kind(emitter, ins, "cc", "sat")
    root = ins.parts[0]
    operation = "add" if root.startswith("add") else "sub"
    a = emitter.read(ins.operands[1], bits)
    b = emitter.read(ins.operands[2], bits)
    if "sat" in modifiers:
        if kind != "s32":
            raise emitter.unsupported(ins, ".sat")
        name = f"llvm.s{operation}.sat.i32"
        emitter.write(ins.operands[0], emitter.call(name, "i32", f"i32 {a}", f"i32 {b}"), 32)
        return
    carry_in = root in ("addc", "subc")
    if "cc" in modifiers or carry_in:
        total = _with_carry(emitter, operation, bits, a, b, carry_in)
        _finish_carry(emitter, ins, total, bits, "cc" in modifiers)
        return
    emitter.write(ins.operands[0], emitter.value(f"{operation} i{bits} {a}, {b}"), bits)


def _product(
    emitter: Emitter, ins: Instruction, kind: str, bits: int, modifiers: set[str]
) -> tuple[str, int]:
    """Return operands 1 × 2: the low or high half, or the whole in twice the width."""
    halves = modifiers & {"lo", "hi", "wide"}
    if len(halves) != 1 or (halves == {"wide"} and bits == 64):
        raise emitter.unsupported(ins, "it names no half of the product that it has")
    (part,) = halves
    signed = kind[0] == "s"
    a = emitter.read(ins.operands[1], bits)
    b = emitter.read(ins.operands[2], bits)
    if part == "lo":
        return emitter.value(f"mul i{bits} {a}, {b}"), bits
    a = emitter.resize(a, bits, 2 * bits, signed=signed)
    b = emitter.resize(b, bits, 2 * bits, signed=signed)
    flag = "nsw" if signed else "nuw"
    whole = emitter.value(f"mul {flag} i{2 * bits} {a}, {b}")
    if part == "wide":
        return whole, 2 * bits
    return emitter.resize(emitter.value(f"lshr i{2 * bits} {whole}, {bits}"), 2 * bits, bits), bits


def _multiply(emitter: Emitter, ins: Instruction) -> None:
    kind, bits, modifiers = integer_kind(emitter, ins, "lo", "hi", "wide")
    value, width = _product(emitter, ins, kind, bits, modifiers)
    emitter.write(ins.operands[0], value, width, signed=kind[0] == "s")


def _saturated_sum(emitter: Emitter, a: str, b: str) -> str:
    return emitter.call("llvm.sadd.sat.i32", "i32", f"i32 {a}", f"i32 {b}")


def _multiply_add(emitter: Emitter, ins: Instruction) -> None:
    kind, bits, modifiers = integer_kind(emitter, ins, "lo", "hi", "wide", "cc", "sat")
    carry_in = ins.parts[0] == "madc"
    value, width = _product(emitter, ins, kind, bits, modifiers)
    c = emitter.read(ins.operands[3], width)
    if "sat" in modifiers:
        if kind != "s32" or "hi" not in modifiers or "cc" in modifiers or carry_in:
            raise emitter.unsupported(ins, ".sat")
        emitter.write(ins.operands[0], _saturated_sum(emitter, value, c), 32)
        return
    if carry_in or "cc" in modifiers:
        if "wide" in modifiers:
            raise emitter.unsupported(ins, ".wide with a carry")
        total = _with_carry(emitter, "add", width, value, c, carry_in)
        _finish_carry(emitter, ins, total, width, "cc" in modifiers)
        return
    total = emitter.value(f"add i{width} {value}, {c}")
    emitter.write(ins.operands[0], total, width, signed=kind[0] == "s")


def _multiply24(emitter: Emitter, ins: Instruction) -> None:
    kind, bits, modifiers = integer_kind(emitter, ins, "lo", "hi", "sat")
    if bits != 32 or len(modifiers & {"lo", "hi"}) != 1:
        raise emitter.unsupported(ins)
    signed = kind[0] == "s"
    wide = []
    for operand in ins.operands[1:3]:
        shifted = emitter.value(f"shl i32 {emitter.read(operand, 32)}, 8")
        small = emitter.value(f"{'ashr' if signed else 'lshr'} i32 {shifted}, 8")
        wide.append(emitter.resize(small, 32, 64, signed=signed))
    product = emitter.value(f"mul i64 {wide[0]}, {wide[1]}")
    if "hi" in modifiers:
        product = emitter.value(f"lshr i64 {product}, 16")
    value = emitter.resize(product, 64, bits)
    if ins.parts[0] == "mad24":
        c = emitter.read(ins.operands[3], 32)
        if "sat" not in modifiers:
            value = emitter.value(f"add i32 {value}, {c}")
        elif kind == "s32" and "hi" in modifiers:
            value = _saturated_sum(emitter, value, c)
        else:
            raise emitter.unsupported(ins, ".sat")
    elif "sat" in modifiers:
        raise emitter.unsupported(ins, ".sat")
    emitter.write(ins.operands[0], value, bits)


def _dot_product(emitter: Emitter, ins: Instruction) -> None:
    """dp4a: four bytes by four bytes; dp2a: two halves by the low or high two bytes."""
    four = ins.parts[0] == "dp4a"
    if not four and (len(ins.parts) != 4 or ins.parts[1] not in ("lo", "hi")):
        raise emitter.unsupported(ins)
    kinds = ins.parts[1:] if four else ins.parts[2:]
    if len(kinds) != 2 or not {"u32", "s32"}.issuperset(kinds):
        raise emitter.unsupported(ins)
    a, b, total = (emitter.read(operand, 32) for operand in ins.operands[1:4])
    first = 16 if ins.parts[1] == "hi" else 0
    step = 8 if four else 16
    for index in range(4 if four else 2):
        x = _piece(emitter, a, index * step, step, kinds[0])
        y = _piece(emitter, b, first + 8 * index, 8, kinds[1])
        total = emitter.value(f"add i32 {total}, {emitter.value(f'mul i32 {x}, {y}')}")
    emitter.write(ins.operands[0], total, 32)


def _piece(emitter: Emitter, word: str, position: int, bits: int, kind: str) -> str:
    """Return bits of a word as an i32, sign-extended for s32."""
    small = emitter.value(f"lshr i32 {word}, {position}")
    return emitter.resize(emitter.resize(small, 32, bits), bits, 32, signed=kind == "s32")


def _sum_of_differences(emitter: Emitter, ins: Instruction) -> None:
    kind, bits, _ = integer_kind(emitter, ins)
    a, b = (emitter.read(operand, bits) for operand in ins.operands[1:3])
    sign = kind[0] if kind[0] == "s" else "u"
    larger = emitter.call(f"llvm.{sign}max.i{bits}", f"i{bits}", f"i{bits} {a}", f"i{bits} {b}")
    smaller = emitter.call(f"llvm.{sign}min.i{bits}", f"i{bits}", f"i{bits} {a}", f"i{bits} {b}")
    difference = emitter.value(f"sub i{bits} {larger}, {smaller}")
    total = emitter.value(f"add i{bits} {difference}, {emitter.read(ins.operands[3], bits)}")
    emitter.write(ins.operands[0], total, bits)


def _divide(emitter: Emitter, ins: Instruction) -> None:
    kind, bits, _ = integer_kind(emitter, ins)
    a, b = (emitter.read(operand, bits) for operand in ins.operands[1:3])
    is_zero = emitter.value(f"icmp eq i{bits} {b}, 0")
    safe = emitter.value(f"select i1 {is_zero}, i{bits} 1, i{bits} {b}")
    remainder = ins.parts[0] == "rem"
    sign = kind[0] if kind[0] == "s" else "u"
    if sign == "s":
        minus = emitter.value(f"icmp eq i{bits} {b}, -1")
        safe = emitter.value(f"select i1 {minus}, i{bits} 1, i{bits} {safe}")
    result = emitter.value(f"{sign}{'rem' if remainder else 'div'} i{bits} {a}, {safe}")
    if sign == "s":
        negated = "0" if remainder else emitter.value(f"sub i{bits} 0, {a}")
        result = emitter.value(f"select i1 {minus}, i{bits} {negated}, i{bits} {result}")
    by_zero = a if remainder else "-1"
    result = emitter.value(f"select i1 {is_zero}, i{bits} {by_zero}, i{bits} {result}")
    emitter.write(ins.operands[0], result, bits)


def _minimum_or_maximum(emitter: Emitter, ins: Instruction) -> None:
    kind, bits, _ = integer_kind(emitter, ins)
    a, b = (emitter.read(operand, bits) for operand in ins.operands[1:3])
    name = f"llvm.{'s' if kind[0] == 's' else 'u'}{ins.parts[0]}.i{bits}"
    value = emitter.call(name, f"i{bits}", f"i{bits} {a}", f"i{bits} {b}")
    emitter.write(ins.operands[0], value, bits)


def _negate_or_absolute(emitter: Emitter, ins: Instruction) -> None:
    _, bits, _ = integer_kind(emitter, ins)
    a = emitter.read(ins.operands[1], bits)
    negated = emitter.value(f"sub i{bits} 0, {a}")
    if ins.parts[0] == "abs":
        name = f"llvm.smax.i{bits}"
        negated = emitter.call(name, f"i{bits}", f"i{bits} {a}", f"i{bits} {negated}")
    emitter.write(ins.operands[0], negated, bits)


INTEGER: Mapping[str, Emit] = {
    **dict.fromkeys(("add", "sub", "addc", "subc"), _add_or_subtract),
    "mul": _multiply,
    **dict.fromkeys(("mad", "madc"), _multiply_add),
    **dict.fromkeys(("mul24", "mad24"), _multiply24),
    **dict.fromkeys(("dp4a", "dp2a"), _dot_product),
    "sad": _sum_of_differences,
    **dict.fromkeys(("div", "rem"), _divide),
    **dict.fromkeys(("min", "max"), _minimum_or_maximum),
    **dict.fromkeys(("neg", "abs"), _negate_or_absolute),
}
"""Emitters by the opcode's first part; float types of the same opcodes are in ``floating``."""
