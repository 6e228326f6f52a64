"""Logic, shifts, bit fields and permutations.

Semantics are those of the PTX ISA: shifts clamp, bfind of nothing is all ones, fields may reach
past the word.
"""

from __future__ import annotations

from collections.abc import Mapping

from ringflow.device.host.emit.core import Emitter, bits_of
from ringflow.device.host.emit.integer import Emit, integer_kind
from ringflow.device.host.ptx.ast import Instruction, Operand, Pair


def _logic_bits(emitter: Emitter, ins: Instruction) -> int:
    if len(ins.parts) != 2 or ins.parts[1] not in ("pred", "b16", "b32", "b64"):
        raise emitter.unsupported(ins)
    return bits_of(ins.parts[1])


def _logic(emitter: Emitter, ins: Instruction) -> None:
    bits = _logic_bits(emitter, ins)
    a, b = (emitter.read(operand, bits) for operand in ins.operands[1:3])
    emitter.write(ins.operands[0], emitter.value(f"{ins.parts[0]} i{bits} {a}, {b}"), bits)


def _not(emitter: Emitter, ins: Instruction) -> None:
    bits = _logic_bits(emitter, ins)
    a = emitter.read(ins.operands[1], bits)
    if ins.parts[0] == "cnot":
        zero = emitter.value(f"icmp eq i{bits} {a}, 0")
        value = emitter.resize(zero, 1, bits)
    else:
        value = emitter.value(f"xor i{bits} {a}, {'true' if bits == 1 else '-1'}")
    emitter.write(ins.operands[0], value, bits)


def shift(emitter: Emitter, operation: str, bits: int, value: str, amount: str) -> str:
    """Return a shift that clamps; ``amount`` is an i32."""
    if amount.isdigit() and int(amount) < bits:
        return emitter.value(f"{operation} i{bits} {value}, {amount}")
    limit = bits - 1
    small = emitter.call("llvm.umin.i32", "i32", f"i32 {amount}", f"i32 {limit}")
    by = emitter.resize(small, 32, bits)
    result = emitter.value(f"{operation} i{bits} {value}, {by}")
    if operation == "ashr":
        return result
    over = emitter.value(f"icmp ugt i32 {amount}, {limit}")
    return emitter.value(f"select i1 {over}, i{bits} 0, i{bits} {result}")


def _shift(emitter: Emitter, ins: Instruction) -> None:
    kind, bits, _ = integer_kind(emitter, ins)
    left = ins.parts[0] == "shl"
    operation = "shl" if left else "ashr" if kind[0] == "s" else "lshr"
    value = emitter.read(ins.operands[1], bits, signed=kind[0] == "s")
    amount = emitter.read(ins.operands[2], 32)
    emitter.write(ins.operands[0], shift(emitter, operation, bits, value, amount), bits)


def _funnel_shift(emitter: Emitter, ins: Instruction) -> None:
    if ins.parts[1] not in ("l", "r") or ins.parts[2:] not in (("wrap", "b32"), ("clamp", "b32")):
        raise emitter.unsupported(ins)
    low, high = (emitter.read(operand, 32) for operand in ins.operands[1:3])
    amount = emitter.read(ins.operands[3], 32)
    if ins.parts[2] == "wrap":
        amount = emitter.value(f"and i32 {amount}, 31")
    else:
        amount = emitter.call("llvm.umin.i32", "i32", f"i32 {amount}", "i32 32")
    wide = emitter.value(f"shl i64 {emitter.resize(high, 32, 64)}, 32")
    both = emitter.value(f"or i64 {wide}, {emitter.resize(low, 32, 64)}")
    by = emitter.resize(amount, 32, 64)
    if ins.parts[1] == "l":
        moved = emitter.value(f"shl i64 {both}, {by}")
        moved = emitter.value(f"lshr i64 {moved}, 32")
    else:
        moved = emitter.value(f"lshr i64 {both}, {by}")
    emitter.write(ins.operands[0], emitter.resize(moved, 64, 32), 32)


