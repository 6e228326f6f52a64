"""Space that the writer reserves: no part of the journal, never in the way of one."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ringflow.errors import OutcomeUnknownError, StorageError
from ringflow.journal.api import JournalLimits
from ringflow.journal.reader import verify
from ringflow.simulate.files import CrashingFiles, Loss
from tests.journal.sample import (
    FOLDER,
    JOURNAL,
    Noted,
    note,
    opened,
    texts_of,
    texts_on_disk,
    unseal,
    write_durably,
)

pytestmark = pytest.mark.anyio
STEP_BYTES = 2**20


def segments(files: CrashingFiles) -> list[Path]:
    return [JOURNAL / name for name in files.names(JOURNAL) if name.endswith(".jsonl")]


async def test_small_records_do_not_make_the_file_grow_until_a_step_is_full() -> None:
    """The sync of a record replaces bytes; the next step comes when this one is used up."""
    files = CrashingFiles()
    async with opened(files) as journal:
        (segment,) = segments(files)
        size = files.size_bytes(segment)
        assert size > STEP_BYTES
        await write_durably(journal, ["a", "b"])
        assert files.size_bytes(segment) == size
        for text in "cdefghijklmnopqrstu":
            data = [Noted(text=text, data=bytes(45_000))]
            await journal.until_durable(journal.append("s", data))
        assert files.steps.count("reserve") == 2
        assert files.size_bytes(segment) > size
    assert texts_on_disk(files) == list("abcdefghijklmnopqrstu")


async def test_a_large_batch_is_not_written_twice() -> None:
    """It appends past what is left, and only the next small one reserves again."""
    files = CrashingFiles()
    async with opened(files) as journal:
        large = [Noted(text="large", data=bytes(STEP_BYTES))]
        await journal.until_durable(journal.append("s", large))
        assert files.steps.count("reserve") == 1
        await write_durably(journal, ["small"])
        assert files.steps.count("reserve") == 2
    assert texts_on_disk(files) == ["large", "small"]


async def test_an_orderly_close_and_a_full_segment_leave_no_zeros() -> None:
    """Closed files are text to the last byte."""
    files = CrashingFiles()
    async with opened(files, limits=JournalLimits(segment_bytes=400)) as journal:
        await write_durably(journal, ["a", "b", "c", "d"])
        last = segments(files)[-1]
        assert files.read(last).endswith(b"\0")
    assert segments(files) == [last]
    unseal(files)
    assert len(segments(files)) > 2
    assert all(files.read(segment).endswith(b"}\n") for segment in segments(files))
    assert verify(FOLDER, files=files).closed_cleanly


@pytest.mark.parametrize("loss", Loss)
async def test_what_a_crash_leaves_reserved_is_neither_torn_nor_ignored(loss: Loss) -> None:
    """It is cut at the next opening without a word, and a reader before that sees nothing."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write_durably(journal, ["a", "b"])
        after = files.after_crash(loss)
    (segment,) = segments(after)
    assert after.read(segment).endswith(b"\0")
    report = verify(FOLDER, files=after)
    assert (report.records, report.torn, report.ignored) == (2, (), ())
    async with opened(after) as journal:
        assert (journal.report.torn, journal.report.ignored) == ((), ())
        assert after.read(segment).endswith(b"}\n")
        await write_durably(journal, ["c"])
        assert texts_of(journal) == ["a", "b", "c"]
    assert texts_on_disk(after) == ["a", "b", "c"]


async def test_a_full_disk_keeps_its_last_bytes_for_records() -> None:
    """Without room to reserve the journal goes on as long as records fit."""
    files = CrashingFiles()
    files.fail("reserve", at=1, error=OSError(errno.ENOSPC, "full"))
    async with opened(files) as journal:
        files.fail("reserve", at=1, error=OSError(errno.ENOSPC, "full"))
        await write_durably(journal, ["a", "b"])
        assert texts_of(journal) == ["a", "b"]
    assert texts_on_disk(files) == ["a", "b"]


async def test_a_broken_disk_fails_the_journal_also_when_it_reserves() -> None:
    """Only a full disk is no failure there."""
    files = CrashingFiles()
    files.fail("reserve", at=1, error=OSError(errno.EIO, "broken"))
    with pytest.raises(StorageError, match="broken"):
        async with opened(files):
            pytest.fail("opened")
    files.fail("reserve", at=1, error=OSError(errno.ENOSPC, "full"))
    async with opened(files) as journal:
        files.fail("reserve", at=1, error=OSError(errno.EIO, "broken"))
        with pytest.raises(OutcomeUnknownError, match="broken"):
            await journal.until_durable(journal.append("s", note("a")))
