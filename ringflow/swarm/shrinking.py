"""Makes a failing plan short: delta debugging over its lines, then smaller numbers in them.

Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input, 2002. Any part of a plan
is a plan, so a candidate is simply run; it is kept while the failure stays of the same kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import attrs

from ringflow.swarm.plan import CHECK, Plan, is_removable

Fails = Callable[[Plan], bool]
"""Whether a plan fails as the first one did."""

_COUNT = re.compile(r"\b(count|nth|probation|step)[= ](\d+)")


@attrs.define
class _Budget:
    left: int

    def spend(self) -> bool:
        self.left -= 1
        return self.left >= 0


def shrink(plan: Plan, fails: Fails, *, runs_max: int = 300, enough: int = 0) -> Plan:
    """Return a plan as short as ``runs_max`` runs can make it, that fails in the same way.

    Args:
        enough: a plan of so few lines need not get shorter.
    """
    budget = _Budget(runs_max)

    def still(lines: Sequence[str]) -> bool:
        return budget.spend() and fails(attrs.evolve(plan, lines=tuple(lines)))

    lines = list(plan.lines)
    while True:
        before = list(lines)
        lines = _without(lines, still)
        if len(lines) > enough:
            lines = _smaller(lines, still)
        if lines == before or budget.left <= 0 or len(lines) <= enough:
            return attrs.evolve(plan, lines=tuple(lines))


def _without(lines: list[str], still: Callable[[Sequence[str]], bool]) -> list[str]:
    """Leave out ever smaller runs of lines, from the end, while it fails."""
    size = max(1, len(lines) // 2)
    while size:
        end = len(lines)
        while end > 0:
            begin = max(0, end - size)
            kept = [line for line in lines[begin:end] if not is_removable(line)]
            candidate = lines[:begin] + kept + lines[end:]
            if len(candidate) < len(lines) and still(candidate):
                lines = candidate
            end = begin
        size //= 2
    return lines


def _smaller(lines: list[str], still: Callable[[Sequence[str]], bool]) -> list[str]:
    """Simplify lines one by one, while it fails."""
    for index in range(len(lines)):
        for simpler in _simpler(lines[index]):
            candidate = [*lines[:index], simpler, *lines[index + 1 :]]
            if still(candidate):
                lines = candidate
                break
    return lines


def _simpler(line: str) -> Iterator[str]:
    """Yield simpler forms of a line, the simplest first."""
    if line.startswith(CHECK):
        return
    if line.startswith("begin "):
        yield line.split(" ", 2)[2]
    for found in _COUNT.finditer(line):
        number = int(found[2])
        for fewer in sorted({1, number // 2, number - 1}):
            if 0 < fewer < number:
                yield line[: found.start(2)] + str(fewer) + line[found.end(2) :]
    for option in re.findall(r" (?:producer|name|convert|for|ring_slots|reply_slots)=\S+", line):
        yield line.replace(option, "", 1)
