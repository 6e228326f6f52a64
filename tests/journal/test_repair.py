"""Repair: only what a person asks for, every byte kept aside, crash-proof, and journaled."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from ringflow.clock import ManualClock
from ringflow.errors import (
    CorruptJournalError,
    FolderInUseError,
    HeadNotFoundError,
    StorageError,
    UsageError,
)
from ringflow.events.engine import JournalRepaired
from ringflow.journal.api import JournalLimits
from ringflow.journal.opening import open_journal
from ringflow.journal.reader import read_records, select_records, verify
from ringflow.journal.repair import RepairPlan, plan_repair, repair
from ringflow.journal.selection import Selection
from ringflow.simulate.files import CrashError, CrashingFiles, Loss
from tests.journal.sample import FOLDER, JOURNAL, TYPES, Noted, opened, unseal, write_durably

pytestmark = pytest.mark.anyio
LIMITS = JournalLimits(segment_bytes=900)
TEXTS = [str(number) for number in range(12)]
ALL_TYPES = (*TYPES, JournalRepaired)
Damage = Callable[[CrashingFiles], None]


async def written(*, plain: bool = False) -> CrashingFiles:
    """Return a journal of several segments and two epochs, sealed but for the newest."""
    files = CrashingFiles()
    for texts in (TEXTS[:6], TEXTS[6:]):
        async with opened(files, limits=LIMITS) as journal:
            await write_durably(journal, texts)
    if plain:
        unseal(files)
    return files


def mended(files: CrashingFiles) -> RepairPlan | None:
    return repair(FOLDER, actor="ops", reason="disk died", files=files, clock=ManualClock())


def texts(files: CrashingFiles) -> list[str]:
    return [
        event["text"]
        for record in read_records(FOLDER, files=files)
        for event in record.events
        if "text" in event
    ]


def flip(files: CrashingFiles, segment: int, at: float) -> None:
    """Change one byte of a segment's file, ``at`` a part of its length."""
    path = JOURNAL / files.names(JOURNAL)[segment]
    data = bytearray(files.read(path))
    data[int(len(data) * at)] ^= 1
    files.poke(path, bytes(data))


def lose(files: CrashingFiles, segment: int) -> None:
    files.erase(JOURNAL / files.names(JOURNAL)[segment])


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("segment", [0, 1, 3, -1])
@pytest.mark.parametrize("at", [0.02, 0.5, 0.98])
async def test_a_damaged_journal_opens_again_after_its_repair(
    plain: bool, segment: int, at: float
) -> None:
    """The history up to the damage is kept, everything else lies in the backup."""
    files = await written(plain=plain)
    flip(files, segment, at)
    if segment == -1 and at > 0.9:  # the closing line: a torn tail, for the next opening to cut
        assert mended(files) is None
        return
    with pytest.raises(CorruptJournalError) as caught:
        verify(FOLDER, files=files)
    before = files.snapshot()
    planned = plan_repair(FOLDER, files=files)
    assert files.snapshot() == before, "the dry run changed something"
    assert planned
    assert (planned.segment, planned.line) == (caught.value.segment, caught.value.line)
    done = mended(files)
    assert done == planned
    assert texts(files) == TEXTS[: planned.last_sequence]
    for path, data in before.items():
        if path.parent == JOURNAL and files.snapshot().get(path) != data:
            assert files.read(JOURNAL / planned.backup / path.name) == data
    async with open_journal(
        FOLDER, files=files, types=ALL_TYPES, clock=ManualClock(), limits=LIMITS
    ) as journal:
        assert not journal.report.torn
        assert journal.epoch == planned.epoch + 1 == 4
        last = list(journal.records())[-1]
        (event,) = last.events
        assert isinstance(event, JournalRepaired)
        assert (event.actor, event.reason, event.line) == ("ops", "disk died", planned.line)
        assert event.last_sequence == planned.last_sequence == last.sequence - 1
        await journal.until_durable(journal.append("s", [Noted(text="next")]))
    assert texts(files) == [*TEXTS[: planned.last_sequence], "next"]
    assert mended(files) is None


