"""Snapshots of the folded state shorten an opening and can never change what it finds."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringflow.engine.folding import Fold
from ringflow.engine.state import EngineState
from ringflow.engine.state_codec import decode_state, encode_state, state_shape
from ringflow.engine.state_snapshots import StateSnapshots, take_snapshot
from ringflow.errors import CorruptError
from ringflow.events.chain import seal, unseal
from ringflow.events.messages import MessagesAccepted
from ringflow.events.registry import default_codec
from ringflow.journal.foundation import decode_foundation, encode_foundation
from ringflow.journal.reader import verify
from ringflow.journal.record import RawRecord
from ringflow.simulate.files import CrashError, CrashingFiles, Loss
from tests.journal import history
from tests.journal.history import opened, state_on_disk, with_snapshots, write
from tests.journal.sample import FOLDER, JOURNAL

pytestmark = pytest.mark.anyio
CODEC = default_codec()


async def snapshotted(files: CrashingFiles, after: int) -> int:
    """Write a history with a snapshot in it and ``after`` messages behind; return its sequence."""
    async with opened(files) as journal:
        await write(journal, history.launched("k"))
        await write(journal, history.messages("k", 1, 12))
        await write(journal, history.consumed("k", "plotter", 7))
        await write(journal, history.snapshot_begun("k", "op-1"))
        sequence = take_snapshot(journal, StateSnapshots(files, FOLDER), CODEC)
        await write(journal, history.messages("k", 13, after))
    return sequence


@pytest.mark.parametrize("after", [0, 1, 30])
async def test_an_opening_begins_with_the_newest_snapshot(after: int) -> None:
    """Only what came after it is folded, and the state is that of the whole history."""
    files = CrashingFiles()
    sequence = await snapshotted(files, after)
    fold = with_snapshots(files)
    async with opened(files, fold) as journal:
        assert fold.begun_at == sequence > 0
        assert journal.durable_sequence == sequence + after
        assert journal.stream_version("messages/k") == 13 + after
        assert fold.state == state_on_disk(files)
        assert list(fold.state.kernels) == ["k"]
        await write(journal, history.messages("k", 13 + after, 2))
        assert [one.sequence for one in journal.records()] == list(range(1, sequence + after + 3))
    assert verify(FOLDER, files=files).last_sequence == sequence + after + 2


async def test_the_next_snapshot_builds_on_the_one_before() -> None:
    """Two are kept, the older ones go."""
    files = CrashingFiles()
    snapshots = StateSnapshots(files, FOLDER)
    await snapshotted(files, 5)
    taken = []
    async with opened(files, with_snapshots(files)) as journal:
        for first in (18, 21, 24):
            await write(journal, history.messages("k", first, 3))
            taken.append(take_snapshot(journal, snapshots, CODEC))
        assert snapshots.sequences() == taken[:0:-1]
        newest = next(snapshots.load())
        assert decode_state(newest.state) == state_on_disk(files)


async def test_every_changed_byte_of_a_snapshot_is_passed_over() -> None:
    """A damaged cache is no cache: the history is folded from its beginning."""
    files = CrashingFiles()
    sequence = await snapshotted(files, 3)
    expected = state_on_disk(files)
    path = FOLDER / "snapshots" / f"state-{sequence:016d}.json"
    whole = files.read(path)
    snapshots = StateSnapshots(files, FOLDER)
    for index in range(len(whole) - 1):
        files.poke(path, whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        assert not list(snapshots.load())
    fold = with_snapshots(files)
    async with opened(files, fold):
        assert fold.begun_at == 0
        assert fold.state == expected
    files.poke(path, whole[: len(whole) // 2])
    assert not list(StateSnapshots(files, FOLDER).load())


@pytest.mark.parametrize("field", ["hash", "sequence", "at_ns", "epoch"])
async def test_a_snapshot_of_another_history_is_passed_over(field: str) -> None:
    """Its place must be a record of this journal, in every part."""
    files = CrashingFiles()
    sequence = await snapshotted(files, 3)
    snapshots = StateSnapshots(files, FOLDER)
    good = next(snapshots.load())
    value = "0" * 64 if field == "hash" else getattr(good.place, field) + 1
    changes: dict[str, Any] = {field: value}
    place = attrs.evolve(good.place, **changes)
    snapshots.save(attrs.evolve(good, place=place, state=encode_state(EngineState())))
    if field == "sequence":
        files.delete(FOLDER / "snapshots" / f"state-{sequence:016d}.json")
    fold = with_snapshots(files)
    async with opened(files, fold):
        assert fold.begun_at == 0
        assert fold.state == state_on_disk(files)


@pytest.mark.parametrize("name", ["shape", "tables", "version"])
async def test_a_snapshot_of_other_code_is_passed_over(name: str) -> None:
    """What another version folded may differ from what this one would."""
    files = CrashingFiles()
    await snapshotted(files, 3)
    snapshots = StateSnapshots(files, FOLDER)
    good = next(snapshots.load())
    snapshots.save(attrs.evolve(good, code={**good.code, name: "other"}))
    assert not list(snapshots.load())


async def test_a_snapshot_ahead_of_the_journal_is_passed_over() -> None:
    """A journal that was put back from an older copy wins over the cache."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write(journal, history.launched("k"))
        older = {path: data for path, data in files.snapshot().items() if path.parent == JOURNAL}
    sequence = await snapshotted(files, 3)
    for path in list(files.snapshot()):
        if path.parent == JOURNAL:
            files.delete(path)
    for path, data in older.items():
        files.poke(path, data)
    fold = with_snapshots(files)
    async with opened(files, fold) as journal:
        assert fold.begun_at == 0
        assert journal.report.last_sequence == 2 < sequence


