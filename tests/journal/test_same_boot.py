"""An opening after a crash of the process alone: what it reads may be only in the cache."""

from __future__ import annotations

import errno

import pytest

from ringflow.errors import OutcomeUnknownError
from ringflow.simulate.files import CrashingFiles, Loss
from tests.journal.sample import note, opened, texts_of, write_durably

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("size_bytes", [1, 100_000])
async def test_what_an_opening_builds_upon_is_durable(loss: Loss, size_bytes: int) -> None:
    """A record whose sync failed is read again and built upon: then it must outlive a crash."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write_durably(journal, ["kept"])
        files.fail("datasync", at=1, error=OSError(errno.EIO, "the disk says no"))
        with pytest.raises(OutcomeUnknownError):
            await journal.until_durable(journal.append("s", note("x" * size_bytes)))
    async with opened(files) as journal:
        found = texts_of(journal)
        await write_durably(journal, ["acknowledged"])
        after = files.after_crash(loss)
    async with opened(after) as journal:
        assert texts_of(journal) == [*found, "acknowledged"]


@pytest.mark.parametrize("loss", Loss)
async def test_a_closing_line_that_was_not_synced_is_built_upon_too(loss: Loss) -> None:
    """The pin of the next segment counts it."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write_durably(journal, ["kept"])
        files.fail("datasync", at=1, error=OSError(errno.EIO, "the disk says no"))
    async with opened(files) as journal:
        await write_durably(journal, ["acknowledged"])
        after = files.after_crash(loss)
    async with opened(after) as journal:
        assert texts_of(journal) == ["kept", "acknowledged"]
