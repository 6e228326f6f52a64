"""Which registers a statement reads and writes, and its renaming."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from ringflow.device.host.ptx.ast import (
    Address,
    Call,
    Guard,
    Immediate,
    Instruction,
    Label,
    Negated,
    Operand,
    Pair,
    Register,
    Special,
    Statement,
    Symbol,
    Vector,
)

_NO_TARGET = frozenset(
    {"st", "red", "membar", "fence", "bra", "brx", "prefetch", "prefetchu", "nanosleep", "ret"}
    | {"exit", "trap", "brkpt"}
)
SUSPENDING = frozenset({"bar", "barrier", "shfl", "vote", "match", "redux", "activemask"})


def has_target(ins: Instruction) -> bool:
    """Whether operand 0 is written."""
    if ins.parts[0] in ("bar", "barrier"):
        return "red" in ins.parts
    return ins.parts[0] not in _NO_TARGET


def _registers(operand: Operand | None) -> Iterator[str]:
    if isinstance(operand, Register):
        yield operand.name
    elif isinstance(operand, Address) and isinstance(operand.base, Register):
        yield operand.base.name
    elif isinstance(operand, Negated):
        yield operand.register.name
    elif isinstance(operand, Vector):
        for item in operand.items:
            if isinstance(item, Register):
                yield item.name
    elif isinstance(operand, Pair):
        for register in (operand.first, operand.second):
            if register is not None:
                yield register.name


def reads(statement: Instruction | Call) -> list[str]:
    """Return the registers that a statement reads."""
    found = [statement.guard.register.name] if statement.guard else []
    if isinstance(statement, Call):
        found += [a.name for a in statement.arguments if isinstance(a, Register)]
        if isinstance(statement.target, Register):
            found.append(statement.target.name)
        return found
    for operand in statement.operands[1 if has_target(statement) else 0 :]:
        found += _registers(operand)
    return found


def writes(statement: Instruction | Call, registers: object) -> list[str]:
    """Return the registers that a statement writes; ``registers`` are the declared ones."""
    if isinstance(statement, Call):
        assert hasattr(registers, "__contains__")
        return [name for name in statement.results if name in registers]
    if statement.operands and has_target(statement):
        return list(_registers(statement.operands[0]))
    return []


@attrs.frozen
class Renaming:
    """Functions from old to new names for one inlined body."""

    register: Callable[[str], str]
    symbol: Callable[[str], str]
    label: Callable[[str], str]

    def _operand(self, operand: Operand, is_label: bool) -> Operand:
        if isinstance(operand, Register):
            return Register(self.register(operand.name))
        if isinstance(operand, Symbol):
            name = self.label(operand.name) if is_label else self.symbol(operand.name)
            return Symbol(name, operand.offset_bytes)
        if isinstance(operand, Address):
            base = self._operand(operand.base, False)
            assert isinstance(base, Register | Symbol | Immediate)
            return Address(base, operand.offset_bytes)
        if isinstance(operand, Vector):
            return Vector(
                tuple(
                    Register(self.register(i.name)) if isinstance(i, Register) else i
                    for i in operand.items
                )
            )
        if isinstance(operand, Pair):
            return Pair(self._optional(operand.first), self._optional(operand.second))
        if isinstance(operand, Negated):
            return Negated(Register(self.register(operand.register.name)))
        assert isinstance(operand, Special | Immediate)
        return operand

    def _optional(self, register: Register | None) -> Register | None:
        return None if register is None else Register(self.register(register.name))

    def _guard(self, guard: Guard | None) -> Guard | None:
        if guard is None:
            return None
        return Guard(Register(self.register(guard.register.name)), guard.negated)

    def statement(self, statement: Statement) -> Statement:
        """Return the statement with every name replaced."""
        if isinstance(statement, Label):
            return Label(self.label(statement.name), statement.line)
        guard = self._guard(statement.guard)
        if isinstance(statement, Call):
            target = statement.target
            return attrs.evolve(
                statement,
                target=Register(self.register(target.name))
                if isinstance(target, Register)
                else target,
                results=tuple(self.symbol(name) for name in statement.results),
                arguments=tuple(
                    self.symbol(a)
                    if isinstance(a, str)
                    else Register(self.register(a.name))
                    if isinstance(a, Register)
                    else a
                    for a in statement.arguments
                ),
                prototype=statement.prototype and self.label(statement.prototype),
                guard=guard,
            )
        is_label = statement.parts[0] in ("bra", "brx")
        operands = tuple(self._operand(operand, is_label) for operand in statement.operands)
        return Instruction(statement.opcode, statement.parts, operands, guard, statement.line)