@pytest.mark.parametrize("loss", list(Loss))
async def test_a_crash_at_every_step_of_a_snapshot_loses_nothing(loss: Loss) -> None:
    """Before each changing call of it: the state is that of the journal, with or without it."""
    step = 0
    while True:
        files = CrashingFiles()
        async with opened(files) as journal:
            await write(journal, history.launched("k"))
            await write(journal, history.messages("k", 1, 6))
            expected = state_on_disk(files)
            files.crash_before_step(len(files.steps) + step)
            try:
                take_snapshot(journal, StateSnapshots(files, FOLDER), CODEC)
            except CrashError:
                after = files.after_crash(loss)
            else:
                break
            finally:
                files.crash_before_step(10**9)
        fold = with_snapshots(after)
        async with opened(after, fold):
            assert fold.state == expected
        step += 1
    assert step > 4


def test_what_is_encoded_decodes_to_an_equal_state() -> None:
    """Order, big integers, open operations and every mark come back."""
    state = EngineState()
    for _, events in (
        *history.launched("b"),
        *history.launched("a"),
        *history.messages("a", 1, 7),
        *history.consumed("a", "c", 3),
        *history.snapshot_begun("b", "op-9"),
    ):
        for event in events:
            state.apply(event)
    data = encode_state(state)
    again = decode_state(data)
    assert again == state
    assert list(again.kernels) == ["b", "a"]
    assert again.marks["a"].producers == {"sender": 2**60 + 6}
    assert encode_state(again) == data
    assert len(state_shape()) == 64
    without = decode_state(data.replace(b'"closed":true,', b""))
    assert not without.closed  # an older one doesn't say; an end in order comes as an event
    with pytest.raises(CorruptError, match="use the version that wrote it"):
        decode_state(data.replace(b'"kernels":', b'"kernel5":'))
    with pytest.raises(CorruptError):
        decode_state(data.replace(b'"traps":0', b'"traps":0.0'))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(1, 2**61))))
def test_the_fast_fold_equals_the_fold_of_decoded_events(
    plan: list[tuple[str, int, int]],
) -> None:
    """Accepted messages are folded from plain fields; the state must not differ."""
    fold, state = Fold(CODEC), EngineState()
    decisions = [*history.launched("a"), *history.launched("b")]
    for kernel, count, number in plan:
        event = MessagesAccepted(
            kernel_id=kernel,
            first_sequence=number,
            types=(1,) * count,
            payloads=(b"x",) * count,
            producers=("p", "", "q")[:count],
            numbers=(number, 0, 7)[:count],
        )
        decisions.append(("messages", [event]))
    for index, (stream, events) in enumerate(decisions, 1):
        plain = tuple(CODEC.to_plain(event) for event in events)
        fold.take(RawRecord(index, 0, 1, stream, index, 0, plain, "", "", 0))
        for one in events:
            state.apply(one)
    assert fold.state == state


def test_a_foundation_is_read_back_or_refused() -> None:
    """The sealed line holds everything; another format is refused even when sealed rightly."""
    fold = Fold(CODEC)
    fold.take(RawRecord(1, 2**62, 1, "engine", 1, 0, (), "", "f" * 64, 0))
    foundation = fold.foundation()
    data = encode_foundation(foundation)
    assert decode_foundation(data) == foundation
    other, _ = seal(unseal(data[:-1])[0].replace(b"foundation-1", b"foundation-2"))
    with pytest.raises(CorruptError, match="ringflow-foundation-2"):
        decode_foundation(other)
