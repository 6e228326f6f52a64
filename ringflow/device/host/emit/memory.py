"""Loads, stores, atomics, fences and address conversions.

- Global, local, const and generic addresses are native; a shared address is an offset into the
  CTA's shared memory, its generic address base + offset.
- Volatile and relaxed accesses are monotonic atomics; scopes make no difference on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping

from ringflow.device.host import cta
from ringflow.device.host.emit.core import FLOAT_NAMES, Emitter, bits_of
from ringflow.device.host.emit.integer import Emit
from ringflow.device.host.ptx.ast import (
    TYPE_BYTES,
    Address,
    Instruction,
    Operand,
    Register,
    Symbol,
    Vector,
)
from ringflow.errors import PtxSyntaxError

_SPACES = frozenset({"param", "global", "shared", "local", "const"})
_SCOPES = frozenset({"cta", "cluster", "gpu", "sys"})
_CACHE = frozenset({"ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "weak"})
_ORDERS = {
    "volatile": "monotonic",
    "relaxed": "monotonic",
    "mmio": "monotonic",
    "acquire": "acquire",
    "release": "release",
    "acq_rel": "acq_rel",
}
_BITWISE = {"exch": "xchg", "and": "and", "or": "or", "xor": "xor"}
_ATOMIC_TYPES: Mapping[str, frozenset[str]] = {
    "add": frozenset({"u32", "s32", "u64", "s64", "f32", "f64"}),
    **dict.fromkeys(("min", "max"), frozenset({"u32", "s32", "u64", "s64"})),
    **dict.fromkeys(("and", "or", "xor", "exch"), frozenset({"b32", "b64"})),
    "cas": frozenset({"b16", "b32", "b64"}),
    **dict.fromkeys(("inc", "dec"), frozenset({"u32"})),
}
_WRAPPING = {"inc": "uinc_wrap", "dec": "udec_wrap"}


def _space(part: str) -> str:
    return part.split("::")[0] if part.startswith(("shared::cta", "param::")) else part


class _Access:
    """The modifiers of a load, store or atomic."""

    def __init__(self, emitter: Emitter, ins: Instruction, *more: str) -> None:
        self.space = "generic"
        self.order = ""
        self.count = 1
        self.others: set[str] = set()
        self.type = ins.parts[-1]
        if self.type not in TYPE_BYTES or self.type in ("b128", "pred"):
            raise emitter.unsupported(ins, f"type .{self.type}")
        for part in ins.parts[1:-1]:
            if _space(part) in _SPACES:
                self.space = _space(part)
            elif part in _ORDERS:
                self.order = _ORDERS[part]
            elif part in ("v2", "v4", "v8"):
                self.count = int(part[1])
            elif part in more:
                self.others.add(part)
            elif part.startswith(("L1::", "L2::")) and part != "L2::cache_hint":
                continue
            elif part not in _SCOPES and part not in _CACHE:
                raise emitter.unsupported(ins, f".{part}")

    def refuse(self, emitter: Emitter, ins: Instruction, *orders: str) -> None:
        """Refuse orders that only the other direction has."""
        if self.order in orders:
            raise emitter.unsupported(ins, f".{self.order}")


def pointer_of(emitter: Emitter, operand: Operand, space: str) -> str:
    """Return an LLVM pointer for ``[operand]`` in ``space``."""
    if not isinstance(operand, Address):
        raise PtxSyntaxError(emitter.line(), "an address in brackets is missing")
    base, offset = operand.base, operand.offset_bytes
    if isinstance(base, Symbol):
        variable = emitter.function.variables.get(base.name)
        found = variable or emitter.context.variables.get(base.name)
        address = emitter.symbol_address(base)
        if found is not None and found.space == "shared":
            address = emitter.value(f"add i64 {emitter.shared_base()}, {address}")
        return emitter.pointer(address, offset)
    if isinstance(base, Register):
        address = emitter.read(base, 64)
        if space == "shared":
            address = emitter.value(f"add i64 {emitter.shared_base()}, {address}")
        return emitter.pointer(address, offset)
    address = emitter.literal(base, 64)
    if space == "shared":
        address = emitter.value(f"add i64 {emitter.shared_base()}, {address}")
    return emitter.pointer(address, offset)


def _elements(operand: Operand, count: int) -> tuple[Operand | None, ...]:
    if isinstance(operand, Vector):
        return operand.items
    return (operand,) * count


def _load(emitter: Emitter, ins: Instruction) -> None:
    access = _Access(emitter, ins)
    access.refuse(emitter, ins, "release", "acq_rel")
    bits = bits_of(access.type)
    if access.space == "param" and emitter.load_early(ins.operands, bits, access.type[0] == "s"):
        return
    pointer, metadata = _place(emitter, ins.operands[1], access.space)
    _check(emitter, ins.operands[1], pointer, access, cta.ACCESS_LOAD)
    for index, target in enumerate(_elements(ins.operands[0], access.count)):
        place = pointer
        if index:
            place = emitter.value(f"getelementptr i8, ptr {pointer}, i64 {index * bits // 8}")
        if access.order and access.space != "param":
            value = emitter.value(
                f"load atomic i{bits}, ptr {place} {access.order}, align {bits // 8}"
            )
        else:
            value = emitter.value(f"load i{bits}, ptr {place}, align {bits // 8}{metadata}")
        emitter.write(target, value, bits, signed=access.type[0] == "s")


def _place(emitter: Emitter, operand: Operand, space: str) -> tuple[str, str]:
    """Return the pointer and the metadata of a plain access to it."""
    if space == "param" and isinstance(operand, Address) and isinstance(operand.base, Symbol):
        variable = emitter.function.variables.get(operand.base.name)
        if variable is None:
            raise PtxSyntaxError(emitter.line(), f"{operand.base.name!r} is not declared")
        offset = operand.base.offset_bytes + operand.offset_bytes
        return emitter.parameter_pointer(variable, offset)
    metadata = "" if space == "param" else emitter.memory_metadata
    return pointer_of(emitter, operand, space), metadata


def _check(emitter: Emitter, operand: Operand, pointer: str, access: _Access, kind: int) -> None:
    """Have an access checked, unless it is to a parameter by its name."""
    named = isinstance(operand, Address) and isinstance(operand.base, Symbol)
    if access.space == "param" and named:
        return
    size_bytes = bits_of(access.type) // 8 * access.count
    emitter.check_access(pointer, access.space, kind, size_bytes)


def _store(emitter: Emitter, ins: Instruction) -> None:
    access = _Access(emitter, ins)
    access.refuse(emitter, ins, "acquire", "acq_rel")
    bits = bits_of(access.type)
    pointer, metadata = _place(emitter, ins.operands[0], access.space)
    _check(emitter, ins.operands[0], pointer, access, cta.ACCESS_STORE)
    for index, source in enumerate(_elements(ins.operands[1], access.count)):
        place = pointer
        if index:
            place = emitter.value(f"getelementptr i8, ptr {pointer}, i64 {index * bits // 8}")
        value = emitter.read(source, bits)
        if access.order and access.space != "param":
            emitter.emit(
                f"store atomic i{bits} {value}, ptr {place} {access.order}, align {bits // 8}"
            )
        else:
            emitter.emit(f"store i{bits} {value}, ptr {place}, align {bits // 8}{metadata}")
    if access.space != "param":
        emitter.note_effect()


def _atomic(emitter: Emitter, ins: Instruction) -> None:
    access = _Access(emitter, ins, *_ATOMIC_TYPES)
    if len(access.others) != 1 or access.count != 1:
        raise emitter.unsupported(ins)
    (operation,) = access.others
    if access.type not in _ATOMIC_TYPES[operation]:
        raise emitter.unsupported(ins, f"type .{access.type}")
    returns = ins.parts[0] == "atom"
    address = ins.operands[1 if returns else 0]
    pointer = pointer_of(emitter, address, access.space)
    _check(emitter, address, pointer, access, cta.ACCESS_ATOMIC)
    sources = ins.operands[2 if returns else 1 :]
    bits = bits_of(access.type)
    order = access.order or "monotonic"
    if operation == "cas":
        failure = {"release": "monotonic", "acq_rel": "acquire"}.get(order, order)
        expected, desired = (emitter.read(source, bits) for source in sources[:2])
        pair = emitter.value(
            f"cmpxchg ptr {pointer}, i{bits} {expected}, i{bits} {desired} {order} {failure}"
        )
        old = emitter.value(f"extractvalue {{ i{bits}, i1 }} {pair}, 0")
    elif access.type in ("f32", "f64"):
        name = FLOAT_NAMES[bits]
        value = emitter.read_float(sources[0], bits)
        floating = emitter.value(f"atomicrmw fadd ptr {pointer}, {name} {value} {order}")
        old = emitter.value(f"bitcast {name} {floating} to i{bits}")
    else:
        value = emitter.read(sources[0], bits)
        name = _BITWISE.get(operation) or _WRAPPING.get(operation) or operation
        if operation in ("min", "max") and access.type[0] != "s":
            name = "u" + operation
        old = emitter.value(f"atomicrmw {name} ptr {pointer}, i{bits} {value} {order}")
    if returns:
        target = ins.operands[0]
        emitter.write(target if isinstance(target, Register) else None, old, bits)
    emitter.note_effect()


def _fence(emitter: Emitter, ins: Instruction) -> None:
    modifiers = set(ins.parts[1:])
    if modifiers - {"sc", "acq_rel", "gl", *_SCOPES}:
        raise emitter.unsupported(ins)
    weak = ins.parts[1] == "acq_rel" or ins.parts == ("membar", "cta")
    emitter.emit(f"fence {'acq_rel' if weak else 'seq_cst'}")


def _convert_address(emitter: Emitter, ins: Instruction) -> None:
    to = ins.parts[1] == "to"
    space = _space(ins.parts[2 if to else 1])
    if space not in _SPACES:
        raise emitter.unsupported(ins)
    address = emitter.read(ins.operands[1], 64)
    if space == "shared":
        base = emitter.shared_base()
        if to:
            address = emitter.value(f"sub i64 {address}, {base}")
        else:
            address = emitter.value(f"add i64 {base}, {address}")
    emitter.write(ins.operands[0], address, 64)


def _in_range(emitter: Emitter, address: str, base: str, size: str) -> str:
    offset = emitter.value(f"sub i64 {address}, {base}")
    return emitter.value(f"icmp ult i64 {offset}, {size}")


def _is_space(emitter: Emitter, ins: Instruction) -> None:
    space = _space(ins.parts[1])
    address = emitter.read(ins.operands[1], 64)
    constant = "false"
    for name, variable in emitter.context.variables.items():
        if variable.space == "const" and not variable.external:
            begin = emitter.value(f'ptrtoint ptr @"g.{name}" to i64')
            inside = _in_range(emitter, address, begin, str(variable.size_bytes))
            constant = emitter.value(f"or i1 {constant}, {inside}")
    if space == "const":
        result = constant
    else:
        shared = _in_range(emitter, address, emitter.shared_base(), emitter.shared_bytes())
        begin, size = emitter.local_range()
        local = _in_range(emitter, address, begin, size)
        if space == "global":
            either = emitter.value(f"or i1 {shared}, {local}")
            either = emitter.value(f"or i1 {either}, {constant}")
            result = emitter.value(f"xor i1 {either}, true")
        elif space in ("shared", "local"):
            result = shared if space == "shared" else local
        else:
            raise emitter.unsupported(ins)
    emitter.write(ins.operands[0], result, 1)


def _nothing(emitter: Emitter, ins: Instruction) -> None:
    """Hints: prefetches; ``nanosleep`` marks a poll loop, which the control flow sees."""


MEMORY: Mapping[str, Emit] = {
    **dict.fromkeys(("ld", "ldu"), _load),
    "st": _store,
    **dict.fromkeys(("atom", "red"), _atomic),
    **dict.fromkeys(("membar", "fence"), _fence),
    "cvta": _convert_address,
    "isspacep": _is_space,
    **dict.fromkeys(("prefetch", "prefetchu", "nanosleep"), _nothing),
}
