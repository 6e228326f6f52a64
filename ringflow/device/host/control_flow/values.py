"""What is known of a register's value: recomputable, or affine in the thread index.

- A register is rematerialised where it has one definition, a pure function of parameters and
  special registers: recomputing beats spilling.
- The affine coefficient is a guess of how a value differs between neighbouring threads; the
  vector form checks it at run time, so a wrong guess costs time only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ringflow.device.host.control_flow.graph import Block
from ringflow.device.host.control_flow.names import reads, writes
from ringflow.device.host.ptx.ast import (
    Address,
    Call,
    Immediate,
    Instruction,
    Register,
    Special,
    Symbol,
)

_PURE = frozenset(
    {"mov", "add", "sub", "mul", "mad", "cvt", "setp", "selp", "and", "or", "xor", "not", "shl"}
    | {"shr", "cvta", "min", "max", "neg", "abs", "fma", "bfe", "prmt", "slct", "lop3", "ld"}
)
_CHANGING = ("%clock", "%globaltimer")
_COST_MAX = 24
VARYING = "varying"
Coefficient = int | str


def definitions(
    blocks: Sequence[Block], alive: Sequence[int], registers: Mapping[str, str]
) -> dict[str, list[Instruction | Call | None]]:
    """Return the statements that write each register; None stands for a collective."""
    found: dict[str, list[Instruction | Call | None]] = {}
    for index in alive:
        for statement in blocks[index].statements:
            for name in writes(statement, registers):
                found.setdefault(name, []).append(statement)
        for name in blocks[index].writes_of_terminator():
            found.setdefault(name, []).append(None)
    return found


def _is_pure(ins: Instruction, entry_parameters: frozenset[str]) -> bool:
    if ins.parts[0] not in _PURE or ins.guard is not None or "cc" in ins.parts:
        return False
    if not ins.operands or not isinstance(ins.operands[0], Register):
        return False
    for operand in ins.operands[1:]:
        if isinstance(operand, Special) and operand.name.startswith(_CHANGING):
            return False
        if isinstance(operand, Address):
            if ins.parts[1] != "param":
                return False
            base = operand.base
            if isinstance(base, Symbol) and base.name not in entry_parameters:
                return False
        elif ins.parts[0] == "ld":
            return False
    return True


def rematerialised(
    found: Mapping[str, list[Instruction | Call | None]], entry_parameters: frozenset[str]
) -> dict[str, Instruction]:
    """Return the registers to recompute rather than spill, with their definition."""
    costs: dict[str, int | None] = {}

    def cost(name: str) -> int | None:
        if name in costs:
            return costs[name]
        costs[name] = None
        statements = found.get(name, [])
        statement = statements[0] if len(statements) == 1 else None
        if not isinstance(statement, Instruction) or not _is_pure(statement, entry_parameters):
            return None
        total = 1
        for operand in reads(statement):
            each = cost(operand)
            if each is None:
                return None
            total += each
        if total <= _COST_MAX:
            costs[name] = total
        return costs[name]

    result: dict[str, Instruction] = {}
    for name in found:
        if cost(name) is not None:
            statement = found[name][0]
            assert isinstance(statement, Instruction)
            result[name] = statement
    return result


def _operand(operand: object, known: Mapping[str, Coefficient]) -> Coefficient | None:
    """Return an operand's coefficient, None while it is not known."""
    if isinstance(operand, Immediate | Symbol):
        return 0
    if isinstance(operand, Special):
        if operand.name == "%tid.x":
            return 1
        uniform = operand.name.startswith(("%ntid", "%ctaid", "%nctaid", "%tid.", "%gridid"))
        return 0 if uniform else VARYING
    if isinstance(operand, Register):
        return known.get(operand.name)
    if isinstance(operand, Address):
        return _operand(operand.base, known)
    return VARYING


def _uniform(value: Coefficient | None) -> Coefficient | None:
    return value if value in (0, None) else VARYING


def _result(ins: Instruction, known: Mapping[str, Coefficient]) -> Coefficient | None:
    root = ins.parts[0]
    if root == "ld":
        # What lies at one address is one value, unless it changes meanwhile.
        return VARYING if "local" in ins.parts else _uniform(_operand(ins.operands[1], known))
    if root not in _PURE | {"div", "rem"}:
        return VARYING
    if "cc" in ins.parts or not isinstance(ins.operands[0], Register):
        return VARYING
    values = [_operand(operand, known) for operand in ins.operands[1:]]
    if any(value is None for value in values):
        return None
    if VARYING in values:
        return VARYING
    if not any(values):
        return 0
    numbers = [value if isinstance(value, int) else 0 for value in values]
    if ins.parts[-1] in ("f32", "f64", "pred"):
        return VARYING
    return _linear(ins, numbers)


def _linear(ins: Instruction, values: list[int]) -> Coefficient:
    root = ins.parts[0]
    constants = [o.value if isinstance(o, Immediate) else None for o in ins.operands[1:]]
    if root in ("mov", "cvt", "cvta"):
        return values[0]
    if root in ("add", "or"):
        return values[0] + values[1]
    if root == "sub":
        return values[0] - values[1]
    if root == "shl" and constants[1] is not None:
        return values[0] << constants[1]
    if root in ("mul", "mad") and "hi" not in ins.parts:
        rest = values[2] if root == "mad" else 0
        if constants[1] is not None:
            return values[0] * constants[1] + rest
        if constants[0] is not None:
            return values[1] * constants[0] + rest
        if not values[0] and not values[1]:
            return rest
    return VARYING


def affine_coefficients(
    found: Mapping[str, list[Instruction | Call | None]],
) -> dict[str, int]:
    """Return the guessed difference between neighbouring threads, where there is a guess."""
    known: dict[str, Coefficient] = {}
    changed = True
    while changed:
        changed = False
        for name, statements in found.items():
            value = known.get(name)
            if value == VARYING:
                continue
            for statement in statements:
                new: Coefficient | None = VARYING
                if isinstance(statement, Instruction) and statement.guard is None:
                    new = _result(statement, known)
                if new is None:
                    continue
                value = new if value is None or value == new else VARYING
            if value is not None and value != known.get(name):
                known[name] = value
                changed = True
    return {name: value for name, value in known.items() if isinstance(value, int)}
