"""Two processes on one folder: the second is refused, and one that was fenced off is ignored."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import ringflow
from ringflow.journal.reader import verify
from tests.recovery.soak import killer
from tests.recovery.soak.checks import evidence, problems
from tests.recovery.soak.run import read_records_of
from tests.recovery.soak.witness import read_effects, read_notes
from tests.recovery.soak.worker import DEVICES, EFFECTS, ENGINE, WITNESS, state_words

pytestmark = pytest.mark.anyio


def acknowledged(folder: Path) -> list[dict[str, Any]]:
    return [note for note in read_notes(folder / WITNESS) if note["kind"] == "acknowledged"]


@asynccontextmanager
async def working(folder: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A worker of the soak in a process of its own, at work; killed in the end."""
    await anyio.Path(folder).mkdir()
    process = killer.start(folder, 1, 1)
    try:
        await until(lambda: len(acknowledged(folder)) > 0, process)
        yield process
    finally:
        process.kill()
        await anyio.to_thread.run_sync(process.wait)


async def until(reached: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Look until it is so; what another process writes sends no event."""
    with anyio.fail_after(60):
        while not reached():
            assert process.poll() is None, "the worker ended by itself"
            await anyio.sleep(0.01)


async def test_a_second_engine_is_refused_and_the_first_works_on(folder: Path) -> None:
    """The error names the folder and what to do; no byte of the folder is touched by it."""
    async with working(folder) as process:
        with pytest.raises(ringflow.FolderInUseError, match="engine") as raised:
            async with ringflow.open_engine(folder / ENGINE, devices=DEVICES):
                pass
        assert str(folder / ENGINE) in str(raised.value)
        second = killer.start(folder, 99, 1)
        assert await anyio.to_thread.run_sync(second.wait) != 0
        assert "FolderInUseError" in killer.stderr_of(folder, 99)
        before = len(acknowledged(folder))
        await until(lambda: len(acknowledged(folder)) >= before + 50, process)
    notes = read_notes(folder / WITNESS)
    records = read_records_of(folder)
    assert {record.epoch for record in records} == {1}
    assert problems(evidence(records, notes, read_effects(folder / EFFECTS))) == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # both processes are what counts
async def test_a_stalled_writers_late_bytes_are_ignored_and_reported(folder: Path) -> None:
    """It was stopped, its lock file was moved away, and it wakes up beside its successor.

    Where it was stopped within a write, nothing of it came late: then it is tried again.
    """
    await anyio.Path(folder).mkdir()
    for attempt in range(10):
        if await stall_and_succeed(folder / str(attempt)):
            return
    pytest.fail("no writer of ten was stopped between two writes")


async def stall_and_succeed(folder: Path) -> bool:
    """Open the folder of a stopped writer, then let it go on; return whether bytes came late."""
    async with working(folder) as stalled:
        os.kill(stalled.pid, signal.SIGSTOP)
        (folder / ENGINE / "lock").rename(folder / "moved lock")
        async with ringflow.open_engine(folder / ENGINE, devices=DEVICES) as engine:
            assert engine.epoch == 2
            kernel = engine.kernels()[0].kernel_id
            before = await state_words(engine.kernel(kernel))
            os.kill(stalled.pid, signal.SIGCONT)
            assert await anyio.to_thread.run_sync(stalled.wait, 60) != 0
            assert "moved or deleted" in killer.stderr_of(folder, 1)
            assert await state_words(engine.kernel(kernel)) == before
            await engine.checkpoint(kernel)
    report = verify(folder / ENGINE)
    assert report.closed_cleanly
    notes, effects = read_notes(folder / WITNESS), read_effects(folder / EFFECTS)
    found = problems(evidence(read_records_of(folder), notes, effects))
    assert [one for one in found if "was moved or deleted" not in one] == []
    async with ringflow.open_engine(folder / ENGINE, devices=DEVICES) as engine:
        assert engine.epoch == 3
        assert await state_words(engine.kernel(kernel)) == before
    return any(one.size_bytes > 0 for one in report.ignored)
