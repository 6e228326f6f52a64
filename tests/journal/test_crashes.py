"""A crash at every step loses nothing that was acknowledged, and the journal always opens again."""

from __future__ import annotations

import errno

import pytest

from ringflow.errors import OutcomeUnknownError, StorageError
from ringflow.journal.api import JournalLimits
from ringflow.journal.reader import verify
from ringflow.simulate.files import CrashError, CrashingFiles, Loss
from tests.journal.sample import FOLDER, Noted, opened, texts_of, write_durably

pytestmark = pytest.mark.anyio
LIMITS = JournalLimits(segment_bytes=1500)


class Promise:
    """What a writer was told: ``asked`` in order, of which the first ``acknowledged`` are safe."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.acknowledged = 0

    def check(self, found: list[str]) -> None:
        """Raise ``AssertionError`` unless ``found`` is a history that keeps the promise."""
        assert found == self.asked[: len(found)], "the history is no prefix of what was asked for"
        assert len(found) >= self.acknowledged, "an acknowledged record is lost"


async def use(files: CrashingFiles, promise: Promise, texts: list[str]) -> None:
    """Open, write ``texts`` each acknowledged by itself, and close; may die on the way."""
    try:
        async with opened(files, limits=LIMITS) as journal:
            promise.check(texts_of(journal))
            promise.asked = texts_of(journal)
            promise.acknowledged = len(promise.asked)
            for text in texts:
                append = journal.append("s", [Noted(text=text, data=bytes(400))])
                promise.asked.append(text)
                await journal.until_durable(append)
                promise.acknowledged += 1
    except StorageError as error:
        if not isinstance(error.__cause__, CrashError):
            raise


async def run_with_crash(step: int | None, loss: Loss) -> tuple[CrashingFiles, Promise]:
    """Use a journal twice with the power cut before ``step`` of the second use."""
    files, promise = CrashingFiles(), Promise()
    await use(files, promise, ["a", "b"])
    if step is not None:
        files.crash_before_step(len(files.steps) + step)
    await use(files, promise, ["c", "d", "e"])
    return files.after_crash(loss), promise


async def step_count() -> int:
    """Return how many changing calls the second use makes."""
    files, promise = CrashingFiles(), Promise()
    await use(files, promise, ["a", "b"])
    before = len(files.steps)
    await use(files, promise, ["c", "d", "e"])
    return len(files.steps) - before


@pytest.mark.parametrize("loss", list(Loss))
async def test_every_crash_keeps_what_was_acknowledged(loss: Loss) -> None:
    """Cut the power before each changing call of opening, writing, rolling over and closing."""
    steps = await step_count()
    assert steps > 15
    for step in range(steps):
        files, promise = await run_with_crash(step, loss)
        await use(files, promise, ["after"])
        assert promise.asked[-1] == "after"
        assert promise.acknowledged == len(promise.asked)
        assert verify(FOLDER, files=files).last_sequence == promise.acknowledged


@pytest.mark.parametrize("loss", [Loss.ALL, Loss.HOLES])
async def test_a_crash_while_recovering_from_a_crash_is_recovered(loss: Loss) -> None:
    """Each step of the opening that cuts a torn tail can be the last one, and be repeated."""
    for step in range(await step_count()):
        for again in range(12):
            files, promise = await run_with_crash(step, Loss.HOLES)
            files.crash_before_step(again)
            await use(files, promise, ["again"])
            files = files.after_crash(loss)
            await use(files, promise, ["after"])
            assert promise.acknowledged == len(promise.asked)


async def test_the_very_first_opening_may_crash_anywhere() -> None:
    """A folder that was never opened to the end opens as a new journal."""
    for step in range(8):
        for loss in Loss:
            files, promise = CrashingFiles(), Promise()
            files.crash_before_step(step)
            await use(files, promise, ["a"])
            files = files.after_crash(loss)
            await use(files, promise, ["b"])
            assert promise.asked[-1] == "b"


async def test_a_skipped_fsync_is_found() -> None:
    """With a disk that lies about its syncs the same check fails: the double proves durability."""
    files, promise = CrashingFiles(), Promise()
    await use(files, promise, ["a"])
    files.lies = True
    await use(files, promise, ["b", "c"])
    assert promise.acknowledged == 3
    with pytest.raises(AssertionError, match="an acknowledged record is lost"):
        await use(files.after_crash(Loss.ALL), promise, [])


async def test_a_skipped_folder_fsync_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment whose name was not synced disappears with all that it holds."""
    files, promise = CrashingFiles(), Promise()
    monkeypatch.setattr(CrashingFiles, "fsync_folder", lambda self, path: None)
    await use(files, promise, ["a"])
    assert promise.acknowledged == 1
    with pytest.raises(AssertionError, match="an acknowledged record is lost"):
        await use(files.after_crash(Loss.ALL), promise, [])


async def test_nothing_is_acknowledged_before_its_fsync() -> None:
    """With the power cut at the fsync the waiter never hears of success."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write_durably(journal, ["a"])
        files.crash_before_step(len(files.steps) + 1)  # the write goes out, the fsync does not
        append = journal.append("s", [Noted(text="b")])
        with pytest.raises(OutcomeUnknownError):
            await journal.until_durable(append)
        assert files.steps[-1] == "write"
        assert append.sequence is None
        assert journal.durable_sequence == 1


async def test_every_failing_call_of_opening_writing_and_sealing_loses_nothing() -> None:
    """The n-th call of each kind fails, with each error: told, never retried, and open again."""
    calls = ("create", "write", "datasync", "reserve", "trim", "rename", "fsync_folder", "delete")
    plain, promise = CrashingFiles(), Promise()
    await use(plain, promise, ["a", "b", "c", "d"])
    for call in calls:
        count = plain.steps.count(call)
        assert count, f"nothing calls {call}"
        for at in range(1, count + 1):
            for code in (errno.ENOSPC, errno.EIO):
                files, promise = CrashingFiles(), Promise()
                files.fail(call, at=at, error=OSError(code, "the disk says no"))
                await use_failing(files, promise, ["a", "b", "c", "d"])
                for later in (files, files.after_crash(Loss.HOLES), files.after_crash(Loss.ALL)):
                    again = Promise()
                    again.asked, again.acknowledged = list(promise.asked), promise.acknowledged
                    await use(later, again, ["after"])
                    assert again.asked[-1] == "after"


async def use_failing(files: CrashingFiles, promise: Promise, texts: list[str]) -> None:
    """Like ``use`` on a disk that says no once; whoever waits hears of it."""
    try:
        async with opened(files, limits=LIMITS) as journal:
            for text in texts:
                append = journal.append("s", [Noted(text=text, data=bytes(400))])
                promise.asked.append(text)
                await journal.until_durable(append)
                promise.acknowledged += 1
    except StorageError as error:
        if "the disk says no" not in str(error):
            raise
