"""The contract of every journal, held by the one in files and the one in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from ringflow.clock import ManualClock
from ringflow.errors import (
    ConcurrencyError,
    JournalClosedError,
    LimitExceededError,
    UsageError,
)
from ringflow.journal.api import Journal, JournalLimits, Record
from ringflow.journal.log import MemoryLog
from ringflow.journal.memory import open_memory_journal
from ringflow.journal.opening import open_journal
from ringflow.journal.writer import JournalWriter
from tests.journal.sample import TYPES, Noted, note, texts_of, write_durably

pytestmark = pytest.mark.anyio
Opener = Callable[..., AbstractAsyncContextManager[JournalWriter]]


@pytest.fixture(params=["file", "memory"])
def opener(request: pytest.FixtureRequest, folder: Path) -> Opener:
    """Opens the same journal each time it is called."""
    if request.param == "file":
        return partial(open_journal, folder, types=TYPES)
    return partial(open_memory_journal, MemoryLog(), types=TYPES)


async def test_records_come_back_in_order_with_their_events(opener: Opener) -> None:
    """Sequence, stream version and events are those of the appends."""
    async with opener() as journal:
        first = journal.append("a", [Noted(text="1", data=b"\x00\xff"), Noted(text="2")])
        second = journal.append("b", note("3"))
        third = journal.append("a", note("4"))
        assert [one.version for one in (first, second, third)] == [1, 1, 2]
        await journal.until_durable(third)
        assert [one.sequence for one in (first, second, third)] == [1, 2, 3]
        records = list(journal.records())
        assert [(r.sequence, r.stream, r.version) for r in records] == [
            (1, "a", 1),
            (2, "b", 1),
            (3, "a", 2),
        ]
        assert records[0].events == (Noted(text="1", data=b"\x00\xff"), Noted(text="2"))
        assert journal.durable_sequence == 3
        assert [r.sequence for r in journal.records(streams=lambda name: name == "b")] == [2]
        assert [r.sequence for r in journal.records(from_sequence=2)] == [2, 3]


async def test_history_versions_and_epochs_go_on_after_reopening(opener: Opener) -> None:
    """Each opening has a new epoch; sequences and versions continue."""
    for epoch in (1, 2, 3):
        async with opener() as journal:
            assert journal.epoch == journal.report.epoch == epoch
            assert journal.durable_sequence == journal.report.last_sequence == 2 * (epoch - 1)
            assert journal.stream_version("s") == 2 * (epoch - 1)
            await write_durably(journal, [f"{epoch}a", f"{epoch}b"])
    async with opener() as journal:
        assert texts_of(journal) == ["1a", "1b", "2a", "2b", "3a", "3b"]
        records = list(journal.records())
        assert [r.epoch for r in records] == [1, 1, 2, 2, 3, 3]
        assert [r.version for r in records] == [1, 2, 3, 4, 5, 6]
        assert journal.report.closed_cleanly


async def test_leaving_the_block_writes_what_is_queued(opener: Opener) -> None:
    """Nothing that was queued is dropped by an orderly close."""
    async with opener() as journal:
        appends = [journal.append("s", note(str(n))) for n in range(50)]
    assert all(one.sequence for one in appends)
    async with opener() as journal:
        assert texts_of(journal) == [str(n) for n in range(50)]


async def test_cancellation_writes_what_is_queued(opener: Opener) -> None:
    """A cancelled program closes its journal in order, too."""
    with anyio.CancelScope() as scope:
        async with opener() as journal:
            append = journal.append("s", note("kept"))
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert append.sequence == 1
    async with opener() as journal:
        assert texts_of(journal) == ["kept"]


async def test_an_error_of_the_block_comes_out_as_it_is(opener: Opener) -> None:
    """The journal's task group doesn't wrap the errors of its users."""
    with pytest.raises(ZeroDivisionError):
        async with opener():
            raise ZeroDivisionError


async def test_a_closed_journal_refuses_appends(opener: Opener) -> None:
    """After the block there is no writer."""
    async with opener() as journal:
        pass
    with pytest.raises(JournalClosedError):
        journal.append("s", note("late"))
    with pytest.raises(JournalClosedError):
        await journal.room()


async def test_waiters_share_a_batch(opener: Opener) -> None:
    """Group commit: many waiters, few fsyncs."""
    async with opener() as journal:

        async def writer(name: str) -> None:
            await write_durably(journal, ["x", "y"], stream=name)

        async with anyio.create_task_group() as tasks:
            for n in range(100):
                tasks.start_soon(writer, f"w{n}")
        assert journal.durable_sequence == 200
        assert journal.statistics()["batches"] <= 20


async def test_callbacks_run_in_order_before_any_waiter(opener: Opener) -> None:
    """What ``then`` was given runs at the durable mark, in the journal's order."""
    seen: list[int] = []
    async with opener() as journal:
        appends = [journal.append("s", note(str(n))) for n in range(3)]
        for n, append in enumerate(appends):
            append.then(partial(seen.append, n))
        await journal.until_durable(appends[2])
        assert seen == [0, 1, 2]
        late = journal.append("s", note("3"))
        await journal.until_durable(late)
        late.then(partial(seen.append, 3))
        assert seen == [0, 1, 2, 3]


