"""Which of a module's variables are state: what its code may write to, and what holds addresses.

- A whole-program analysis of where addresses go, blind to order: a variable counts as written if
  a store, an atomic or an unknown function may reach it; in doubt it does, it is only copied then.
- A value carries the addresses of everything that it was computed from. Whether it is itself an
  address is asked less widely: it is where registers and parameters alone have brought it there.
- Memory that no variable of the module names, such as a kernel's regions, is one place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import attrs

from ringflow.device.host.ptx.ast import (
    Address,
    Call,
    Function,
    Instruction,
    Module,
    Negated,
    Operand,
    Pair,
    Register,
    Symbol,
    Vector,
)

Node = tuple[str, str]
"""A function's name, empty for the module's own, and the name of a register or variable in it."""

_ELSEWHERE: Final[Node] = ("", "*")
_READERS: Final = frozenset({"vprintf", "__assertfail"})
"""Functions outside of the module that only read what they are given."""
_LOADS: Final = frozenset({"ld", "ldu", "prefetch", "prefetchu"})
_COMPARISONS: Final = frozenset({"setp", "set", "isspacep"})
_KEEP: Final = frozenset({"mov", "cvta", "add", "selp"})
"""Instructions whose result is an address if an operand is one."""
_OWN_SPACES: Final = frozenset({"local", "shared", "param", "const"})
"""Spaces in which everything belongs to a variable of the module."""


@attrs.frozen
class ModuleState:
    """What a module keeps between messages besides the memory that it is given.

    Attributes:
        written: names of the ``.global`` variables that its code may write to.
        addresses: of these, the ones that hold addresses, and of what.
    """

    written: tuple[str, ...]
    addresses: Mapping[str, tuple[str, ...]]


def state_of(module: Module) -> ModuleState:
    """Return what of a module's variables is state."""
    names = [
        name
        for name, variable in module.variables.items()
        if variable.space == "global" and not variable.external
    ]
    if not names:
        return ModuleState((), {})
    flow = _Flow(module)
    flow.settle()
    written = tuple(name for name in names if ("", name) in flow.written)
    held = {name: sorted(what for _, what in flow.stored[("", name)]) for name in written}
    return ModuleState(written, {name: tuple(what) for name, what in held.items() if what})