def _count(emitter: Emitter, ins: Instruction) -> None:
    bits = _logic_bits(emitter, ins)
    if bits < 32:
        raise emitter.unsupported(ins)
    a = emitter.read(ins.operands[1], bits)
    name = {"popc": "ctpop", "clz": "ctlz", "brev": "bitreverse"}[ins.parts[0]]
    arguments = [f"i{bits} {a}"] + (["i1 false"] if name == "ctlz" else [])
    value = emitter.call(f"llvm.{name}.i{bits}", f"i{bits}", *arguments)
    if name == "bitreverse":
        emitter.write(ins.operands[0], value, bits)
    else:
        emitter.write(ins.operands[0], emitter.resize(value, bits, 32), 32)


def _find_bit(emitter: Emitter, ins: Instruction) -> None:
    kind, bits, modifiers = integer_kind(emitter, ins, "shiftamt")
    a = emitter.read(ins.operands[1], bits)
    if kind[0] == "s":
        sign = emitter.value(f"ashr i{bits} {a}, {bits - 1}")
        a = emitter.value(f"xor i{bits} {a}, {sign}")
    zeros = emitter.call(f"llvm.ctlz.i{bits}", f"i{bits}", f"i{bits} {a}", "i1 false")
    zeros = emitter.resize(zeros, bits, 32)
    if "shiftamt" not in modifiers:
        zeros = emitter.value(f"sub i32 {bits - 1}, {zeros}")
    none = emitter.value(f"icmp eq i{bits} {a}, 0")
    emitter.write(ins.operands[0], emitter.value(f"select i1 {none}, i32 -1, i32 {zeros}"), 32)


def _field(emitter: Emitter, ins: Instruction, first: int) -> tuple[str, str]:
    """Return position and length of a bit field, each in 0..255."""
    position, length = (
        emitter.value(f"and i32 {emitter.read(operand, 32)}, 255")
        for operand in ins.operands[first : first + 2]
    )
    return position, length


def _extract(emitter: Emitter, ins: Instruction) -> None:
    kind, bits, _ = integer_kind(emitter, ins)
    a = emitter.read(ins.operands[1], bits)
    position, length = _field(emitter, ins, 2)
    ones = shift(emitter, "shl", bits, "-1", length)
    mask = emitter.value(f"xor i{bits} {ones}, -1")
    moved = shift(emitter, "ashr" if kind[0] == "s" else "lshr", bits, a, position)
    value = emitter.value(f"and i{bits} {moved}, {mask}")
    if kind[0] == "s":
        top = emitter.value(f"add i32 {position}, {length}")
        top = emitter.value(f"sub i32 {top}, 1")
        top = emitter.call("llvm.umin.i32", "i32", f"i32 {top}", f"i32 {bits - 1}")
        sign = shift(emitter, "lshr", bits, a, top)
        sign = emitter.resize(sign, bits, 1)
        filled = emitter.value(f"or i{bits} {value}, {ones}")
        value = emitter.value(f"select i1 {sign}, i{bits} {filled}, i{bits} {value}")
        empty = emitter.value(f"icmp eq i32 {length}, 0")
        value = emitter.value(f"select i1 {empty}, i{bits} 0, i{bits} {value}")
    emitter.write(ins.operands[0], value, bits)


def _insert(emitter: Emitter, ins: Instruction) -> None:
    _, bits, _ = integer_kind(emitter, ins)
    a, b = (emitter.read(operand, bits) for operand in ins.operands[1:3])
    position, length = _field(emitter, ins, 3)
    ones = shift(emitter, "shl", bits, "-1", length)
    mask = emitter.value(f"xor i{bits} {ones}, -1")
    mask = shift(emitter, "shl", bits, mask, position)
    moved = emitter.value(f"and i{bits} {shift(emitter, 'shl', bits, a, position)}, {mask}")
    kept = emitter.value(f"and i{bits} {b}, {emitter.value(f'xor i{bits} {mask}, -1')}")
    emitter.write(ins.operands[0], emitter.value(f"or i{bits} {moved}, {kept}"), bits)


