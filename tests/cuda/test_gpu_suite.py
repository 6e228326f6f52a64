"""The suite for real GPUs on the stand-in, a test double: each of its lines was run once."""

from __future__ import annotations

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
    """In a process of its own, which takes the stand-in for the driver; nothing is skipped but what
    needs another library.

    What devices keep of their contract is run on the stand-in in tests/device.
    """
    command = [sys.executable, "-m", "pytest", "-rs", *OPTIONS]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert all("could not import" in line for line in skipped), done.stdout


def test_without_a_gpu_the_suite_skips_for_that_reason_alone() -> None:
    """It says so."""
    command = [sys.executable, "-m", "pytest", "-rs", *OPTIONS]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout
    reasons = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert reasons
    assert all("no CUDA device" in reason for reason in reasons)
    assert "passed" not in done.stdout
