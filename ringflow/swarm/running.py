"""Runs plans as the scenarios that they are, and says how one has failed."""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, final

import attrs

from ringflow.errors import InvariantError, RingflowError, SimulationStuckError
from ringflow.journal.record import RawRecord
from ringflow.scenario.running import perform
from ringflow.scenario.script import parse
from ringflow.scenario.stage import Stage
from ringflow.swarm.plan import Plan

_OPERATIONS: Final = (
    "kernel.launch_requested", "migration.requested", "reload.requested", "snapshot.requested",
    "kernel.rolled_back", "kernel.halt_resolved", "kernel.stop_requested",
)  # fmt: skip


@final
@attrs.frozen
class Failure:
    """How a plan failed.

    Attributes:
        kind: what it is known by while its plan is shrunk: the invariant, or the error.
        said: in full.
    """

    kind: str
    said: str


@final
@attrs.frozen
class Result:
    """What one run of a plan came to.

    Attributes:
        counts: operations, messages, outputs, crashes and faults, by these names.
        failure: None if all held.
    """

    counts: Mapping[str, int]
    failure: Failure | None


def run_plan(plan: Plan) -> Result:
    """Run a plan; blocks, where no event loop runs. Nothing that happens in it is raised."""
    script, stage = parse(plan.text("a plan"), f"seed {plan.seed}"), Stage(Path())
    try:
        outcome = perform(script, stage)
    except Exception as error:  # an assertion of the engine's, say
        with contextlib.suppress(Exception):
            stage.abandon()
        return Result(_counts(stage), Failure(_kind(error), _traced(error)))
    if outcome.error is not None:
        return Result(_counts(stage), Failure(_kind(outcome.error), outcome.failure))
    if outcome.differences:
        return Result(_counts(stage), Failure("differs", outcome.differences))
    return Result(_counts(stage), None)


def _kind(error: BaseException) -> str:
    """Return what two runs that fail for the same reason have in common."""
    if isinstance(error, InvariantError):
        return error.invariant
    if isinstance(error, BaseExceptionGroup):
        return _kind(error.exceptions[0])
    name = type(error).__name__
    if isinstance(error, (RingflowError, SimulationStuckError)):
        return name
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "ringflow" in frame.filename
    ]
    return f"{name} in {frames[-1].name}" if frames else name


def _traced(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _counts(stage: Stage) -> Mapping[str, int]:
    if not stage.is_made:
        return {}
    counts: Counter[str] = Counter()
    with contextlib.suppress(RingflowError):
        counts.update(_journaled(stage.records()))
    counts["outputs"] = sum(len(seen) for seen in stage.witness.seen.values())
    counts["crashes"] = stage.world.crashes
    counts["faults"] = sum(effect.failed for effect in stage.world.faults.effects)
    return counts


def _journaled(records: Iterable[RawRecord]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for record in records:
        for event in record.events:
            kind = str(event["type"])
            if kind.startswith(_OPERATIONS):
                counts["operations"] += 1
            elif kind.startswith("messages.accepted"):
                counts["messages"] += len(event["types"])
            elif kind.startswith("engine.opened"):
                counts["openings"] += 1
    return counts