def _permute(emitter: Emitter, ins: Instruction) -> None:
    if ins.parts[1] != "b32" or len(ins.parts) > 3:
        raise emitter.unsupported(ins)
    mode = ins.parts[2] if len(ins.parts) > 2 else ""
    low, high = (emitter.resize(emitter.read(o, 32), 32, 64) for o in ins.operands[1:3])
    both = emitter.value(f"or i64 {low}, {emitter.value(f'shl i64 {high}, 32')}")
    control = emitter.read(ins.operands[3], 32)
    tables = {
        "f4e": [[i + n for n in range(4)] for i in range(4)],
        "b4e": [[(i - n) % 8 for n in range(4)] for i in range(4)],
        "rc8": [[i] * 4 for i in range(4)],
        "ecl": [[max(n, i) for n in range(4)] for i in range(4)],
        "ecr": [[min(n, i) for n in range(4)] for i in range(4)],
        "rc16": [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]],
    }
    if mode and mode not in tables:
        raise emitter.unsupported(ins)
    result = "0"
    for byte in range(4):
        if mode:
            packed = sum(row[byte] << (4 * index) for index, row in enumerate(tables[mode]))
            which = emitter.value(f"shl i32 {emitter.value(f'and i32 {control}, 3')}, 2")
            selector = emitter.value(f"lshr i32 {packed}, {which}")
        else:
            selector = emitter.value(f"lshr i32 {control}, {4 * byte}")
        index = emitter.value(f"and i32 {selector}, 7")
        by = emitter.resize(emitter.value(f"shl i32 {index}, 3"), 32, 64)
        picked = emitter.resize(emitter.value(f"lshr i64 {both}, {by}"), 64, 8)
        if not mode:
            sign_mode = emitter.value(f"and i32 {selector}, 8")
            signed = emitter.value(f"icmp ne i32 {sign_mode}, 0")
            sign = emitter.value(f"ashr i8 {picked}, 7")
            picked = emitter.value(f"select i1 {signed}, i8 {sign}, i8 {picked}")
        wide = emitter.value(f"shl i32 {emitter.resize(picked, 8, 32)}, {8 * byte}")
        result = emitter.value(f"or i32 {result}, {wide}")
    emitter.write(ins.operands[0], result, 32)


def _lookup3(emitter: Emitter, ins: Instruction) -> None:
    combine = ".".join(ins.parts[1:-1])
    target: Operand | None = ins.operands[0]
    if ins.parts[-1] != "b32" or combine not in ("", "or", "and"):
        raise emitter.unsupported(ins)
    if bool(combine) != isinstance(target, Pair):
        raise emitter.unsupported(ins, "a predicate and .and or .or belong together")
    values = [emitter.read(operand, 32) for operand in ins.operands[1:4]]
    table = int(emitter.read(ins.operands[4], 32))
    inverse = [emitter.value(f"xor i32 {value}, -1") for value in values]
    result = "0"
    for row in range(8):
        if table >> row & 1:
            picks = [values[i] if row >> (2 - i) & 1 else inverse[i] for i in range(3)]
            term = emitter.value(f"and i32 {picks[0]}, {picks[1]}")
            term = emitter.value(f"and i32 {term}, {picks[2]}")
            result = emitter.value(f"or i32 {result}, {term}")
    if isinstance(target, Pair):
        some = emitter.value(f"icmp ne i32 {result}, 0")
        some = emitter.value(f"{combine} i1 {some}, {emitter.read(ins.operands[5], 1)}")
        emitter.write(target.second, some, 1)
        target = target.first
    emitter.write(target, result, 32)


def _mask(emitter: Emitter, ins: Instruction) -> None:
    if ins.parts[1:] != ("clamp", "b32"):
        raise emitter.unsupported(ins)
    position, length = (emitter.read(operand, 32) for operand in ins.operands[1:3])
    ones = emitter.value(f"xor i32 {shift(emitter, 'shl', 32, '-1', length)}, -1")
    emitter.write(ins.operands[0], shift(emitter, "shl", 32, ones, position), 32)


BITS: Mapping[str, Emit] = {
    **dict.fromkeys(("and", "or", "xor"), _logic),
    **dict.fromkeys(("not", "cnot"), _not),
    **dict.fromkeys(("shl", "shr"), _shift),
    "shf": _funnel_shift,
    **dict.fromkeys(("popc", "clz", "brev"), _count),
    "bfind": _find_bit,
    "bfe": _extract,
    "bfi": _insert,
    "prmt": _permute,
    "lop3": _lookup3,
    "bmsk": _mask,
}
"""Emitters by the opcode's first part."""
