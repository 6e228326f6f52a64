"""Subscriptions bring history and then live records, each once and in order, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import ClassVar

import anyio
import anyio.lowlevel
import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringflow.clock import ManualClock
from ringflow.errors import CorruptJournalError, UsageError
from ringflow.events.codec import Event
from ringflow.journal.api import Journal, JournalLimits, Record, Subscription
from ringflow.journal.log import MemoryLog
from ringflow.journal.memory import open_memory_journal
from ringflow.journal.opening import open_journal
from ringflow.journal.writer import JournalWriter
from ringflow.simulate.files import CrashingFiles
from tests.journal.sample import JOURNAL, TYPES, Noted, note, opened, write_durably

pytestmark = pytest.mark.anyio
Opener = Callable[..., AbstractAsyncContextManager[JournalWriter]]
SMALL = JournalLimits(segment_bytes=2000, subscriber_records=3)


@attrs.frozen(kw_only=True)
class Counted:
    wire_name: ClassVar[str] = "test.counted.v1"
    count: int


BOTH = (*TYPES, Counted)


@pytest.fixture(params=["file", "memory"])
def opener(request: pytest.FixtureRequest, folder: Path) -> Opener:
    """Opens the same journal each time it is called."""
    if request.param == "file":
        return partial(open_journal, folder, types=BOTH)
    return partial(open_memory_journal, MemoryLog(), types=BOTH)


async def take(records: Subscription, count: int) -> list[Record]:
    with anyio.fail_after(20):
        return [await records.receive() for _ in range(count)]


async def rest(records: Subscription) -> list[Record]:
    with anyio.fail_after(20):
        return [record async for record in records]


@pytest.mark.parametrize("start", [0, 1, 3, 4, 6])
async def test_history_is_followed_by_live_records(opener: Opener, start: int) -> None:
    """From any place, one in the future too: no gap and no repeat; closing ends it."""
    async with opener() as journal:
        await write_durably(journal, ["1", "2", "3"])
        async with journal.subscribe(from_sequence=start) as records:
            old = max(0, 4 - max(start, 1))
            got = await take(records, old)
            assert records.is_live
            await write_durably(journal, ["4", "5", "6", "7"])
            got += await take(records, 7 - max(start, 1) + 1 - old)
            expected = list(journal.records(from_sequence=start))
            assert got == expected
    assert [record.sequence for record in got] == list(range(max(start, 1), 8))


async def test_without_a_start_only_live_records_come(opener: Opener) -> None:
    """What was durable before the subscription is not repeated."""
    async with opener() as journal:
        await write_durably(journal, ["before"])
        async with journal.subscribe() as records:
            await write_durably(journal, ["after"])
            assert [one.sequence for one in await take(records, 1)] == [2]


async def test_a_slow_reader_falls_back_to_the_history(opener: Opener) -> None:
    """More than its bound waits for it: it reads the rest from the disk and loses nothing."""
    async with opener(limits=SMALL) as journal, journal.subscribe() as records:
        await write_durably(journal, [str(number) for number in range(10)])
        assert not records.is_live
        assert [one.sequence for one in await take(records, 10)] == list(range(1, 11))
        await write_durably(journal, ["live again"])
        assert [one.sequence for one in await take(records, 1)] == [11]
        assert records.is_live


async def test_a_reader_that_lags_at_the_close_still_gets_everything(opener: Opener) -> None:
    """The end of the stream comes after the last durable record, not before."""
    async with opener(limits=SMALL) as journal:
        async with journal.subscribe() as records:
            await write_durably(journal, [str(number) for number in range(9)])
            await journal.aclose()
            assert [one.sequence for one in await rest(records)] == list(range(1, 10))
        async with journal.subscribe(from_sequence=8) as records:
            assert [one.sequence for one in await rest(records)] == [8, 9]


async def test_rotation_while_it_reads_loses_nothing(folder: Path) -> None:
    """Segments end and begin under a reader; many readers at once see the same."""
    limits = JournalLimits(segment_bytes=1200, subscriber_records=2)
    seen: list[list[int]] = [[], [], []]

    async def follow(journal: Journal, index: int) -> None:
        async with journal.subscribe(from_sequence=1) as records:
            async for record in records:
                assert record.sequence <= journal.durable_sequence
                seen[index].append(record.sequence)
                if index == 2:
                    await anyio.lowlevel.checkpoint()

    async with (
        anyio.create_task_group() as tasks,
        open_journal(folder, types=TYPES, limits=limits) as journal,
    ):
        for index in range(len(seen)):
            tasks.start_soon(follow, journal, index)
        await write_durably(journal, [str(number) for number in range(60)])
    assert seen == [list(range(1, 61))] * 3


async def test_nothing_is_handed_out_before_it_is_durable() -> None:
    """Records of a failed write never come, and the stream ends after the durable ones."""
    files = CrashingFiles()
    async with opened(files) as journal, journal.subscribe(from_sequence=0) as records:
        await write_durably(journal, ["kept"])
        files.fail("datasync", at=1, error=OSError(5, "the disk says no"))
        journal.append("s", note("lost"))
        await journal.failed.wait()
        assert [one.sequence for one in await rest(records)] == [1]


async def test_damage_after_the_opening_is_named(folder: Path) -> None:
    """A subscriber never gets a changed record, it gets the error with the place."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write_durably(journal, ["first", "second"])
        (name,) = files.names(JOURNAL)
        path = JOURNAL / name
        files.poke(path, files.read(path).replace(b"second", b"sec0nd"))
        async with journal.subscribe(from_sequence=1) as records:
            with pytest.raises(CorruptJournalError) as caught:
                await rest(records)
        assert (caught.value.segment, caught.value.sequence) == (name, 2)


