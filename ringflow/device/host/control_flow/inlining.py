"""Inline the functions that cannot be plain LLVM functions into a kernel.

- Inlined: what suspends, loops, traps, or uses shared memory or a special register; and callers
  of those. Recursion among them is refused.
- The parameters of an inlined call become registers where every access agrees on offset and
  width, else local memory, so that they survive a suspension.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ringflow.device.host.control_flow.names import SUSPENDING, Renaming
from ringflow.device.host.emit.calls import PRINT
from ringflow.device.host.emit.function import ASSERTIONS
from ringflow.device.host.ptx.ast import (
    TYPE_BYTES,
    Address,
    Call,
    Function,
    Guard,
    Immediate,
    Instruction,
    Label,
    Prototype,
    Register,
    Special,
    Statement,
    Symbol,
    Variable,
    Vector,
)
from ringflow.errors import UnsupportedPtxError

_PLAIN_SPECIALS = ("%clock", "%globaltimer")
_DEPTH_MAX = 64


def inlined_functions(functions: Mapping[str, Function]) -> dict[str, tuple[str, int]]:
    """Return the functions that have to be inlined, each with the reason and its line."""
    found: dict[str, tuple[str, int]] = {}
    for function in functions.values():
        reason = None if function.entry or function.body is None else _reason(function)
        if reason is not None:
            found[function.name] = reason
    changed = True
    while changed:
        changed = False
        for function in functions.values():
            if function.entry or function.name in found:
                continue
            for statement in function.body or ():
                if isinstance(statement, Call) and statement.target in found:
                    found[function.name] = (f"it calls {statement.target!r}", statement.line)
                    changed = True
                    break
    return found


def _reason(function: Function) -> tuple[str, int] | None:
    for variable in function.variables.values():
        if variable.space == "shared":
            return "it has shared memory", variable.line
    for statement in function.body or ():
        if isinstance(statement, Call):
            if statement.target in ASSERTIONS:
                return "it asserts", statement.line
            if statement.target == PRINT:
                return "it prints", statement.line
            continue
        if isinstance(statement, Label):
            continue
        if statement.parts[0] in SUSPENDING:
            return f"it uses {statement.parts[0]}", statement.line
        if statement.parts[0] in ("trap", "brkpt", "exit", "isspacep"):
            return f"it uses {statement.parts[0]}", statement.line
        if "shared" in statement.parts or "shared::cta" in statement.parts:
            return "it uses shared memory", statement.line
        for operand in statement.operands:
            if isinstance(operand, Special) and not operand.name.startswith(_PLAIN_SPECIALS):
                return f"it reads {operand.name}", statement.line
    return None


def _has_loop(function: Function) -> bool:
    """Whether a branch goes back in the text."""
    seen: set[str] = set()
    for statement in function.body or ():
        if isinstance(statement, Label):
            seen.add(statement.name)
        elif isinstance(statement, Instruction) and statement.parts[0] in ("bra", "brx"):
            target = statement.operands[-1]
            name = target.name if isinstance(target, Symbol) else ""
            if not seen.isdisjoint(function.targets.get(name, (name,))):
                return True
    return False


def looping_functions(functions: Mapping[str, Function]) -> frozenset[str]:
    """Return the functions that loop, or call one that does, and do not call themselves.

    Inlined in a kernel their loops can give way; a recursive one stays a native function.
    """
    reach = _reach(functions)
    loops = {name for name, f in functions.items() if f.body is not None and _has_loop(f)}
    return frozenset(
        name
        for name, targets in reach.items()
        if not functions[name].entry and name not in targets and (name in loops or targets & loops)
    )


def plain_functions(functions: Mapping[str, Function]) -> frozenset[str]:
    """Return the functions that are defined and do not call themselves."""
    return frozenset(
        name
        for name, targets in _reach(functions).items()
        if functions[name].body is not None and not functions[name].entry and name not in targets
    )


def needs_guard(functions: Mapping[str, Function]) -> bool:
    """Whether a module's kernels may call what cannot be inlined: by a pointer, or recursively."""
    if not any(function.entry for function in functions.values()):
        return False
    recursive = any(name in targets for name, targets in _reach(functions).items())
    return recursive or any(
        isinstance(statement, Call) and isinstance(statement.target, Register)
        for function in functions.values()
        for statement in function.body or ()
    )