class _Flow:
    """Addresses that registers and variables may hold, grown until nothing is new.

    ``holds`` of a register are the addresses that its value may come from, of a variable those in
    its memory. ``is_one``: the addresses that a register or parameter is; ``stored``: those that a
    variable has by its initial value or by a store of such a register.
    """

    def __init__(self, module: Module) -> None:
        self.module = module
        self.holds: dict[Node, set[Node]] = defaultdict(set)
        self.is_one: dict[Node, set[Node]] = defaultdict(set)
        self.stored: dict[Node, set[Node]] = defaultdict(set)
        self.written: set[Node] = set()
        for variable in module.variables.values():
            for item in variable.initial:
                if item.symbol is not None:
                    self.stored[("", variable.name)].add(("", item.symbol))
            self.holds[("", variable.name)] |= self.stored[("", variable.name)]
        self.steps: list[Callable[[], None]] = []
        for function in module.functions.values():
            for statement in function.body or ():
                if isinstance(statement, Instruction):
                    self._instruction(function, statement)
                elif isinstance(statement, Call):
                    self._call(function, statement)

    def settle(self) -> None:
        """Follow all statements until no set grows."""
        before = -1
        while (size := self._size()) != before:
            before = size
            for step in self.steps:
                step()

    def _size(self) -> int:
        sets = (self.holds, self.is_one, self.stored)
        return len(self.written) + sum(len(held) for one in sets for held in one.values())

    # Operands

    def _node(self, function: Function, name: str) -> Node:
        mine = name in function.registers or name in function.variables
        return (function.name if mine else "", name)

    def _registers(self, function: Function, operand: Operand) -> Iterator[Node]:
        """Yield the registers in an operand."""
        match operand:
            case Register(name=name) | Negated(register=Register(name=name)):
                yield self._node(function, name)
            case Vector(items=items):
                for item in items:
                    if isinstance(item, Register):
                        yield self._node(function, item.name)
            case Pair(first=first, second=second):
                for one in (first, second):
                    if one is not None:
                        yield self._node(function, one.name)

    def _named(self, function: Function, operand: Operand | str) -> Node | None:
        """Return the variable or function whose address an operand is."""
        if not isinstance(operand, Symbol):
            return None
        node = self._node(function, operand.name)
        known = self.module.variables.keys() | self.module.functions.keys()
        return node if node[0] or node[1] in known else None

    def _values(self, function: Function, operands: tuple[Operand, ...]) -> _Values:
        named = (self._named(function, operand) for operand in operands)
        registers = [node for one in operands for node in self._registers(function, one)]
        return _Values(frozenset(node for node in named if node is not None), tuple(registers))

    # Statements

    def _instruction(self, function: Function, ins: Instruction) -> None:
        place = next((one for one in ins.operands if isinstance(one, Address)), None)
        if place is None:
            if ins.operands and ins.parts[0] not in _COMPARISONS:
                values = self._values(function, ins.operands[1:])
                targets = tuple(self._registers(function, ins.operands[0]))
                if values.can_hold and targets:
                    keeps = ins.parts[0] in _KEEP
                    self.steps.append(lambda: self._copy(targets, values, keeps))
            return
        at = ins.operands.index(place)
        sources = self._values(function, ins.operands[at + 1 :])
        before = ins.operands[:at]
        targets = tuple(node for one in before for node in self._registers(function, one))
        bases = self._bases(function, ins, place)
        self.steps.append(lambda: self._load(targets, bases()))
        if ins.parts[0] not in _LOADS:
            whole = ins.parts[-1].endswith("64")
            self.steps.append(lambda: self._store(bases(), sources, whole))

    def _bases(
        self, function: Function, ins: Instruction, place: Address
    ) -> Callable[[], set[Node]]:
        """Return what returns the variables that an access may touch, as far as is known."""
        if isinstance(place.base, Symbol):
            named = {self._node(function, place.base.name)}
            return lambda: named
        elsewhere = set() if _OWN_SPACES & set(ins.parts) else {_ELSEWHERE}
        if not isinstance(place.base, Register):
            return lambda: elsewhere
        base = self._node(function, place.base.name)
        return lambda: (self.holds[base] | elsewhere) or {_ELSEWHERE}

    def _copy(self, targets: tuple[Node, ...], values: _Values, keeps: bool) -> None:
        held, kept = values.held(self.holds), values.held(self.is_one) if keeps else set()
        for target in targets:
            self.holds[target] |= held
            self.is_one[target] |= kept

    def _load(self, targets: tuple[Node, ...], places: set[Node]) -> None:
        for target in targets:
            for place in places:
                self.holds[target] |= self.holds[place]
                self.is_one[target] |= self.is_one[place]

    def _store(self, places: set[Node], values: _Values, whole: bool) -> None:
        held = values.held(self.holds)
        addresses = values.held(self.is_one) if whole else set()
        self.written |= places
        for place in places:
            self.holds[place] |= held
            self.stored[place] |= addresses
            if self._is_parameter(place):
                self.is_one[place] |= addresses

    def _is_parameter(self, node: Node) -> bool:
        function = self.module.functions.get(node[0])
        return function is not None and function.variables[node[1]].space == "param"

    # Calls

    def _call(self, function: Function, call: Call) -> None:
        arguments: list[Node] = []
        for one in call.arguments:
            name = one.name if isinstance(one, Register) else one
            arguments.append(self._node(function, name) if isinstance(name, str) else _ELSEWHERE)
        results = [self._node(function, name) for name in call.results]
        callees = self._callees(call)
        for callee in callees:
            if callee.body is None:
                if callee.name not in _READERS:
                    self.steps.append(lambda: self._write_reachable(arguments))
                continue
            formals = [(callee.name, one.name) for one in callee.prototype.parameters]
            for formal, actual in zip(formals, arguments, strict=False):
                self._hand_on(formal, actual)
            for result, formal_result in zip(results, callee.prototype.results, strict=False):
                self._hand_on(result, (callee.name, formal_result.name))

    def _callees(self, call: Call) -> list[Function]:
        """Return the functions that a call may mean: through a register any that fits."""
        functions = self.module.functions
        if isinstance(call.target, str):
            return [functions[call.target]] if call.target in functions else []
        return [
            one
            for one in functions.values()
            if not one.entry and len(one.prototype.parameters) == len(call.arguments)
        ]

    def _hand_on(self, target: Node, source: Node) -> None:
        def step() -> None:
            self.holds[target] |= self.holds[source]
            self.is_one[target] |= self.is_one[source]

        self.steps.append(step)

    def _write_reachable(self, arguments: list[Node]) -> None:
        """Note that an unknown function writes to all that it can reach from its arguments."""
        reached: set[Node] = set()
        waiting = [node for argument in arguments for node in self.holds[argument]]
        while waiting:
            node = waiting.pop()
            if node not in reached:
                reached.add(node)
                waiting += self.holds[node]
        self.written |= reached


@attrs.frozen
class _Values:
    """Operands as a source of addresses: those named, and registers."""

    named: frozenset[Node]
    registers: tuple[Node, ...]

    @property
    def can_hold(self) -> bool:
        return bool(self.named or self.registers)

    def held(self, holds: Mapping[Node, set[Node]]) -> set[Node]:
        found = set(self.named)
        for register in self.registers:
            found |= holds[register]
        return found
