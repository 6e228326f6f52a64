"""Bugs that are planted on purpose: a bounded swarm finds each, and says it in a few commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringflow.scenario.running import run_file
from ringflow.swarm.plan import draw
from ringflow.swarm.running import run_plan
from ringflow.swarm.swarm import simulate
from tests.swarm.planted import PLANTED

RUNS, LENGTH = 3, 30
COMMANDS_MAX = 12


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found_and_made_short(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The shrunk file fails with the bug, and passes without it."""
    plant, seed = PLANTED[name]
    with monkeypatch.context() as patch:
        plant(patch)
        report = simulate(seed, runs=RUNS, length=LENGTH, folder=tmp_path, enough=COMMANDS_MAX)
        assert report.found is not None
        assert report.found.path is not None
        assert len(report.found.plan.lines) <= COMMANDS_MAX
        assert not run_file(report.found.path).passed
    sound = run_file(report.found.path)
    assert sound.passed, sound.report
    whole = run_plan(draw(report.found.seed, length=LENGTH))
    assert whole.failure is None, whole.failure
