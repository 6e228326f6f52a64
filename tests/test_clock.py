"""Clocks and ids: the two seams through which time and chance come in."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from ringflow.clock import NS_PER_S, ManualClock, SystemClock
from ringflow.ids import Ids

pytestmark = pytest.mark.anyio


async def test_a_manual_clock_wakes_those_that_are_due() -> None:
    """Nobody wakes before the deadline; all that are due wake at once."""
    clock = ManualClock()
    woken: list[float] = []

    async def sleeper(duration_s: float) -> None:
        await clock.sleep(duration_s)
        woken.append(duration_s)

    async with anyio.create_task_group() as tasks:
        for duration_s in (3.0, 1.0, 2.0, 0.0):
            tasks.start_soon(sleeper, duration_s)
        await anyio.wait_all_tasks_blocked()
        assert woken == [0.0]
        assert clock.sleeper_count == 3
        clock.advance(0.999)
        await anyio.wait_all_tasks_blocked()
        assert woken == [0.0]
        clock.advance(1.001)
        await anyio.wait_all_tasks_blocked()
        assert sorted(woken) == [0.0, 1.0, 2.0]
        tasks.cancel_scope.cancel()
    assert clock.sleeper_count == 0


async def test_stepping_the_wall_leaves_deadlines_alone() -> None:
    """Only the wall time steps, forth and back."""
    clock = ManualClock(now_ns=10 * NS_PER_S)
    clock.step_wall(-2.5)
    assert clock.now_ns() == 7_500_000_000
    assert clock.monotonic_ns() == 0


async def test_the_system_clock_never_wakes_early() -> None:
    """A deadline is reached when ``sleep_until`` returns."""
    clock = SystemClock()
    for step_ns in (0, 1, 1_000, 1_000_000):
        deadline_ns = clock.monotonic_ns() + step_ns
        await clock.sleep_until(deadline_ns)
        assert clock.monotonic_ns() >= deadline_ns


def test_ids_are_reproducible_from_a_seed_and_unique_without() -> None:
    """A seed fixes the sequence; two unseeded sources don't meet."""
    assert [Ids(7).new("mig") for _ in range(2)] == [Ids(7).new("mig")] * 2
    one = Ids(7)
    assert one.new("a") != one.new("a")
    assert Ids().new("a") != Ids().new("a")
    name = one.new("mig")
    assert name.startswith("mig-")
    assert len(name) == 20
