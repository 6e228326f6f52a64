"""Real processes killed from outside, again and again; nothing acknowledged is ever lost."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.recovery.soak.run import soak


def test_killed_workers_leave_what_a_run_without_crashes_leaves(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """``--soak-kills 200`` is the long run; its seed is printed, its folder kept if it fails."""
    kills: int = request.config.getoption("--soak-kills")
    given: int | None = request.config.getoption("--soak-seed")
    seed = random.SystemRandom().getrandbits(32) if given is None else given
    print(f"--soak-kills {kills} --soak-seed {seed}, in {tmp_path}")
    totals = soak(tmp_path, kills=kills, seed=seed)
    assert totals.kills == kills
    assert totals.messages > 0
