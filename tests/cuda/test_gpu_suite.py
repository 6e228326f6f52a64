"""The suite for real GPUs on the stand-in, a test double: each of its lines was run once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda.standin import Standin

ROOT = Path(__file__).parents[2]
OPTIONS = (
    "-q",
    "-p",
    "no:cacheprovider",
    "-m",
    "gpu or multigpu",
    "-k",
    "not trio and not keep and not rolls_back",
    "tests/gpu",
)
TWO = {"memory_bytes": 600 << 20}


@pytest.mark.parametrize("gpus", [TWO], indirect=True)
def test_the_suite_for_real_gpus_passes_on_the_stand_in(gpus: Standin) -> None:
    """In a process of its own, which takes the stand-in for the driver; nothing is skipped.

    What devices keep of their contract is run on the stand-in in tests/device.
    """
    command = [sys.executable, "-m", "pytest", "-rs", *OPTIONS]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "SKIPPED" not in done.stdout, done.stdout


def test_without_a_gpu_the_suite_skips_for_that_reason_alone() -> None:
    """It says so, also where there is one that it may not see."""
    command = [sys.executable, "-m", "pytest", "-rs", *OPTIONS]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    reasons = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert reasons
    assert all("no CUDA device" in reason for reason in reasons)
    assert "passed" not in done.stdout


_COLLECT = """
import sys
import pytest
assert not pytest.main(["--collect-only", "-q", *sys.argv[1:]])
from tests.cuda.standin import install
print("stand-in:", install.cache_info().currsize)
"""


@pytest.mark.parametrize(
    ("expression", "count"),
    [
        ("gpu or multigpu", 0),
        ("multigpu and not (slow or library)", 0),
        ("not (gpu or multigpu)", 1),
        ("not slow", 1),
    ],
)
def test_only_a_run_on_nothing_but_real_gpus_goes_without_the_stand_in(
    expression: str, count: int
) -> None:
    """However it is chosen."""
    command = [sys.executable, "-c", _COLLECT, "-m", expression, "tests/gpu", "tests/test_clock.py"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"stand-in: {count}" in done.stdout