async def test_a_cancelled_receive_loses_nothing(opener: Opener) -> None:
    """A deadline around ``receive`` may hit at any point of it."""
    async with opener(limits=SMALL) as journal:
        await write_durably(journal, [str(number) for number in range(40)])
        got: list[int] = []
        async with journal.subscribe(from_sequence=1) as records:
            while len(got) < 40:
                with anyio.CancelScope() as scope:
                    if len(got) % 2:
                        scope.cancel()
                    got.append((await records.receive()).sequence)
                if scope.cancelled_caught:
                    got.append((await records.receive()).sequence)
        assert got == list(range(1, 41))


async def test_streams_types_and_times_choose_records(opener: Opener) -> None:
    """The same choices hold for the history, for live records, and in any mix."""
    clock = ManualClock()
    async with opener(clock=clock) as journal:
        written: list[tuple[str, Event]] = [
            ("kernel/a", Noted(text="1")),
            ("kernel/b", Counted(count=2)),
            ("engine", Noted(text="3")),
            ("kernel/a", Counted(count=4)),
        ]
        for index, (stream, event) in enumerate(written):
            await journal.until_durable(journal.append(stream, [event]))
            clock.advance(float(index + 1))

        def found(**choice: object) -> list[int]:
            return [one.sequence for one in journal.records(**choice)]  # type: ignore[arg-type]

        assert found(streams="kernel/*") == [1, 2, 4]
        assert found(streams="kernel/a", types=[Counted]) == [4]
        assert found(types=["test.noted.v1"], to_sequence=2) == [1]
        assert found(streams=lambda name: name < "f") == [3]
        times = [one.at_ns for one in journal.records()]
        assert found(since_ns=times[1], until_ns=times[3]) == [2, 3]
        with pytest.raises(UsageError, match=r"no event is named 'test\.none\.v1'"):
            found(types=["test.none.v1"])
        async with journal.subscribe(
            from_sequence=2, streams="kernel/*", types=[Counted]
        ) as records:
            first = await take(records, 2)
            await journal.until_durable(journal.append("kernel/a", [Noted(text="5")]))
            await journal.until_durable(journal.append("engine", [Counted(count=6)]))
            await journal.until_durable(journal.append("kernel/c", [Counted(count=7)]))
            assert [one.sequence for one in first + await take(records, 1)] == [2, 4, 7]


async def test_a_closed_subscription_says_so(opener: Opener) -> None:
    """After ``aclose`` nothing more can be received, and the journal has forgotten it."""
    async with opener() as journal, journal.subscribe(from_sequence=1) as records:
        await write_durably(journal, ["1"])
        await records.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await records.receive()
    assert journal.statistics()["subscribers"] == 0


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(0, 12),
    bound=st.integers(1, 4),
    plan=st.lists(st.integers(-6, 5).filter(bool), max_size=12),
)
def test_any_mix_of_writing_and_reading_is_complete(
    anyio_backend_name: str, start: int, bound: int, plan: list[int]
) -> None:
    """Positive numbers append so many records, negative ones read so many (if there are)."""

    async def play() -> None:
        limits = JournalLimits(subscriber_records=bound, segment_bytes=900)
        async with opened(CrashingFiles(), limits=limits) as journal:
            await write_durably(journal, ["0"] * 5)
            got: list[int] = []
            async with journal.subscribe(from_sequence=start) as records:
                for step in plan:
                    if step > 0:
                        await write_durably(journal, ["x"] * step)
                        continue
                    left = journal.durable_sequence - max(start, 1) + 1 - len(got)
                    got += [one.sequence for one in await take(records, min(-step, max(left, 0)))]
                await journal.aclose()
                got += [one.sequence for one in await rest(records)]
            assert got == list(range(max(start, 1), journal.durable_sequence + 1))

    anyio.run(play, backend=anyio_backend_name)


async def test_a_stream_is_read_backwards_by_segments(opener: Opener) -> None:
    """All parts together are the stream; the first part has its newest records."""
    limits = JournalLimits(segment_bytes=900)
    async with opener(limits=limits) as journal:
        for number in range(12):
            await write_durably(journal, [str(number)], stream="ab"[number % 2])
        parts = list(journal.stream_back("a"))
        forward = list(journal.records(streams="a"))
        assert [record for part in reversed(parts) for record in part] == forward
        assert len(journal.segments()) == len(parts)
        assert forward[-1] in [record for part in parts[:2] for record in part]
