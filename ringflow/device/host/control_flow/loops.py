"""Loops that are left when the graph is cut at barriers and warp collectives.

- POLL: the loop waits for memory to change; a thread gives way at each round.
- CUT: each iteration is a region of its own in the vector form, all threads abreast.
- FUEL: the loop runs natively and gives way when its fuel is used up.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from ringflow.device.host.control_flow.graph import Block, Branch, Suspend, Switch
from ringflow.device.host.control_flow.names import reads, writes
from ringflow.device.host.ptx.ast import Call, Instruction

_STATEMENTS_MAX = 300
"""A longer body is not cut: the vector form would spill more than it gains."""
_WAITING = frozenset({"volatile", "acquire", "relaxed", "mmio"})


class LoopKind(enum.Enum):
    POLL = "poll"
    CUT = "cut"
    FUEL = "fuel"


@attrs.frozen
class Loop:
    """A natural loop: the edges back to one header, and the blocks between."""

    header: int
    latches: frozenset[int]
    blocks: frozenset[int]


def reachable(blocks: Sequence[Block]) -> list[int]:
    """Return the blocks that the entry reaches, suspensions crossed, in the order of the text."""
    seen = {0}
    stack = [0]
    while stack:
        for successor in blocks[stack.pop()].all_successors():
            if successor not in seen:
                seen.add(successor)
                stack.append(successor)
    return sorted(seen)


def _back_edges(blocks: Sequence[Block], alive: Sequence[int]) -> list[tuple[int, int]]:
    roots = [0] + [
        block.terminator.target
        for block in (blocks[index] for index in alive)
        if isinstance(block.terminator, Suspend)
    ]
    found: list[tuple[int, int]] = []
    state: dict[int, int] = {}
    for root in roots:
        if root in state:
            continue
        stack: list[tuple[int, Iterable[int]]] = [(root, iter(blocks[root].successors()))]
        state[root] = 1
        while stack:
            index, successors = stack[-1]
            for successor in successors:
                if successor not in state:
                    state[successor] = 1
                    stack.append((successor, iter(blocks[successor].successors())))
                    break
                if state[successor] == 1:
                    found.append((index, successor))
            else:
                state[index] = 2
                stack.pop()
    return found


def loops_of(blocks: Sequence[Block], alive: Sequence[int]) -> list[Loop]:
    """Return the loops that no suspension cuts, inner ones first."""
    predecessors: dict[int, list[int]] = {index: [] for index in alive}
    for index in alive:
        for successor in blocks[index].successors():
            predecessors[successor].append(index)
    latches: dict[int, set[int]] = {}
    for latch, header in _back_edges(blocks, alive):
        latches.setdefault(header, set()).add(latch)
    loops = []
    for header, ends in latches.items():
        inside = {header, *ends}
        stack = [end for end in ends if end != header]
        while stack:
            for predecessor in predecessors[stack.pop()]:
                if predecessor not in inside:
                    inside.add(predecessor)
                    stack.append(predecessor)
        loops.append(Loop(header, frozenset(ends), frozenset(inside)))
    return sorted(loops, key=lambda loop: (len(loop.blocks), loop.header))


def progress_order(blocks: Sequence[Block], loops: Sequence[Loop]) -> dict[int, int]:
    """Return each block's rank such that a loop's blocks come before what follows the loop.

    Threads with lower ranks lag behind: run first, they catch up with the others.
    """

    def leaves(index: int, successor: int) -> int:
        return sum(index in loop.blocks and successor not in loop.blocks for loop in loops)

    def ordered(index: int) -> Iterator[int]:
        successors = blocks[index].all_successors()
        return iter(sorted(successors, key=lambda s: -leaves(index, s)))

    finished: list[int] = []
    seen = {0}
    stack = [(0, ordered(0))]
    while stack:
        index, successors = stack[-1]
        for successor in successors:
            if successor not in seen:
                seen.add(successor)
                stack.append((successor, ordered(successor)))
                break
        else:
            finished.append(index)
            stack.pop()
    return {index: rank for rank, index in enumerate(reversed(finished))}


def is_waiting(ins: Instruction) -> bool:
    """Whether an instruction looks at memory that others change, or sleeps."""
    if ins.parts[0] == "nanosleep":
        return True
    return ins.parts[0] == "ld" and not _WAITING.isdisjoint(ins.parts[1:])


def _deciding(loop: Loop, blocks: Sequence[Block], registers: object) -> set[int]:
    """Return the ids of the statements that an exit's condition depends on."""
    wanted: set[str] = set()
    for index in loop.blocks:
        block = blocks[index]
        leaves = any(successor not in loop.blocks for successor in block.successors())
        if leaves and isinstance(block.terminator, Branch | Switch):
            wanted.update(block.reads_of_terminator())
    chosen: set[int] = set()
    changed = True
    while changed:
        changed = False
        for index in loop.blocks:
            for statement in blocks[index].statements:
                if id(statement) in chosen:
                    continue
                if not wanted.isdisjoint(writes(statement, registers)):
                    chosen.add(id(statement))
                    wanted.update(reads(statement))
                    changed = True
    return chosen


def _is_poll(loop: Loop, blocks: Sequence[Block], registers: object) -> bool:
    atomics = False
    for index in loop.blocks:
        for statement in blocks[index].statements:
            if isinstance(statement, Instruction):
                if is_waiting(statement):
                    return True
                atomics = atomics or statement.parts[0] == "atom"
    if not atomics:
        return False
    chosen = _deciding(loop, blocks, registers)
    return any(
        isinstance(statement, Instruction)
        and statement.parts[0] == "atom"
        and id(statement) in chosen
        for index in loop.blocks
        for statement in blocks[index].statements
    )


def is_plain_access(statement: Instruction | Call) -> bool:
    """Whether a statement is an ordinary load or store of global, shared or generic memory."""
    if isinstance(statement, Call) or statement.parts[0] not in ("ld", "st"):
        return False
    return not {"param", "local", "const"} & set(statement.parts)


def defeats_vectors(statement: Instruction | Call) -> bool:
    """Whether LLVM's vectoriser gives up at a statement."""
    if isinstance(statement, Call):
        return True
    if statement.parts[0] in ("atom", "red", "fence", "membar", "sin", "cos", "tanh", "ex2", "lg2"):
        return True
    return statement.parts[0] in ("ld", "st") and bool(
        (_WAITING | {"release"}) & set(statement.parts)
    )


def _pays(loop: Loop, blocks: Sequence[Block]) -> bool:
    statements = [s for index in loop.blocks for s in blocks[index].statements]
    if len(statements) > _STATEMENTS_MAX or any(map(defeats_vectors, statements)):
        return False
    return any(map(is_plain_access, statements))


def classify(
    loops: Sequence[Loop], blocks: Sequence[Block], registers: object
) -> Mapping[int, LoopKind]:
    """Return the kind of each loop by its header; ``loops`` come inner ones first."""
    kinds: dict[int, LoopKind] = {}
    for loop in loops:
        inner = [kinds[h] for h in kinds if h in loop.blocks and h != loop.header]
        if _is_poll(loop, blocks, registers):
            kinds[loop.header] = LoopKind.POLL
        elif LoopKind.FUEL not in inner and (LoopKind.CUT in inner or _pays(loop, blocks)):
            kinds[loop.header] = LoopKind.CUT
        else:
            kinds[loop.header] = LoopKind.FUEL
    return kinds