async def test_a_callback_that_raises_fails_the_journal_and_wakes_all(opener: Opener) -> None:
    """A broken callback must not leave anybody waiting for ever."""

    def broken() -> None:
        raise ZeroDivisionError

    async with opener() as journal:
        first, second = journal.append("s", note("1")), journal.append("s", note("2"))
        first.then(broken)
        await journal.until_durable(second)
        await journal.until_durable(first)
        await journal.failed.wait()
        with pytest.raises(JournalClosedError):
            journal.append("s", note("3"))


class _Marks:
    """Notes what it is told; a negative number breaks it."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def mark_durable(self, number: int) -> None:
        self.told.append(number)
        if number < 0:
            raise ZeroDivisionError


async def test_marks_are_told_in_order_before_anybody_else(opener: Opener) -> None:
    """Of several records of a batch the last number stands for all."""
    marks, seen = _Marks(), list[tuple[int, ...]]()
    async with opener() as journal:
        appends = [journal.append("s", note(str(n)), mark=(marks, n)) for n in range(1, 10)]
        for append in appends:
            append.then(lambda: seen.append(tuple(marks.told)))
        await journal.until_durable(appends[-1])
    assert marks.told == sorted(set(marks.told))
    assert marks.told[-1] == 9
    for number, told in enumerate(seen, 1):
        assert told[-1] >= number


class _Reader:
    """Notes what the journal has when it is told."""

    def __init__(self, journal: JournalWriter) -> None:
        self.journal = journal
        self.found: list[tuple[int, int]] = []

    def mark_durable(self, number: int) -> None:
        found = [one for part in self.journal.stream_back("s") for one in part]
        assert [one.version for one in found] == [r.version for r in self.journal.records()]
        self.found.append((number, max(one.version for one in found)))


async def test_who_is_told_that_a_record_is_durable_finds_it(opener: Opener) -> None:
    """Also before the event loop has heard: what was acted on is never missed in the history."""
    async with opener() as journal:
        reader = _Reader(journal)
        for number in range(1, 4):
            await journal.until_durable(journal.append("s", note("x"), mark=(reader, number)))
    assert reader.found == [(1, 1), (2, 2), (3, 3)]


async def test_a_mark_that_raises_fails_the_journal_and_wakes_all(opener: Opener) -> None:
    """As for a callback; the record is durable nevertheless."""
    async with opener() as journal:
        first = journal.append("s", note("1"), mark=(_Marks(), -1))
        await journal.until_durable(first)
        await journal.failed.wait()
        with pytest.raises(JournalClosedError):
            journal.append("s", note("2"))


async def test_control_overtakes_waiting_messages(opener: Opener) -> None:
    """A control record does not wait behind message batches."""
    async with opener(limits=JournalLimits(batch_bytes=1)) as journal:
        messages = [journal.append("m", note(str(n)), control=False) for n in range(20)]
        control = journal.append("c", note("now"))
        await journal.until_durable(messages[-1])
        assert control.sequence == 1
        assert [one.sequence for one in messages] == list(range(2, 22))


async def test_order_within_a_stream_is_kept_over_the_lanes(opener: Opener) -> None:
    """A control record takes the waiting messages of its own stream along."""
    async with opener(limits=JournalLimits(batch_bytes=1)) as journal:
        journal.append("other", note("o"), control=False)
        first = journal.append("s", note("1"), control=False)
        second = journal.append("s", note("2"), control=True)
        third = journal.append("s", note("3"), control=False)
        await journal.until_durable(third)
        assert (first.sequence, second.sequence, third.sequence) == (1, 2, 4)
        assert [r.version for r in journal.records(streams=lambda name: name == "s")] == [1, 2, 3]


async def test_message_lane_is_bounded_and_room_waits(opener: Opener) -> None:
    """At the bound append refuses and changes nothing; room() tells when it fits again."""
    limits = JournalLimits(message_queue_bytes=300, batch_bytes=1)
    async with opener(limits=limits) as journal:
        refused = 0
        for n in range(200):
            try:
                journal.append("m", note(str(n)), control=False)
            except LimitExceededError:
                refused += 1
                version = journal.stream_version("m")
                await journal.room()
                assert journal.append("m", note(str(n)), control=False).version == version + 1
        assert refused > 10
    async with opener() as journal:
        assert texts_of(journal) == [str(n) for n in range(200)]


async def test_many_tasks_get_room_one_after_the_other(opener: Opener) -> None:
    """Whoever returns from room() can append, however many wait."""
    limits = JournalLimits(message_queue_bytes=100, batch_bytes=1)
    async with opener(limits=limits) as journal:

        async def sender(name: str) -> None:
            for n in range(5):
                await journal.room()
                journal.append(name, note(str(n)), control=False)

        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(sender, f"t{n}")
    async with opener() as journal:
        assert journal.durable_sequence == 100


async def test_what_is_too_large_or_no_event_is_refused(opener: Opener) -> None:
    """A refused append leaves no gap in its stream."""
    async with opener(limits=JournalLimits(record_bytes_max=100)) as journal:
        with pytest.raises(LimitExceededError):
            journal.append("s", note("x" * 100))
        with pytest.raises(UsageError):
            journal.append("s", [Noted(text=5)])  # type: ignore[arg-type]
        await write_durably(journal, ["ok"])
        assert texts_of(journal) == ["ok"]
        assert journal.stream_version("s") == 1


async def test_an_append_that_expects_another_version_is_refused(opener: Opener) -> None:
    """Whoever decided on an older state decides again; nothing was queued; 0 means a new stream."""
    async with opener() as journal:
        assert journal.append("s", note("1"), expected_version=0).version == 1
        assert journal.append("s", note("2"), expected_version=1).version == 2
        with pytest.raises(ConcurrencyError, match="at version 2, 1 was expected") as caught:
            journal.append("s", note("3"), expected_version=1)
        assert (caught.value.stream, caught.value.expected, caught.value.actual) == ("s", 1, 2)
        with pytest.raises(ConcurrencyError):
            journal.append("t", note("3"), expected_version=1)
        assert journal.stream_version("s") == 2
    async with opener() as journal:
        with pytest.raises(ConcurrencyError):
            journal.append("s", note("3"), expected_version=0)
        await journal.until_durable(journal.append("s", note("3"), expected_version=2))
        assert texts_of(journal) == ["1", "2", "3"]


async def test_limits_keep_segments_readable() -> None:
    """What a writer may write, any reader takes into memory."""
    for limits in ({"segment_bytes": 2**30}, {"record_bytes_max": 2**28}, {"batch_bytes": 2**27}):
        with pytest.raises(LimitExceededError, match="JournalLimits"):
            JournalLimits(**limits)


async def test_subscribers_see_durable_records_in_order(opener: Opener) -> None:
    """Live records equal those of the history, from the subscription on; closing ends them."""
    seen: list[Record] = []
    async with anyio.create_task_group() as tasks, opener() as journal:
        await write_durably(journal, ["before"])
        ready = anyio.Event()

        async def follow() -> None:
            async with journal.subscribe() as records:
                ready.set()
                async for record in records:
                    assert record.sequence <= journal.durable_sequence
                    seen.append(record)

        tasks.start_soon(follow)
        await ready.wait()
        await write_durably(journal, ["a", "b"])
        history = list(journal.records(from_sequence=2))
    assert seen == history
    assert len(seen) == 2


async def test_time_never_goes_back(opener: Opener) -> None:
    """A wall clock that is stepped back leaves the journal's time where it was."""
    clock = ManualClock()
    async with opener(clock=clock) as journal:
        await write_durably(journal, ["a"])
        clock.step_wall(-3600)
        await write_durably(journal, ["b"])
    async with opener(clock=clock) as journal:
        await write_durably(journal, ["c"])
        clock.advance(7200)
        await write_durably(journal, ["d"])
        times = [record.at_ns for record in journal.records()]
    assert times[0] == times[1] == times[2] < times[3]


async def test_a_reader_of_the_history_sees_nothing_later(opener: Opener) -> None:
    """An iteration that was begun ends at the mark of its beginning."""
    async with opener() as journal:

        async def read(view: Journal) -> list[int]:
            return [record.sequence for record in view.records()]

        await write_durably(journal, ["a", "b"])
        iterator = journal.records()
        await write_durably(journal, ["c"])
        assert [record.sequence for record in iterator] == [1, 2]
        assert await read(journal) == [1, 2, 3]
