"""The plan of a kernel: its regions, what they spill and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from ringflow.device.host import cta
from ringflow.device.host.control_flow.graph import Block, Suspend, Trap, blocks_of
from ringflow.device.host.control_flow.liveness import live_registers
from ringflow.device.host.control_flow.loops import (
    LoopKind,
    classify,
    defeats_vectors,
    is_plain_access,
    loops_of,
    progress_order,
    reachable,
)
from ringflow.device.host.control_flow.names import writes
from ringflow.device.host.control_flow.values import (
    affine_coefficients,
    definitions,
    rematerialised,
)
from ringflow.device.host.ptx.ast import Function, Instruction
from ringflow.errors import UnsupportedPtxError

_VECTOR_STATEMENTS_MAX = 600
_COPYING_STATEMENTS_MAX = 40
"""A longer region without memory accesses gains too little from vectors for its compile time."""


@attrs.frozen
class Region:
    """A resume point: the block it starts at, its state word, the collective it follows."""

    index: int
    block: int
    word: int
    ins: Instruction | None


@attrs.frozen
class Plan:
    """All that the emitter needs to know of a kernel.

    Attributes:
        cuts: the loop edges (from, to) with the kind of their loop.
        by_block: the region that resumes at a block.
        spills: the unit of each spilled register.
        recomputed: the definitions of the registers that are not spilled.
        coefficients: guessed differences between neighbouring threads.
        traps: kind and line of each trap, by its number in state words.
    """

    function: Function
    blocks: Sequence[Block]
    alive: Sequence[int]
    regions: Sequence[Region]
    by_block: Mapping[int, Region]
    cuts: Mapping[tuple[int, int], LoopKind]
    live: Mapping[int, frozenset[str]]
    spills: Mapping[str, int]
    recomputed: Mapping[str, Instruction]
    coefficients: Mapping[str, int]
    traps: Sequence[Trap]
    unit_count: int
    preempt: bool
    memcheck: bool

    def crossing(self, edge: tuple[int, int], *, vector: bool) -> LoopKind | None:
        """Return how control leaves the region at an edge, None where it goes on."""
        kind = self.cuts.get(edge)
        if kind is LoopKind.CUT and not vector:
            kind = LoopKind.FUEL
        if kind is LoopKind.FUEL and not self.preempt:
            return None
        return kind

    def members(self, region: Region, *, vector: bool) -> list[int]:
        """Return the blocks of a region in the order of the text."""
        seen = {region.block}
        stack = [region.block]
        while stack:
            index = stack.pop()
            for successor in self.blocks[index].successors():
                kind = self.crossing((index, successor), vector=vector)
                if kind in (LoopKind.POLL, LoopKind.CUT) or successor in seen:
                    continue
                seen.add(successor)
                stack.append(successor)
        return sorted(seen)

    def is_vector(self, region: Region) -> bool:
        """Whether the region can run as a vector loop over threads."""
        if region.word & cta.STATE_POLL or self.memcheck:
            return False
        members = self.members(region, vector=True)
        statements = [s for index in members for s in self.blocks[index].statements]
        if len(statements) > _VECTOR_STATEMENTS_MAX or any(map(defeats_vectors, statements)):
            return False
        if len(statements) > _COPYING_STATEMENTS_MAX and not any(map(is_plain_access, statements)):
            return False
        inside = set(members)
        for index in members:
            for successor in self.blocks[index].successors():
                if self.cuts.get((index, successor)) is LoopKind.FUEL and successor in inside:
                    return False
        return True


def _word(ins: Instruction) -> int:
    warp = ins.parts[0] not in ("bar", "barrier") or "warp" in ins.parts
    return cta.STATE_WARP if warp else cta.STATE_BARRIER


def _regions(
    blocks: Sequence[Block],
    rank: Mapping[int, int],
    kinds: Mapping[int, LoopKind],
    latches: Mapping[int, int],
) -> list[Region]:
    """Number the resume points by rank, so that the runtime lets laggards go first."""
    points: list[tuple[int, int, int, Instruction | None]] = []
    for index in rank:
        terminator = blocks[index].terminator
        if isinstance(terminator, Suspend):
            word = _word(terminator.ins)
            points.append((rank[index], terminator.target, word, terminator.ins))
    for header, kind in kinds.items():
        word = cta.STATE_POLL if kind is LoopKind.POLL else 0
        points.append((latches[header], header, word, None))
    regions = [Region(0, 0, 0, None)]
    for number, (_, block, word, ins) in enumerate(sorted(points, key=lambda p: p[:2]), 1):
        regions.append(Region(number, block, word | number, ins))
    return regions


def plan_kernel(function: Function, *, preempt: bool, memcheck: bool = False) -> Plan:
    """Cut a kernel whose suspending calls are inlined.

    Args:
        memcheck: accesses may trap; threads then run one by one.
    Raises:
        UnsupportedPtxError: it has more resume points than a state word can name.
    """
    blocks = blocks_of(function)
    alive = reachable(blocks)
    loops = loops_of(blocks, alive)
    kinds = dict(classify(loops, blocks, function.registers))
    cuts = {
        (latch, loop.header): kinds[loop.header]
        for loop in loops
        if loop.header in kinds
        for latch in loop.latches
    }
    if any(loop.header == 0 for loop in loops):
        raise UnsupportedPtxError("bra", function.line, "a loop to the kernel's first block")
    rank = progress_order(blocks, loops)
    latches = {loop.header: max(rank[latch] for latch in loop.latches) for loop in loops}
    resumable = {h: kind for h, kind in kinds.items() if preempt or kind is not LoopKind.FUEL}
    regions = _regions(blocks, rank, resumable, latches)
    if len(regions) > cta.STATE_REGION:
        raise UnsupportedPtxError(function.name, function.line, "too many resume points")
    live = live_registers(blocks, alive, function.registers)
    found = definitions(blocks, alive, function.registers)
    parameters = frozenset(variable.name for variable in function.prototype.parameters)
    recomputed = rematerialised(found, parameters)
    spills, units = _spills(function, regions, live, recomputed)
    traps = [t for t in (blocks[index].terminator for index in alive) if isinstance(t, Trap)]
    traps.append(Trap(cta.TRAP_MEMORY, 0))
    return Plan(
        function,
        blocks,
        alive,
        regions,
        {region.block: region for region in regions},
        cuts,
        live,
        spills,
        recomputed,
        affine_coefficients(found),
        traps,
        units,
        preempt,
        memcheck,
    )


def _spills(
    function: Function,
    regions: Sequence[Region],
    live: Mapping[int, frozenset[str]],
    recomputed: Mapping[str, Instruction],
) -> tuple[dict[str, int], int]:
    """Give each register that lives across a suspension a unit, 64-bit ones two."""
    needed: dict[str, None] = {}
    for region in regions[1:]:
        taken = writes(region.ins, ()) if region.ins is not None else ()
        for name in sorted(live[region.block].difference(taken)):
            if name not in recomputed:
                needed[name] = None
    unit = cta.FIRST_SPILL_UNIT
    spills: dict[str, int] = {}
    for name in needed:
        spills[name] = unit
        unit += 2 if function.registers[name][1:] == "64" else 1
    return spills, unit