@pytest.mark.parametrize("segment", [0, 1, 2])
async def test_a_lost_segment_ends_the_history_before_it(segment: int) -> None:
    """What follows it can't be proven to follow anything."""
    files = await written()
    first = verify(FOLDER, files=files).records
    lose(files, segment)
    plan = mended(files)
    assert plan
    assert plan.last_sequence < first
    assert texts(files) == TEXTS[: plan.last_sequence]
    assert plan.lost_records > 0


async def test_a_second_damage_further_on_is_gone_with_the_first() -> None:
    """The history ends at the first damage, however many there are."""
    files = await written(plain=True)
    flip(files, 1, 0.5)
    flip(files, 3, 0.1)
    plan = mended(files)
    assert plan
    assert plan.segment == files.names(JOURNAL)[1].removesuffix(".zst")
    assert texts(files) == TEXTS[: plan.last_sequence]


@pytest.mark.parametrize("loss", list(Loss))
@pytest.mark.parametrize(
    "damage", [lambda files: flip(files, 1, 0.6), lambda files: lose(files, 1)]
)
async def test_a_crash_at_any_step_of_a_repair_is_repaired(loss: Loss, damage: Damage) -> None:
    """Until it has ended, the journal opens as damaged or not at all; the next repair ends it."""
    original = await written()
    damage(original)
    whole = original.after_crash()
    plan = mended(whole)
    assert plan
    expected = texts(whole)
    steps = len(whole.steps)
    assert steps > 10
    for step in range(steps):
        files = original.after_crash()
        files.crash_before_step(step)
        with pytest.raises(CrashError):
            mended(files)
        files = files.after_crash(loss)
        try:
            verify(FOLDER, files=files)
        except StorageError:
            assert plan_repair(FOLDER, files=files) == plan
            assert mended(files) == plan
        assert texts(files) == expected
        assert list(read_records(FOLDER, files=files))[-1].events[0]["actor"] == "ops"


@pytest.mark.parametrize(
    "call", ["create", "write", "datasync", "rename", "fsync_folder", "delete"]
)
async def test_a_disk_that_fails_while_it_is_repaired_keeps_everything(call: str) -> None:
    """The error comes out as it is; the journal stays shut, and the next repair ends it."""
    original = await written()
    flip(original, 1, 0.6)
    whole = original.after_crash()
    mended(whole)
    for at in range(1, whole.steps.count(call) + 1):
        files = original.after_crash()
        files.fail(call, at=at, error=OSError(errno.EIO, "broken"))
        with pytest.raises(OSError, match="broken"):
            mended(files)
        assert not files.locks
        if files.exists(JOURNAL / "repair-pending.json"):
            with pytest.raises(StorageError, match="interrupted"):
                async with opened(files):
                    pytest.fail("opened")
            with pytest.raises(StorageError, match="interrupted"):
                list(select_records(FOLDER, Selection(), files=files))
        mended(files)
        assert texts(files) == texts(whole)


async def test_a_repair_needs_a_name_a_reason_and_the_folder_for_itself() -> None:
    """Nothing changes without them."""
    files = await written()
    flip(files, 0, 0.5)
    before = files.snapshot()
    with pytest.raises(UsageError, match="actor"):
        repair(FOLDER, actor="", reason="x", files=files)
    lock = files.lock(FOLDER / "lock")
    with pytest.raises(FolderInUseError):
        mended(files)
    lock.release()
    assert files.snapshot() == before


async def test_a_published_head_is_found_or_its_loss_is() -> None:
    """Every line's hash can be published; after a repair or a rewrite the later ones are gone."""
    files = await written()
    heads = [record.hash for record in read_records(FOLDER, files=files)]
    for sequence, head in enumerate(heads, 1):
        assert verify(FOLDER, head=head, files=files).head_sequence == sequence
    last = verify(FOLDER, files=files)
    assert last.head_sequence is None
    assert verify(FOLDER, head=last.head, files=files).head_sequence == len(TEXTS)
    assert verify(FOLDER, head="0" * 64, files=files).head_sequence == 0
    flip(files, 2, 0.6)
    plan = mended(files)
    assert plan
    for sequence, head in enumerate(heads, 1):
        if sequence <= plan.last_sequence:
            assert verify(FOLDER, head=head, files=files).head_sequence == sequence
        else:
            with pytest.raises(HeadNotFoundError, match=head):
                verify(FOLDER, head=head, files=files)
