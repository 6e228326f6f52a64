"""A writer whose folder another one has taken over, while it stood still."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringflow.clock import ManualClock
from ringflow.errors import OutcomeUnknownError
from ringflow.journal.opening import open_journal
from tests.journal.sample import TYPES, note

pytestmark = pytest.mark.anyio


def move_lock_away(folder: Path) -> None:
    (lock,) = folder.rglob("lock")
    lock.rename(lock.with_suffix(".away"))


@pytest.mark.parametrize("step_s", [0.0, -3600.0, 3600.0])
async def test_it_acknowledges_nothing_whatever_the_wall_clock_says(
    folder: Path, step_s: float
) -> None:
    """How long it stood still is told by a clock that never steps."""
    clock = ManualClock()
    async with open_journal(folder, types=TYPES, clock=clock) as journal:
        await journal.until_durable(journal.append("s", note("before")))
        move_lock_away(folder)
        clock.step_wall(step_s)
        clock.advance(600)
        async with open_journal(folder, types=TYPES, clock=clock) as successor:
            assert successor.epoch == journal.epoch + 1
            with pytest.raises(OutcomeUnknownError):
                await journal.until_durable(journal.append("s", note("after")))