def _reach(functions: Mapping[str, Function]) -> dict[str, set[str]]:
    """Return the functions that each one calls, directly or through others."""
    calls = {
        name: {str(s.target) for s in function.body or () if isinstance(s, Call)}
        for name, function in functions.items()
    }
    reach = {name: set(targets) for name, targets in calls.items()}
    changed = True
    while changed:
        changed = False
        for targets in reach.values():
            more = set().union(*(reach.get(target, set()) for target in targets)) - targets
            changed = changed or bool(more)
            targets |= more
    return reach


@attrs.define
class _Inliner:
    functions: Mapping[str, Function]
    chosen: frozenset[str]
    registers: dict[str, str]
    variables: dict[str, Variable]
    targets: dict[str, tuple[str, ...]]
    prototypes: dict[str, Prototype]
    spanning: set[str] = attrs.Factory(set)
    count: int = 0

    def body(self, statements: tuple[Statement, ...], stack: tuple[str, ...]) -> list[Statement]:
        result: list[Statement] = []
        for statement in statements:
            if isinstance(statement, Call) and statement.target in self.chosen:
                result += self._expand(statement, stack)
            else:
                result.append(statement)
        return result

    def _expand(self, call: Call, stack: tuple[str, ...]) -> list[Statement]:
        name = str(call.target)
        if name in stack or len(stack) > _DEPTH_MAX:
            raise UnsupportedPtxError(name, call.line, "a recursion that suspends or loops")
        callee = self.functions[name]
        self.count += 1
        mark = f"~{self.count}"
        symbols: dict[str, str] = {}
        before: list[Statement] = []
        formals = callee.prototype.parameters
        for formal, argument in zip(formals, call.arguments, strict=True):
            if isinstance(argument, str) and formal.space == "param":
                symbols[formal.name] = argument
                self.spanning.add(argument)
            elif not isinstance(argument, str):
                before.append(_move(formal.name + mark, argument, formal.type, call.line))
        for formal, result in zip(callee.prototype.results, call.results, strict=True):
            symbols[formal.name] = result
            self.spanning.add(result)
        return self._copy(call, callee, mark, symbols, before, stack)

    def _copy(
        self,
        call: Call,
        callee: Function,
        mark: str,
        symbols: dict[str, str],
        before: list[Statement],
        stack: tuple[str, ...],
    ) -> list[Statement]:
        own = {*callee.variables} - symbols.keys()
        for register, kind in callee.registers.items():
            self.registers[symbols.get(register, register + mark)] = kind
        for variable in own:
            self.variables[variable + mark] = attrs.evolve(
                callee.variables[variable], name=variable + mark
            )
        for label, targets in callee.targets.items():
            self.targets[label + mark] = tuple(target + mark for target in targets)
        for label, prototype in callee.prototypes.items():
            self.prototypes[label + mark] = prototype
        end = f"end{mark}"
        renaming = Renaming(
            register=lambda name: symbols.get(name, name + mark),
            symbol=lambda name: symbols.get(name, name + mark if name in own else name),
            label=lambda name: name + mark,
        )
        copied: list[Statement] = []
        for statement in callee.body or ():
            renamed = renaming.statement(statement)
            if isinstance(renamed, Instruction) and renamed.parts[0] == "ret":
                renamed = _jump(end, renamed.guard, renamed.line)
            copied.append(renamed)
        whole = [*before, *self.body(tuple(copied), (*stack, callee.name)), Label(end, call.line)]
        if call.guard is None:
            return whole
        skip = f"skip{mark}"
        inverse = Guard(call.guard.register, not call.guard.negated)
        return [_jump(skip, inverse, call.line), *whole, Label(skip, call.line)]


def _jump(label: str, guard: Guard | None, line: int) -> Instruction:
    return Instruction("bra", ("bra",), (Symbol(label),), guard, line)


def _move(target: str, source: Register | Immediate, kind: str, line: int) -> Instruction:
    return Instruction(f"mov.{kind}", ("mov", kind), (Register(target), source), None, line)


