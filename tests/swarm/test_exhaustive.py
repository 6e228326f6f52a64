"""Crashes before the effects of four stories: each, in the long run; some, in the suite."""

from __future__ import annotations

import pytest

from ringflow.swarm.exhaustive import STORIES, crash_everywhere


@pytest.mark.parametrize("name", STORIES)
def test_a_crash_before_some_effects_breaks_nothing(name: str) -> None:
    """Every eleventh effect; everything is checked after the restart."""
    crashes = crash_everywhere(STORIES[name], first=3, stride=11)
    print(f"{name}: {crashes.count} crashes")
    assert crashes.failures == {}
    assert crashes.count > 1


@pytest.mark.parametrize("line", ["limits speed=1", "kernel k2"])
def test_a_story_that_fails_without_a_crash_ends_with_its_failure(line: str) -> None:
    """No effect is left to crash before, so the last failure is the story's own."""
    crashes = crash_everywhere([line])
    last = max(crashes.failures)
    assert last == crashes.count + 1
    assert crashes.failures[last].kind == "ScenarioError"


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["all", "tail", "none"])
@pytest.mark.parametrize("name", STORIES)
def test_a_crash_before_any_effect_breaks_nothing(name: str, loss: str) -> None:
    """Every effect of files and devices, whatever is left of what was not synced."""
    crashes = crash_everywhere(STORIES[name], loss=loss)
    print(f"{name}, loss {loss}: {crashes.count} crashes")
    assert crashes.failures == {}
    assert crashes.count > 15
