"""The swarm: seed after seed, a plan, a run, and for a failure a short scenario file.

``python`` programs and tests call ``simulate``; ``ringflow simulate`` is its command.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import final

import attrs

from ringflow.files import SystemFiles, write_atomic
from ringflow.storage.folders import storage_errors
from ringflow.swarm.plan import Plan, draw
from ringflow.swarm.running import Failure, Result, run_plan
from ringflow.swarm.shrinking import shrink


@final
@attrs.frozen
class Found:
    """A failure that was found.

    Attributes:
        seed: gives its plan again.
        plan: as short as it could be made.
        path: of the scenario file; None if none was asked for.
    """

    seed: int
    failure: Failure
    plan: Plan
    path: Path | None


@final
@attrs.define
class Report:
    """What a swarm came to; ``found`` is None if everything held in all runs."""

    counts: Counter[str] = attrs.field(factory=Counter)
    found: Found | None = None
    duration_s: float = 0.0

    def __str__(self) -> str:
        names = ("runs", "operations", "messages", "outputs", "crashes", "openings", "faults")
        counts = ", ".join(f"{self.counts[name]} {name}" for name in names)
        return f"{counts} in {self.duration_s:.0f} s"


def simulate(
    seed: int,
    *,
    runs: int | None = None,
    duration_s: float | None = None,
    length: int = 60,
    folder: Path | None = None,
    enough: int = 0,
    progress: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Run plans of ascending seeds until one fails; blocks, where no event loop runs.

    Args:
        seed: of the first run; the next ones count up.
        runs, duration_s: whichever comes first ends it.
        length: lines of a plan, about.
        folder: where the shrunk scenario of a failure is written.
        enough: a failure of so few commands is short enough.
        progress: is called after each run.
    Raises:
        StorageError: ``folder`` refuses; the file's name has the seed that fails.
    """
    report, begun = Report(), time.monotonic()
    while report.found is None and (runs is None or report.counts["runs"] < runs):
        if duration_s is not None and time.monotonic() - begun >= duration_s:
            break
        plan = draw(seed + report.counts["runs"], length=length)
        result = run_plan(plan)
        report.counts += Counter(result.counts) + Counter(runs=1)
        if result.failure is not None:
            report.found = made_short(plan, result.failure, folder, enough=enough)
        report.duration_s = time.monotonic() - begun
        progress(report)
    return report


def made_short(
    plan: Plan, failure: Failure, folder: Path | None = None, *, enough: int = 0
) -> Found:
    """Shrink a failing plan and write it as a scenario file, ready to be committed."""

    def fails(candidate: Plan) -> bool:
        return _fails_as(run_plan(candidate), failure)

    short = shrink(plan, fails, enough=enough)
    path = None if folder is None else _write(short, failure, folder)
    return Found(plan.seed, failure, short, path)


def _fails_as(result: Result, failure: Failure) -> bool:
    return result.failure is not None and result.failure.kind == failure.kind


def _write(plan: Plan, failure: Failure, folder: Path) -> Path:
    name = "".join(one if one.isalnum() else "-" for one in failure.kind.lower()).strip("-")
    path = folder / f"{name}-{plan.seed}.txt"
    purpose = f"Found by ringflow simulate --seed {plan.seed}: {failure.kind}."
    with storage_errors("write", path):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(SystemFiles(), path.resolve(), [plan.text(purpose).encode()])
    return path
