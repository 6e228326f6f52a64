"""Failing disks, second openers, fenced writers: what the journal does when something is wrong."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from ringflow.errors import (
    DiskReserveError,
    FolderInUseError,
    JournalClosedError,
    OutcomeUnknownError,
    StorageError,
)
from ringflow.journal.api import JournalLimits
from ringflow.journal.batch import SealedBatch
from ringflow.journal.lanes import Pending
from ringflow.journal.opening import open_journal
from ringflow.simulate.files import CrashingFiles, Loss
from tests.journal.sample import JOURNAL, TYPES, note, opened, texts_of, write_durably

pytestmark = pytest.mark.anyio

_OPEN_IN_ANOTHER_PROCESS = """
import sys, anyio
from ringflow.errors import FolderInUseError
from ringflow.journal.opening import open_journal
async def main():
    async with open_journal(sys.argv[1]):
        pass
try:
    anyio.run(main)
except FolderInUseError as error:
    print("in use:", error)
    raise SystemExit(7)
"""

_WRITE_UNTIL_KILLED = """
import sys, anyio
from ringflow.journal.opening import open_journal
from tests.journal.sample import TYPES, note
async def main():
    async with open_journal(sys.argv[1], types=TYPES) as journal:
        number = len(list(journal.records()))
        while True:
            number += 1
            await journal.until_durable(journal.append("s", note(str(number))))
            print(number, flush=True)
anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("call", ["write", "datasync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_the_first_failure_closes_the_journal_for_good(call: str, code: int) -> None:
    """Waiters learn that the outcome is unknown, later appends are refused, nothing is retried."""
    files = CrashingFiles()
    async with opened(files) as journal, journal.subscribe() as records:
        await write_durably(journal, ["kept"])
        files.fail(call, at=1, error=OSError(code, "the disk says no"))
        first, second = journal.append("s", note("x")), journal.append("t", note("y"))
        with pytest.raises(OutcomeUnknownError, match="the disk says no"):
            await journal.until_durable(first)
        with pytest.raises(OutcomeUnknownError):
            await journal.until_durable(second)
        await journal.failed.wait()
        steps = len(files.steps)
        with pytest.raises(JournalClosedError, match="the disk says no"):
            journal.append("s", note("z"))
        assert [record.sequence async for record in records] == [1]
        assert texts_of(journal) == ["kept"]
    assert len(files.steps) == steps, "something was written after the failure"
    for loss in Loss:
        async with opened(files.after_crash(loss)) as journal:
            found = texts_of(journal)
            assert found == ["kept", "x", "y"][: len(found)]
            assert found


async def test_the_event_loop_goes_on_while_the_disk_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Write and fsync are made in a thread: only the loop itself can open this disk's gate."""
    files = CrashingFiles()
    entered, gate = threading.Event(), threading.Event()
    async with opened(files) as journal:

        def slow_write(batch: Sequence[Pending]) -> SealedBatch:
            entered.set()
            if not gate.wait(timeout=20):
                raise OSError("the event loop stood still")
            return write(batch)

        write = journal._log.write
        monkeypatch.setattr(journal._log, "write", slow_write)
        append = journal.append("s", note("x"))
        while not entered.is_set():
            await anyio.lowlevel.checkpoint()
        assert append.sequence is None
        gate.set()
        await journal.until_durable(append)


async def test_what_is_queued_behind_a_failure_is_unknown_too() -> None:
    """Records that never reached the disk are not left waiting for ever."""
    files = CrashingFiles()
    async with opened(files, limits=JournalLimits(batch_bytes=1)) as journal:
        files.fail("datasync", at=1, error=OSError(errno.EIO, "broken"))
        appends = [journal.append("s", note(str(n))) for n in range(5)]
        for append in appends:
            with pytest.raises(OutcomeUnknownError):
                await journal.until_durable(append)


async def test_room_does_not_wait_for_a_journal_that_failed() -> None:
    """Back-pressure ends with an error, not with silence."""
    files = CrashingFiles()
    limits = JournalLimits(message_queue_bytes=1, batch_bytes=1)
    async with opened(files, limits=limits) as journal:
        files.fail("datasync", at=1, error=OSError(errno.EIO, "broken"))
        journal.append("c", note("control"))
        journal.append("m", note("message"), control=False)
        with pytest.raises(JournalClosedError):
            await journal.room()


async def test_the_disk_reserve_is_kept_for_control_records() -> None:
    """Messages are refused on a nearly full disk; operations can still finish; space ends it."""
    files = CrashingFiles()
    async with opened(files, limits=JournalLimits(reserve_bytes=1000)) as journal:
        await journal.until_durable(journal.append("m", note("1"), control=False))
    files.free = 999
    async with opened(files, limits=JournalLimits(reserve_bytes=1000)) as journal:
        with pytest.raises(DiskReserveError):
            journal.append("m", note("2"), control=False)
        await journal.until_durable(journal.append("c", note("3")))
        files.free = 1000
        await journal.until_durable(journal.append("m", note("4"), control=False))
        assert texts_of(journal) == ["1", "3", "4"]


async def test_a_second_opening_of_a_folder_is_refused() -> None:
    """Also within one process; the folder is free again after the block."""
    files = CrashingFiles()
    async with opened(files):
        with pytest.raises(FolderInUseError):
            async with opened(files):
                pytest.fail("opened twice")
    async with opened(files) as journal:
        assert journal.epoch == 2


async def test_a_second_process_is_refused(folder: Path) -> None:
    """The lock holds between processes and ends with the block."""
    command = [sys.executable, "-c", _OPEN_IN_ANOTHER_PROCESS, str(folder)]
    root = Path(__file__).parents[2]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)

    async with open_journal(folder, types=TYPES):
        refused = await anyio.to_thread.run_sync(run)
        assert (refused.returncode, refused.stderr) == (7, "")
        assert "in use" in refused.stdout
    allowed = await anyio.to_thread.run_sync(run)
    assert allowed.returncode == 0, allowed.stderr


async def test_a_failed_opening_leaves_the_folder_free() -> None:
    """A full disk at the opening is an error, and the next try works."""
    files = CrashingFiles()
    files.fail("create", at=1, error=OSError(errno.ENOSPC, "full"))
    with pytest.raises(StorageError, match="full"):
        async with opened(files):
            pytest.fail("opened")
    async with opened(files) as journal:
        await write_durably(journal, ["a"])


async def test_a_torn_header_is_removed_and_its_epoch_not_used_again() -> None:
    """A crash while a segment was begun leaves a name; the next opening goes past its epoch."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write_durably(journal, ["a"])
    files.poke(JOURNAL / "0000000000000002-00000007.jsonl", b'{"epoch":7,"fir')
    async with opened(files) as journal:
        (torn,) = journal.report.torn
        assert (torn.segment, torn.size_bytes) == ("0000000000000002-00000007.jsonl", 15)
        assert files.read(JOURNAL / torn.backup) == b'{"epoch":7,"fir'
        assert journal.epoch == 8
        assert texts_of(journal) == ["a"]
        assert torn.segment not in files.names(JOURNAL)


async def test_a_killed_writer_loses_nothing_that_it_was_told(
    folder: Path, anyio_backend: str
) -> None:
    """SIGKILL at any place: lock gone, history whole, every acknowledged record there."""
    command = [sys.executable, "-c", _WRITE_UNTIL_KILLED, str(folder), anyio_backend]
    root = Path(__file__).parents[2]
    acknowledged = 0

    def run_until(number: int) -> int:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= number:
                    break
            process.kill()
            return max([int(line), *(int(rest) for rest in process.stdout if rest.endswith("\n"))])

    for round_index in range(3):
        acknowledged = await anyio.to_thread.run_sync(run_until, acknowledged + 5 + round_index)
    async with open_journal(folder, types=TYPES) as journal:
        found = texts_of(journal)
        assert found == [str(number) for number in range(1, len(found) + 1)]
        assert acknowledged <= len(found) <= acknowledged + 1
        assert journal.epoch == 4
        assert not journal.report.closed_cleanly
