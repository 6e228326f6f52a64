"""The demo from end to end on a small grid, undisturbed and killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from ringflow.demo.kernels import source_path
from ringflow.demo.pictures import MAXIMUM_NAME, WAVE_NAME
from ringflow.demo.records import REPLIES_NAME
from ringflow.demo.run import Options, run_demo
from ringflow.errors import UsageError

SCALE, MESSAGES = 0.1, 90
PROGRAM = [sys.executable, "-c", "import ringflow.cli; ringflow.cli.main()", "demo"]
OPTIONS = ["demo", "--scale", str(SCALE), "--messages", str(MESSAGES), "--resume", "--out"]
FATAL = """
import os, signal, sys
import ringflow.cli
from ringflow.demo.records import ReplyLog

limit, add = int(sys.argv.pop(1)), ReplyLog.add
def add_and_die(log, *reply):
    new = add(log, *reply)
    if log.count >= limit:
        os.kill(os.getpid(), signal.SIGKILL)
    return new
ReplyLog.add = add_and_die
ringflow.cli.main()
"""


def run_until(folder: Path, replies: int) -> int:
    """Start or resume a demo that is killed at its n-th reply; return how it ended."""
    command = [sys.executable, "-c", FATAL, str(replies), *OPTIONS, str(folder)]
    return subprocess.run(command, stdout=subprocess.DEVNULL, timeout=300, check=False).returncode


@pytest.mark.anyio
async def test_demo_ends_identical(tmp_path: Path) -> None:
    """Migrations, reloads and a roll-back leave no trace in any region or reply."""
    out = StringIO()
    options = Options(folder=tmp_path, scale=SCALE, message_count=MESSAGES)
    verdict = await run_demo(options, Console(file=out, width=200))
    assert verdict.differences == ()
    assert verdict.good
    assert "identical: yes" in out.getvalue()
    titles = [row.operation for row in verdict.rows]
    assert titles == [
        "migrate to host:1",
        "reload v2",
        "reload v3: rolled back",
        "migrate to host:0",
    ]
    assert verdict.message_count >= MESSAGES
    assert verdict.errors["height"] <= 1e-4
    assert verdict.errors["maximum"] <= 1e-4
    assert (tmp_path / WAVE_NAME).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / MAXIMUM_NAME).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="--resume"):
        await run_demo(options, Console(file=out))


def test_demo_survives_kills(tmp_path: Path) -> None:
    """SIGKILL between, in and after the operations; resumed, the demo still ends identical."""
    for replies in (2, 16, 34, 56, 80):
        assert run_until(tmp_path, replies) == -signal.SIGKILL
    done = subprocess.run(
        [*PROGRAM[:-1], *OPTIONS, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical: yes" in done.stdout
    lines = (tmp_path / REPLIES_NAME).read_text().splitlines()
    sequences = [json.loads(line)["sequence"] for line in lines]
    assert sequences == sorted(set(sequences))


def test_a_bad_option_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """Wrong input leaves no folder behind."""
    folder = tmp_path / "demo"
    done = subprocess.run(
        [*PROGRAM, "--scale", "0", "--out", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "scale" in done.stdout + done.stderr
    assert not folder.exists()


def test_sources_are_found() -> None:
    """A checkout has them in examples/, a wheel beside the module."""
    assert all(source_path(version).is_file() for version in ("v1", "v2", "v3"))
