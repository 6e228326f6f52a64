"""Liveness of registers, as bit sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ringflow.device.host.control_flow.graph import Block
from ringflow.device.host.control_flow.names import reads, writes


def live_registers(
    blocks: Sequence[Block], alive: Sequence[int], registers: Mapping[str, str]
) -> dict[int, frozenset[str]]:
    """Return, for each block, the registers that are live where it starts."""
    names = list(registers)
    bit = {name: 1 << index for index, name in enumerate(names)}
    uses: dict[int, int] = {}
    kills: dict[int, int] = {}
    for index in alive:
        block = blocks[index]
        used = killed = 0
        for statement in block.statements:
            for name in reads(statement):
                used |= bit[name] & ~killed
            for name in writes(statement, registers):
                if statement.guard is None:
                    killed |= bit[name]
                else:
                    used |= bit[name] & ~killed
        for name in block.reads_of_terminator():
            used |= bit[name] & ~killed
        uses[index], kills[index] = used, killed
    live = {index: uses[index] for index in alive}
    changed = True
    while changed:
        changed = False
        for index in reversed(alive):
            out = 0
            for successor in blocks[index].all_successors():
                out |= live[successor]
            for name in blocks[index].writes_of_terminator():
                out &= ~bit[name]
            new = uses[index] | (out & ~kills[index])
            if new != live[index]:
                live[index] = new
                changed = True
    return {index: frozenset(_names(value, names)) for index, value in live.items()}


def _names(value: int, names: Sequence[str]) -> list[str]:
    found = []
    while value:
        low = value & -value
        found.append(names[low.bit_length() - 1])
        value ^= low
    return found
