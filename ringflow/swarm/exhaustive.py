"""A crash before each effect of a story, a run for each, and everything checked afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import attrs

from ringflow.swarm.plan import CODES, KERNEL, LAST_CHECK, Plan
from ringflow.swarm.running import Failure, run_plan

_SETUP: Final = (
    "limits recovery_points_kept=1",
    *(f"code {name} file={KERNEL} {options}" for name, options in CODES.items()),
    f"kernel k1 file={KERNEL} version=fold_1",
    "launch k1 on=host:0",
    "send k1 Fold value=5.. count=3 producer=p1",
    "replies k1 reader count=2",
)
STORIES: Final[dict[str, tuple[str, ...]]] = {
    "migrate": ("begin w1 send k1 Fold value=8.. count=3 producer=p2", "migrate k1 to=host:1"),
    "reload that is rolled back": (
        "begin w1 send k1 Fold value=8.. count=3 producer=p2",
        "reload k1 code=traps probation=3 for=1s",
    ),
    "checkpoint and retire": ("snapshot k1", "send k1 Fold value=8..", "snapshot k1"),
    "opening": ("close", "restart", "send k1 Fold value=8.."),
}


@final
@attrs.frozen
class Crashes:
    """What came of a crash before each effect; ``failures`` by the effect's number."""

    count: int
    failures: dict[int, Failure]


def crash_everywhere(
    story: Sequence[str], *, first: int = 1, stride: int = 1, loss: str = "all"
) -> Crashes:
    """Run a story once for each effect of files and devices, with a crash before it.

    The last run has none left to crash before: a failure of it is the story's own.

    Args:
        stride: only every so many-th effect from ``first`` on.
        loss: what is left of bytes that were not synced.
    """
    failures: dict[int, Failure] = {}
    nth = first
    while True:
        fault = f"fault *.* nth={nth} failure=crash loss={loss}"
        result = run_plan(Plan(0, (*_SETUP, fault, *story, LAST_CHECK)))
        if result.failure is not None:
            failures[nth] = result.failure
        if not result.counts.get("faults"):  # the end of a run that failed counts as a crash
            return Crashes((nth - first) // stride, failures)
        nth += stride
