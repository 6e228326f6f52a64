"""A kernel's blocks and the edges between them."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from ringflow.device.host.control_flow.names import SUSPENDING, reads, writes
from ringflow.device.host.emit.calls import ASSERTION
from ringflow.device.host.emit.function import ASSERTIONS, TRAPS
from ringflow.device.host.ptx.ast import Call, Function, Guard, Instruction, Label, Register, Symbol
from ringflow.errors import PtxSyntaxError


@attrs.frozen
class Jump:
    target: int


@attrs.frozen
class Branch:
    condition: Register
    yes: int
    no: int


@attrs.frozen
class Switch:
    index: Register
    targets: tuple[int, ...]


@attrs.frozen
class Leave:
    """The thread leaves the kernel."""


@attrs.frozen
class Trap:
    kind: int
    line: int


@attrs.frozen
class Suspend:
    """A barrier or warp collective; the thread goes on at ``target``."""

    ins: Instruction
    target: int


Terminator = Jump | Branch | Switch | Leave | Trap | Suspend


@attrs.define
class Block:
    """Statements without control flow, and what follows them."""

    index: int
    statements: list[Instruction | Call]
    terminator: Terminator

    def successors(self) -> tuple[int, ...]:
        """Return where control goes without a suspension."""
        match self.terminator:
            case Jump(target):
                return (target,)
            case Branch(_, yes, no):
                return (yes, no) if yes != no else (yes,)
            case Switch(_, targets):
                return tuple(dict.fromkeys(targets))
        return ()

    def all_successors(self) -> tuple[int, ...]:
        if isinstance(self.terminator, Suspend):
            return (self.terminator.target,)
        return self.successors()

    def reads_of_terminator(self) -> list[str]:
        match self.terminator:
            case Branch(condition, _, _):
                return [condition.name]
            case Switch(index, _):
                return [index.name]
            case Suspend(ins, _):
                return reads(attrs.evolve(ins, guard=None))
        return []

    def writes_of_terminator(self) -> list[str]:
        """Registers that the collective writes when the thread goes on."""
        if isinstance(self.terminator, Suspend):
            return writes(self.terminator.ins, ())
        return []


Finish = Callable[[tuple[int, ...]], Terminator]


class _Builder:
    def __init__(self, function: Function) -> None:
        self.function = function
        self.blocks: list[Block] = []
        self.labels: dict[str, int] = {}
        self.pending: list[tuple[Block, tuple[str, ...], Finish]] = []

    def new(self) -> Block:
        block = Block(len(self.blocks), [], Leave())
        self.blocks.append(block)
        return block

    def build(self) -> list[Block]:
        current = self.new()
        for statement in self.function.body or ():
            if isinstance(statement, Label):
                following = self.new()
                current.terminator = Jump(following.index)
                self.labels[statement.name] = following.index
                current = following
            else:
                current = self._statement(current, statement)
        for block, labels, finish in self.pending:
            block.terminator = finish(tuple(self._label(label) for label in labels))
        return self.blocks

    def _label(self, name: str) -> int:
        index = self.labels.get(name)
        if index is None:
            raise PtxSyntaxError(self.function.line, f"label {name!r} is not defined")
        return index

    def _statement(self, current: Block, statement: Instruction | Call) -> Block:
        guard = statement.guard
        if isinstance(statement, Call):
            if statement.target not in ASSERTIONS:
                current.statements.append(statement)
                return current
            failed, following = self._end(current, guard, Trap(ASSERTION, statement.line))
            failed.statements.append(attrs.evolve(statement, guard=None))  # what it says
            return following
        root = statement.parts[0]
        if root == "bra":
            return self._branch(current, statement)
        if root == "brx":
            taken, following = self._end(current, guard, Leave())
            self.pending.append((taken, *self._table(statement)))
            return following
        if root in ("ret", "exit"):
            return self._end(current, guard, Leave())[1]
        if root in TRAPS:
            return self._end(current, guard, Trap(TRAPS[root], statement.line))[1]
        if root in SUSPENDING:
            return self._suspend(current, statement)
        current.statements.append(statement)
        return current

    def _branch(self, current: Block, ins: Instruction) -> Block:
        target = ins.operands[0]
        if not isinstance(target, Symbol):
            raise PtxSyntaxError(ins.line, "a branch names no label")
        following = self.new()
        guard = ins.guard
        if guard is None:
            finish: Finish = lambda found: Jump(found[0])  # noqa: E731
        elif guard.negated:
            finish = lambda found: Branch(guard.register, following.index, found[0])  # noqa: E731
        else:
            finish = lambda found: Branch(guard.register, found[0], following.index)  # noqa: E731
        self.pending.append((current, (target.name,), finish))
        return following

    def _table(self, ins: Instruction) -> tuple[tuple[str, ...], Finish]:
        index, table = ins.operands[0], ins.operands[1]
        if not isinstance(table, Symbol) or not isinstance(index, Register):
            raise PtxSyntaxError(ins.line, "brx.idx names no register or no list of targets")
        if table.name not in self.function.targets:
            raise PtxSyntaxError(ins.line, f"{table.name!r} is not a list of targets")
        return self.function.targets[table.name], lambda found: Switch(index, found)

    def _end(
        self, current: Block, guard: Guard | None, terminator: Terminator
    ) -> tuple[Block, Block]:
        """End with ``terminator``, under a guard if given; return its block and the next one."""
        if guard is None:
            current.terminator = terminator
            return current, self.new()
        taken, following = self.new(), self.new()
        taken.terminator = terminator
        yes, no = taken.index, following.index
        if guard.negated:
            yes, no = no, yes
        current.terminator = Branch(guard.register, yes, no)
        return taken, following

    def _suspend(self, current: Block, ins: Instruction) -> Block:
        """A block of its own resumes, since what follows may be reached without suspending."""
        taken, following = self._end(current, ins.guard, Leave())
        resumed = following
        if ins.guard is not None:
            resumed = self.new()
            joined = self.new()
            following.terminator = Jump(joined.index)
            resumed.terminator = Jump(joined.index)
            following = joined
        taken.terminator = Suspend(ins, resumed.index)
        return following


def blocks_of(function: Function) -> list[Block]:
    """Return the blocks of a kernel in the order of the text; block 0 is the entry.

    Raises:
        PtxSyntaxError: a branch names no label of the function.
    """
    return _Builder(function).build()
