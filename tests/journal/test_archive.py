"""Archiving takes what nothing needs, keeps the rest, and can be cut short anywhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import anyio
import pytest

from ringflow.engine.archiving import ArchivePlan, archive, archive_folder
from ringflow.engine.state import EngineState
from ringflow.engine.state_snapshots import StateSnapshots, take_snapshot
from ringflow.errors import (
    ArchivedError,
    ConflictError,
    CorruptJournalError,
    StorageError,
    UsageError,
)
from ringflow.events.registry import default_codec
from ringflow.files import Buffer, FileSystem, write_atomic
from ringflow.journal.projections import FileProjections, StoredProjection
from ringflow.journal.reader import read_records, verify
from ringflow.journal.store import SegmentStore
from ringflow.simulate.files import CrashingFiles, Loss
from tests.journal import history
from tests.journal.history import opened, state_on_disk, with_snapshots, write
from tests.journal.sample import FOLDER, JOURNAL

pytestmark = pytest.mark.anyio
TARGET = Path("/archive")


async def written(files: CrashingFiles, half: int = 20) -> None:
    """Write one kernel's history of 40 messages in many segments; the journal is closed again."""
    async with opened(files) as journal:
        await write(journal, history.launched("k"))
        await write(journal, history.messages("k", 1, half))
    async with opened(files) as journal:
        await write(journal, history.messages("k", half + 1, half))
        await write(journal, [("kernel/k", [history.retired("k", 1)])])
        await write(journal, [("kernel/k", [history.point("k", half * 3 // 2)])])


async def archived(
    files: CrashingFiles, *, target: Path | None = TARGET, to_sequence: int | None = None
) -> ArchivePlan:
    async with opened(files, with_snapshots(files)) as journal:
        return await archive(
            journal,
            files,
            FOLDER,
            target=target,
            delete=target is None,
            to_sequence=to_sequence,
            actor="ops",
            reason="the disk is small",
        )


def sequences(files: CrashingFiles, path: Path = FOLDER) -> list[int]:
    return [record.sequence for record in read_records(path, files=files)]


def segment_names(files: CrashingFiles, folder: Path) -> set[str]:
    return {str(name) for name in SegmentStore(files, folder).names()}


def same(state: EngineState, other: EngineState) -> bool:
    return state == other and list(state.kernels) == list(other.kernels)


@pytest.mark.parametrize("target", [TARGET, None])
async def test_what_nothing_needs_goes_and_the_rest_opens(target: Path | None) -> None:
    """The state, the versions and the chain go on behind the base; the archive verifies alone."""
    files = CrashingFiles()
    await written(files)
    before, everything = state_on_disk(files), sequences(files)
    done = await archived(files, target=target)
    assert 10 < done.last_sequence < 33
    assert done.kept[0].sequence == 32
    assert done.kept[0].what == "kernel 'k', recovery point 'k-30', replays it"
    kept = sequences(files)
    assert kept == list(range(done.last_sequence + 1, everything[-1] + 2))
    assert same(state_on_disk(files), before)
    report = verify(FOLDER, files=files)
    assert report.first_sequence == done.last_sequence + 1
    assert report.records == len(kept)
    if target is not None:
        assert sequences(files, TARGET) == list(range(1, done.last_sequence + 1))
        assert verify(TARGET, files=files).last_sequence == done.last_sequence
        assert verify(FOLDER, files=files, head=verify(TARGET, files=files).head)
    async with opened(files, with_snapshots(files)) as journal:
        await write(journal, history.messages("k", 41, 3))
        assert journal.stream_version("messages/k") == 43


async def test_the_archiving_is_journaled_with_who_and_why() -> None:
    """The event names what went, the hash of its end, and where it is."""
    files = CrashingFiles()
    await written(files)
    done = await archived(files)
    (event,) = list(read_records(FOLDER, files=files))[-1].events
    assert event["type"] == "engine.journal_archived.v1"
    assert (event["actor"], event["reason"]) == ("ops", "the disk is small")
    assert (event["first_sequence"], event["last_sequence"]) == (1, done.last_sequence)
    assert event["head"] == verify(TARGET, files=files).head
    assert tuple(event["segments"]) == done.segments


async def test_a_dry_run_changes_nothing_and_says_what_keeps_what() -> None:
    """Without a lock from the folder, and from the open journal: the same plan."""
    files = CrashingFiles()
    await written(files)
    before = files.snapshot()
    planned = await archive_folder(FOLDER, target=None, dry_run=True, files=files)
    assert files.snapshot() == before
    async with opened(files) as journal:
        again = await archive(journal, files, FOLDER, target=None, dry_run=True)
    assert again == planned
    assert planned.segments
    with pytest.raises(UsageError, match="delete=True"):
        await archive_folder(FOLDER, target=None, files=files)


async def test_everything_that_needs_records_keeps_them() -> None:
    """A consumer, an operation, a projection and a kernel without a point, each by itself."""
    files = CrashingFiles()
    await written(files)
    async with opened(files) as journal:
        await write(journal, history.launched("late"))
        await write(journal, history.messages("late", 1, 2))
        await write(journal, history.snapshot_begun("late", "op-1"))
        await write(journal, history.consumed("k", "plotter", 25))
        await write(journal, history.messages("k", 41, 9))
    stored = StoredProjection(version=1, position=8, sequence=0, hash="", state=b"")
    FileProjections(FOLDER, files=files).save("totals", stored)
    planned = await archive_folder(FOLDER, target=None, dry_run=True, files=files)
    by_what = {one.what: one.sequence for one in planned.kept}
    assert by_what == {
        "projection 'totals' has not seen it": 9,
        "kernel 'k', consumer 'plotter', has not acknowledged it": 27,
        "kernel 'k', recovery point 'k-30', replays it": 32,
        "kernel 'late', recovery point 'late-1', replays it": 47,
        "operation 'op-1' is not at its end": 49,
    }
    assert planned.last_sequence <= 8
    assert [one.sequence for one in planned.kept] == sorted(by_what.values())


async def test_a_message_with_an_array_is_kept_like_any_other() -> None:
    """A recovery point that replays it holds on to its record, not to a later one."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write(journal, history.launched("k"))
        await write(journal, history.messages("k", 1, 4))
        await write(journal, [history.bulk_message("k", 5)])
        await write(journal, history.messages("k", 6, 4))
        await write(journal, [("kernel/k", [history.retired("k", 1), history.point("k", 5)])])
    planned = await archive_folder(FOLDER, target=None, dry_run=True, files=files)
    assert [one.sequence for one in planned.kept] == [7]


async def test_nothing_behind_the_asked_sequence_goes() -> None:
    """``to_sequence`` bounds it, and the segment that is written never goes."""
    files = CrashingFiles()
    await written(files)
    assert (await archived(files, to_sequence=9)).last_sequence <= 9
    assert (await archived(files, to_sequence=1)).segments == ()


async def test_a_reader_below_the_floor_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 0 it gets the oldest there is; from an archived sequence a clear error."""
    monkeypatch.setattr("ringflow.journal.subscribers.CHUNK_BYTES", 1)
    files = CrashingFiles()
    await written(files)
    async with opened(files) as journal:
        async with journal.subscribe(from_sequence=1) as slow:
            assert (await slow.receive()).sequence == 1
            done = await archive(journal, files, FOLDER, target=TARGET)
            first = done.last_sequence + 1
            assert next(iter(journal.records())).sequence == first
            with pytest.raises(ArchivedError, match=f"begins with {first}; read the folder"):
                journal.records(from_sequence=first - 1)
            with anyio.fail_after(20), pytest.raises(ArchivedError):
                await anext(one async for one in slow if one.sequence > 10**6)
        async with journal.subscribe(from_sequence=3) as late:
            with pytest.raises(ArchivedError):
                await late.receive()
        async with journal.subscribe(from_sequence=0) as oldest:
            assert (await oldest.receive()).sequence == first


async def test_archiving_again_goes_on_behind_the_base() -> None:
    """The second base replaces the first, and the archive's folder holds one whole history."""
    files = CrashingFiles()
    await written(files)
    await archived(files, to_sequence=12)
    async with opened(files) as journal:
        await write(journal, history.messages("k", 41, 20))
        await write(journal, [("kernel/k", [history.retired("k", 30), history.point("k", 58)])])
    before = state_on_disk(files)
    second = await archived(files)
    assert second.first_sequence > 1
    assert sequences(files, TARGET) == list(range(1, second.last_sequence + 1))
    assert same(state_on_disk(files), before)
    assert [name for name in files.names(JOURNAL) if name.startswith("base")] == [
        f"base-{second.last_sequence:016d}.json"
    ]


async def test_snapshots_and_archives_agree() -> None:
    """A base may be built on a snapshot, and older snapshots go with the records."""
    files = CrashingFiles()
    snapshots = StateSnapshots(files, FOLDER)
    async with opened(files) as journal:
        await write(journal, history.launched("k"))
        await write(journal, history.messages("k", 1, 10))
        old = take_snapshot(journal, snapshots, default_codec())
    async with opened(files) as journal:
        await write(journal, history.messages("k", 11, 20))
        await write(journal, [("kernel/k", [history.retired("k", 1), history.point("k", 29)])])
        await write(journal, history.messages("k", 31, 10))
        new = take_snapshot(journal, snapshots, default_codec())
    before = state_on_disk(files)
    done = await archived(files)
    assert old < done.last_sequence < new
    assert snapshots.sequences() == [new]
    fold = with_snapshots(files)
    async with opened(files, fold):
        assert fold.begun_at == new
    assert same(fold.state, before)
    snapshots.keep(1, 0)
    assert same(state_on_disk(files), before)


@pytest.mark.parametrize("loss", list(Loss))
async def test_a_crash_at_every_step_leaves_a_journal_that_opens(loss: Loss) -> None:
    """Whatever was done of it: no record is lost, the state is the same, the next one finishes."""
    original = CrashingFiles()
    await written(original, half=4)
    before, everything = state_on_disk(original), segment_names(original, JOURNAL)
    step = 0
    while True:
        files = original.after_crash(Loss.NONE)
        async with opened(files) as journal:
            files.crash_before_step(len(files.steps) + step)
            try:
                await archive(journal, files, FOLDER, target=TARGET)
            except StorageError:
                crashed = True
            else:
                crashed = bool(files.has_crashed)
        after = files.after_crash(loss)
        if not crashed:
            break
        assert same(state_on_disk(after), before)
        kept = segment_names(after, JOURNAL) | segment_names(after, TARGET)
        assert everything <= kept, "a segment is neither in the journal nor in the archive"
        done = await archived(after)
        assert same(state_on_disk(after), before)
        assert sequences(after)[0] > 3
        assert not done.last_sequence or sequences(after)[0] == done.last_sequence + 1
        assert sequences(after, TARGET) == list(range(1, sequences(after)[0]))
        step += 1
    assert step > 15


async def test_every_changed_byte_of_a_base_record_is_refused() -> None:
    """It stands for records that are gone: damage is named, nothing is guessed."""
    files = CrashingFiles()
    await written(files)
    await archived(files, target=None)
    (name,) = (name for name in files.names(JOURNAL) if name.startswith("base"))
    whole = files.read(JOURNAL / name)
    for index in range(len(whole) - 1):
        files.poke(JOURNAL / name, whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with pytest.raises(CorruptJournalError) as caught:
            sequences(files)
        assert caught.value.segment == name
    files.delete(JOURNAL / name)
    with pytest.raises(CorruptJournalError, match="is missing"):
        verify(FOLDER, files=files)
    with pytest.raises(CorruptJournalError):
        async with opened(files):
            raise AssertionError("it opened")


async def test_a_failing_disk_is_told_and_the_next_archiving_finishes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The archive's folder is full: the journal works on in between."""
    files = CrashingFiles()
    await written(files)

    def refuse(files: FileSystem, path: Path, pieces: Iterable[Buffer]) -> None:
        if path.parent == TARGET and files.names(TARGET):
            raise OSError(28, "no space left")
        write_atomic(files, path, pieces)

    async with opened(files) as journal:
        with monkeypatch.context() as patched:
            patched.setattr("ringflow.journal.archive.write_atomic", refuse)
            with pytest.raises(StorageError, match="mend that and archive again"):
                await archive(journal, files, FOLDER, target=TARGET)
        await write(journal, history.messages("k", 41, 2))
        again = await archive(journal, files, FOLDER, target=TARGET)
        assert len(again.leftovers) > 1
        assert not again.segments
        first = journal.segments()[0].name.first_sequence
        assert [one.sequence for one in journal.records()] == list(
            range(first, journal.durable_sequence + 1)
        )
    assert sequences(files, TARGET) == list(range(1, first))


async def test_an_archive_is_never_replaced_by_that_of_another_journal() -> None:
    """Segments of two engines have the same names; nothing is changed in either folder."""
    files, other = CrashingFiles(), CrashingFiles()
    await written(files)
    await written(other, half=24)
    await archived(other)
    for path, data in other.snapshot().items():
        if path.parent == TARGET:
            files.make_folder(TARGET)
            files.poke(path, data)
    with pytest.raises(ConflictError, match="of another journal"):
        await archived(files)
    assert sequences(files)[0] == 1
    assert sequences(files, TARGET) == sequences(other, TARGET)


@pytest.mark.parametrize("target", [FOLDER, JOURNAL, FOLDER / "checkpoints" / ".." / "journal"])
async def test_segments_are_never_moved_onto_themselves(target: Path) -> None:
    """They would be deleted as their own originals."""
    files = CrashingFiles()
    await written(files)
    with pytest.raises(ConflictError, match="name another one"):
        await archived(files, target=target)
    assert sequences(files)[0] == 1


async def test_a_new_archive_folder_is_synced_into_those_above_it() -> None:
    """Before the originals go: else a crash could lose the folder with all that is in it."""
    files = CrashingFiles()
    await written(files)
    calls: list[tuple[str, Path]] = []
    files.watch = lambda call, path: calls.append((call, path))
    await archived(files, target=Path("/store/2026/one"))
    gone = next(
        index
        for index, (call, path) in enumerate(calls)
        if call == "delete" and path.parent == JOURNAL and path.suffix == ".zst"
    )
    for folder in ("/", "/store", "/store/2026"):
        assert ("fsync_folder", Path(folder)) in calls[:gone]


async def test_what_a_crash_left_of_an_archiving_is_journaled_when_it_goes() -> None:
    """The crash came between the base record and the event: who and why must not be missing."""
    files = CrashingFiles()
    await written(files)

    def crash_behind_the_base(call: str, path: Path) -> None:
        if (call, path) == ("fsync_folder", JOURNAL) and any(
            name.startswith("base-") and name.endswith(".json") for name in files.names(JOURNAL)
        ):
            files.power_off()

    files.watch = crash_behind_the_base
    with pytest.raises(StorageError):
        await archived(files)
    after = files.after_crash(Loss.NONE)
    await archived(after, to_sequence=0)
    records = list(read_records(FOLDER, files=after))
    (told,) = (
        event
        for record in records
        for event in record.events
        if event["type"] == "engine.journal_archived.v1"
    )
    assert (told["actor"], told["first_sequence"]) == ("ops", 1)
    assert told["last_sequence"] == records[0].sequence - 1