def inline(
    function: Function, functions: Mapping[str, Function], chosen: frozenset[str]
) -> Function:
    """Return a kernel with the chosen functions expanded in its body.

    Raises:
        UnsupportedPtxError: one of them calls itself.
    """
    inliner = _Inliner(
        functions,
        chosen,
        dict(function.registers),
        dict(function.variables),
        dict(function.targets),
        dict(function.prototypes),
    )
    body = inliner.body(function.body or (), (function.name,))
    spanning = {name for name in inliner.spanning if name in inliner.variables}
    body = _promote(body, spanning, inliner.registers, inliner.variables)
    return attrs.evolve(
        function,
        body=tuple(body),
        registers=inliner.registers,
        variables=inliner.variables,
        targets=inliner.targets,
        prototypes=inliner.prototypes,
    )


def _parameter_access(statement: Statement) -> tuple[str, int, int, int] | None:
    """Return variable, offset, element bytes and count of a param load or store."""
    if not isinstance(statement, Instruction) or statement.parts[0] not in ("ld", "st"):
        return None
    address = statement.operands[1 if statement.parts[0] == "ld" else 0]
    if not isinstance(address, Address) or not isinstance(address.base, Symbol):
        return None
    other = statement.operands[0 if statement.parts[0] == "ld" else 1]
    count = len(other.items) if isinstance(other, Vector) else 1
    offset = address.offset_bytes + address.base.offset_bytes
    return address.base.name, offset, TYPE_BYTES[statement.parts[-1]], count


def _promote(
    body: list[Statement],
    spanning: set[str],
    registers: dict[str, str],
    variables: dict[str, Variable],
) -> list[Statement]:
    """Turn the parameters of inlined calls into registers, or into local memory."""
    pieces: dict[str, set[tuple[int, int]]] = {name: set() for name in spanning}
    memory: set[str] = set()
    for statement in body:
        access = _parameter_access(statement)
        if access is not None and access[0] in spanning:
            name, offset, size, count = access
            pieces[name].update((offset + index * size, size) for index in range(count))
        elif isinstance(statement, Call):
            memory.update(spanning.intersection(statement.results))
            memory.update(spanning & {a for a in statement.arguments if isinstance(a, str)})
        elif isinstance(statement, Instruction):
            for operand in statement.operands:
                if isinstance(operand, Symbol) and operand.name in spanning:
                    memory.add(operand.name)
    memory |= {name for name in spanning if _overlap(pieces[name])}
    for name in memory:
        variables[name] = attrs.evolve(variables[name], space="local")
    for name in spanning - memory:
        for offset, size in pieces[name]:
            registers[f"{name}@{offset}"] = f"b{8 * size}"
    result: list[Statement] = []
    for statement in body:
        access = _parameter_access(statement)
        if access is None or access[0] not in spanning:
            result.append(statement)
        elif access[0] in memory:
            assert isinstance(statement, Instruction)
            parts = tuple("local" if p.startswith("param") else p for p in statement.parts)
            result.append(attrs.evolve(statement, parts=parts, opcode=".".join(parts)))
        else:
            assert isinstance(statement, Instruction)
            result += _moves(statement, *access)
    return result


def _overlap(pieces: set[tuple[int, int]]) -> bool:
    end = 0
    for offset, size in sorted(pieces):
        if offset < end:
            return True
        end = offset + size
    return False


def _moves(ins: Instruction, name: str, offset: int, size: int, count: int) -> list[Statement]:
    load = ins.parts[0] == "ld"
    other = ins.operands[0 if load else 1]
    items = other.items if isinstance(other, Vector) else (other,) * count
    result: list[Statement] = []
    for index, item in enumerate(items):
        register = Register(f"{name}@{offset + index * size}")
        if item is None:
            continue
        kind = ins.parts[-1]
        parts = ("cvt", kind, kind) if kind[0] in "us" else ("mov", f"b{8 * size}")
        if size == 1:
            parts = ("cvt", "s8", "s8") if kind == "s8" else ("cvt", "u8", "u8")
        operands = (item, register) if load else (register, item)
        result.append(Instruction(".".join(parts), parts, operands, ins.guard, ins.line))
    return result
