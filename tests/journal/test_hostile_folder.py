"""Folders that somebody changed: what was acknowledged is never dropped in silence."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from ringflow.errors import CorruptJournalError, StorageError
from ringflow.events.chain import seal
from ringflow.events.values import canonical_json
from ringflow.journal.api import JournalLimits
from ringflow.journal.reader import verify
from ringflow.journal.repair import plan_repair, repair
from ringflow.simulate.files import CrashingFiles
from tests.journal.sample import JOURNAL, opened, texts_of, write_durably
from tests.journal.test_archive import archived, sequences, written

pytestmark = pytest.mark.anyio


def segments(files: CrashingFiles) -> list[Path]:
    return [JOURNAL / name for name in files.names(JOURNAL) if name.endswith((".jsonl", ".zst"))]


@pytest.mark.parametrize("garbage", [b"\xa5" * 5000, b"{}\n" * 3])
async def test_a_segment_that_was_overwritten_is_no_torn_header(garbage: bytes) -> None:
    """Nothing is written behind a header before it is durable: more than one line was."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write_durably(journal, ["a", "b"])
    files.poke(segments(files)[-1], garbage)
    before = files.snapshot()
    with pytest.raises(CorruptJournalError):
        verify(JOURNAL, files=files)
    with pytest.raises(CorruptJournalError):
        async with opened(files):
            pytest.fail("opened")
    assert files.snapshot() == before


async def test_an_epoch_that_has_no_name_is_not_begun() -> None:
    """Its segment would not be found again."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write_durably(journal, ["a"])
    files.poke(JOURNAL / "0000000000000002-99999999.jsonl", b"")
    with pytest.raises(StorageError, match="100000000"):
        async with opened(files) as journal:
            await write_durably(journal, ["lost"])


async def test_digits_of_other_scripts_name_no_segment() -> None:
    """A file that ringflow did not write is left alone."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write_durably(journal, ["a"])
    files.poke(JOURNAL / f"{'٠' * 15}٢-00000009.jsonl", b"")
    files.poke(JOURNAL / f"base-{'٠' * 15}٢.json", b"")
    async with opened(files) as journal:
        assert (texts_of(journal), journal.epoch) == (["a"], 2)


async def test_a_line_that_was_sealed_anew_is_refused_while_the_journal_is_open() -> None:
    """Its own hash fits; its segment's links and pin don't. An opening from a snapshot reads so."""
    files = CrashingFiles()
    async with opened(files, limits=JournalLimits(segment_bytes=2**20)) as journal:
        await write_durably(journal, ["a", "b", "c"])
        (path,) = segments(files)
        lines = files.read(path).rstrip(b"\0").splitlines(keepends=True)
        for index in (1, 3):
            plain = orjson.loads(lines[index])
            plain.pop("hash")
            plain["events"][0]["text"] = "X"
            changed = [*lines]
            changed[index], _ = seal(canonical_json(plain))
            files.poke(path, b"".join(changed))
            with pytest.raises(CorruptJournalError, match=r"link|ends otherwise"):
                texts_of(journal)


async def test_a_repair_can_take_all_that_is_behind_a_base_record() -> None:
    """The base record stands; the repair's own segment continues it."""
    files = CrashingFiles()
    await written(files)
    done = await archived(files)
    first = segments(files)[0]
    files.poke(first, b"\xa5" * 10)
    plan = plan_repair(JOURNAL, files=files)
    assert plan is not None
    assert (plan.last_sequence, plan.last_segment) == (done.last_sequence, "")
    repair(JOURNAL, actor="ops", reason="test", files=files)
    assert sequences(files) == [done.last_sequence + 1]
    verify(JOURNAL, files=files)


async def test_a_repair_without_the_base_record_is_refused_in_words() -> None:
    """Nothing can stand for what was archived."""
    files = CrashingFiles()
    await written(files)
    await archived(files)
    (base,) = (JOURNAL / name for name in files.names(JOURNAL) if name.startswith("base-"))
    files.poke(base, b"x")
    with pytest.raises(CorruptJournalError, match="base-"):
        plan_repair(JOURNAL, files=files)
