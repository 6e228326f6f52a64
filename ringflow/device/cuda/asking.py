"""A program of ringflow's that asks the driver in a child process, since whoever asks may hang."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def command_of(module: str) -> tuple[str, ...]:
    """Return the command that runs a module of the package."""
    return (sys.executable, "-m", module)


def run_child(command: Sequence[str], deadline_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command in which this package can be imported to its end.

    Raises:
        subprocess.TimeoutExpired: the time is up; the child was killed.
        OSError: it could not be started.
    """
    package = str(Path(__file__).parents[3])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH")) if part)
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=deadline_s,
        check=False,
    )
