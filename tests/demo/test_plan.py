"""What is left of the plan after a restart."""

from __future__ import annotations

import attrs
import pytest

from ringflow.demo.plan import PLAN, Phase, Seen, done_phases


def good(phase: Phase) -> Seen:
    """Return an operation that fulfils a phase."""
    reason = "the kernel trapped" if phase.ending == "rolled_back" else ""
    return Seen(f"op-{phase.target}", phase.kind, phase.ending, phase.target, reason)


ALL = [good(phase) for phase in PLAN]


def test_plan_is_the_story_that_is_told() -> None:
    """Out, a good reload, a bad one, and back, in rising order of their starts."""
    assert [phase.target for phase in PLAN] == ["host:1", "v2", "v3", "host:0"]
    starts = [phase.starts_at(240) for phase in PLAN]
    assert starts == sorted(starts)
    assert 0 < starts[0] < starts[-1] < 240


@pytest.mark.parametrize("count", range(len(ALL) + 1))
def test_each_finished_operation_counts_once(count: int) -> None:
    """After a restart the plan goes on with the first phase that is not done."""
    assert done_phases(ALL[:count]) == tuple(ALL[:count])


@pytest.mark.parametrize("index", range(len(ALL)))
def test_what_a_restart_rolled_back_is_tried_again(index: int) -> None:
    """A rolled back try does not count, its repetition does; later phases still follow."""
    tried = attrs.evolve(ALL[index], operation_id="tried", state="rolled_back", failure="restart")
    assert done_phases([*ALL[:index], tried]) == tuple(ALL[:index])
    assert done_phases([*ALL[:index], tried, *ALL[index:]]) == tuple(ALL)


def test_bad_version_that_completed_is_not_done() -> None:
    """The third version must roll back; if it passed, its phase isn't fulfilled."""
    passed = attrs.evolve(ALL[2], state="completed", failure="")
    assert len(done_phases([*ALL[:2], passed, ALL[3]])) == 2
