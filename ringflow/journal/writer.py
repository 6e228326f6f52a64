"""The journal over any log: one writing thread, group commit, and the end after a failure.

- ``append`` queues and rings; the thread takes all that waits and makes it durable with one write
  and one sync. It runs to its end even when everything else is cancelled.
- It then has the event loop settle the batch: waiters and subscribers hear of a record only there,
  in the journal's order, while the thread may write the next batch already.
- The first failure is the last write: what waits has an unknown outcome, later appends are refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final, TypeVar, final

import anyio
import anyio.lowlevel
import anyio.to_thread

from ringflow.errors import (
    ConcurrencyError,
    DiskReserveError,
    JournalClosedError,
    LimitExceededError,
    OutcomeUnknownError,
)
from ringflow.events.codec import Event, EventCodec
from ringflow.journal.api import (
    Append,
    DurableMark,
    JournalLimits,
    OpeningReport,
    Record,
)
from ringflow.journal.batch import SealedBatch
from ringflow.journal.foundation import Foundation
from ringflow.journal.lanes import Lanes, Pending
from ringflow.journal.log import Log
from ringflow.journal.record import RawRecord
from ringflow.journal.segments import Segment
from ringflow.journal.selection import Selection, Streams, Types
from ringflow.journal.subscribers import CatchUp, Subscribers
from ringflow.journal.thread import Bell, LoopCaller
from ringflow.workers import in_thread, turns_taken

T = TypeVar("T")
_RESERVE_CHECK_BYTES: Final = 2**20  # the system is asked for the free space this often


@final
class JournalWriter:
    """``Journal`` over a ``Log``; ``run`` must be running in a task group.

    Args:
        in_thread: make the log's calls in a worker thread; False for logs that never block.
    """

    def __init__(
        self,
        log: Log,
        codec: EventCodec,
        limits: JournalLimits,
        report: OpeningReport,
        *,
        versions: Mapping[str, int],
        base: Foundation | None = None,
        in_thread: bool = True,
    ) -> None:
        self._log = log
        self._codec = codec
        self._limits = limits
        self._report = report
        self._versions = dict(versions)
        self._base = base
        self._blocks = in_thread
        self._in_thread = in_thread and turns_taken() is None
        self._lanes = Lanes()
        self._subscribers = Subscribers(self, limits.subscriber_records)
        self._bell = Bell()
        self._caller: LoopCaller | None = None
        self._work: anyio.Event | None = None
        self._room: anyio.Event | None = None
        self._progress: anyio.Event | None = None
        self._awaited = 0
        self._ended = anyio.Event()
        self._closing = False
        self._free_bytes = log.free_bytes()
        self._written = self._durable = log.sequence
        self._batches = self._written_bytes = self._unchecked_bytes = 0
        self._commit_s = 0.0
        self.failed = anyio.Event()
        self.failure: BaseException | None = None

    @property
    def epoch(self) -> int:
        return self._log.epoch

    @property
    def report(self) -> OpeningReport:
        return self._report

    @property
    def durable_sequence(self) -> int:
        return self._durable

    @property
    def waiting_count(self) -> int:
        return len(self._lanes)

    @property
    def commit_s(self) -> float:
        return self._commit_s

    @property
    def base(self) -> Foundation | None:
        return self._base

    def segments(self) -> Sequence[Segment]:
        return self._log.segments()

    def rebase(self, base: Foundation) -> None:
        self._log.forget(base.place.sequence)
        self._base = base

    def stream_version(self, stream: str) -> int:
        return self._versions.get(stream, 0)

    def append(
        self,
        stream: str,
        events: Sequence[Event],
        *,
        control: bool = True,
        mark: tuple[DurableMark, int] | None = None,
        expected_version: int | None = None,
    ) -> Append:
        self._check_open()
        version = self._versions.get(stream, 0)
        if expected_version is not None and expected_version != version:
            raise ConcurrencyError(stream, expected_version, version)
        data = self._codec.encode(events)
        self._check_bounds(len(data), control=control)
        append = Append(stream, version + 1, mark)
        self._versions[stream] = append.version
        self._lanes.push(Pending(append, events, data), control=control)
        self._ring()
        return append

    async def until_durable(self, append: Append) -> None:
        while append.sequence is None and not append.failed:
            assert append.commit is not None
            await self._heard(append.commit.over)  # its record may have to stay for the next batch
        if append.failed:
            raise OutcomeUnknownError(
                f"version {append.version} of stream {append.stream!r} may or may not be durable, "
                f"the journal failed: {self.failure}; open it again and look"
            ) from self.failure

    async def until_sequence(self, sequence: int) -> None:
        while self._durable < sequence:
            if self._ended.is_set():
                raise JournalClosedError(
                    f"the journal was closed before sequence {sequence} was durable; open it again"
                )
            if self._progress is None:
                self._progress, self._awaited = anyio.Event(), sequence
            self._awaited = min(self._awaited, sequence)
            await self._progress.wait()

    @property
    def has_room(self) -> bool:
        is_open = self.failure is None and not self._closing
        return is_open and self._lanes.message_bytes < self._limits.message_queue_bytes

    async def room(self) -> None:
        while self._lanes.message_bytes >= self._limits.message_queue_bytes:
            self._check_open()
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()
        self._check_open()

    def records(
        self,
        *,
        streams: Streams = None,
        types: Types = None,
        from_sequence: int = 0,
        to_sequence: int | None = None,
        since_ns: int = 0,
        until_ns: int | None = None,
    ) -> Iterator[Record]:
        wanted = Selection.of(
            self._codec, streams=streams, types=types, since_ns=since_ns, until_ns=until_ns
        )
        end = self._written if to_sequence is None else min(to_sequence, self._written)
        return map(self.decode, filter(wanted.wants, self.read(from_sequence, end)))

    def subscribe(
        self,
        *,
        from_sequence: int | None = None,
        streams: Streams = None,
        types: Types = None,
    ) -> AbstractAsyncContextManager[CatchUp]:
        wanted = Selection.of(self._codec, streams=streams, types=types)
        return self._subscribers.subscribe(wanted, from_sequence)

    def stream_back(self, stream: str) -> Iterator[tuple[Record, ...]]:
        end = self._written
        for segment in reversed(self._log.segments()):
            last = min(segment.last_sequence, end)
            found = self.read(segment.name.first_sequence, last)
            yield tuple(self.decode(one) for one in found if one.stream == stream)

    def read(self, from_sequence: int, to_sequence: int) -> Iterator[RawRecord]:
        """Yield verified records whose events are plain; both ends must be durable."""
        return self._log.read(from_sequence, to_sequence)

    def decode(self, record: RawRecord) -> Record:
        """Return a record with its events; raises as ``EventCodec.from_plain``."""
        return record.decoded(self._codec)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run blocking reads in a worker thread; at once where the log never blocks."""
        return await in_thread(work) if self._blocks else work()

    def statistics(self) -> Mapping[str, int]:
        return {
            "queued_records": len(self._lanes),
            "queued_control_bytes": self._lanes.control_bytes,
            "queued_message_bytes": self._lanes.message_bytes,
            "durable_sequence": self._durable,
            "batches": self._batches,
            "written_bytes": self._written_bytes,
            "subscribers": len(self._subscribers),
            "free_bytes": self._free_bytes,
        }

    async def aclose(self) -> None:
        self._closing = True
        self._ring()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()

    async def run(self) -> None:
        """Write what is appended, until ``aclose`` or the first failure; once, as a task."""
        with anyio.CancelScope(shield=True):  # acknowledged or failed, but never abandoned
            if self._in_thread:
                await self._serve_in_thread()
            else:
                await self._serve_here()

    async def _serve_in_thread(self) -> None:
        self._caller = LoopCaller()
        own = anyio.CapacityLimiter(1)  # it stays: it must not use up the default limiter
        try:
            await anyio.to_thread.run_sync(self._serve, self._caller, limiter=own)
            await self._ended.wait()
        finally:
            self._caller.close()

    async def _heard(self, event: anyio.Event) -> None:
        """Wait for an event that is set when a batch is settled."""
        await (event.wait() if self._caller is None else self._caller.until(event))

    def _ring(self) -> None:
        if self._in_thread:
            self._bell.ring()
        elif self._work is not None:
            self._work.set()

    def _serve(self, soon: LoopCaller) -> None:
        """Write until the end; the thread's own function."""
        try:
            while self._write_all(soon):
                self._bell.wait()
        except Exception as error:  # nobody waits for ever, whatever broke
            soon(partial(self._fail, error, ()))
        finally:
            soon(self._end)

    async def _serve_here(self) -> None:
        try:
            while True:
                self._work = anyio.Event()
                await self._pace()
                if not self._write_all(_now):
                    return
                await self._work.wait()
        except Exception as error:
            self._fail(error, ())
        finally:
            self._end()

    async def _pace(self) -> None:
        if (turns := turns_taken()) is not None:
            await turns.turn("write")
        else:
            await anyio.lowlevel.checkpoint()

    def _write_all(self, soon: Callable[[Callable[[], object]], None]) -> bool:
        """Write what is queued, have it settled in the event loop; False at the end."""
        closing = self._closing  # before the look into the lanes: nothing comes after it
        batch: Sequence[Pending] = ()
        try:
            while self.failure is None:
                if batch := self._lanes.take(self._limits.batch_bytes):
                    sealed = self._commit(batch)
                    failure = _tell_marks(batch)
                    soon(partial(self._settle, sealed, failure))
                elif not self._log.tidy():
                    break
        except Exception as error:
            soon(partial(self._fail, error, batch))
            self._log.abandon()
            return False
        if self.failure is not None:
            self._log.abandon()
            return False
        if closing:
            self._log.close()
        return not closing

    def _settle(self, sealed: SealedBatch, failure: Exception | None) -> None:
        """Tell of a durable batch, in the event loop; ``failure`` is what a mark raised."""
        if self.failure is not None:  # a callback's, while this batch was on its way
            _lose(sealed.batch)
            return
        self._durable = sealed.last_sequence
        self._batches += 1
        self._written_bytes += sealed.size_bytes
        for sequence, pending in enumerate(sealed.batch, sealed.durable + 1):
            try:
                pending.append.settle(sequence)
            except Exception as error:  # a callback's; all others still hear of their records
                failure = failure or error
        _wake(sealed.batch[0])
        if self._subscribers:
            self._subscribers.publish(sealed.records())
        if self._durable >= self._awaited:
            self._wake_progress()
        self._wake_room()
        if failure is not None:
            self._fail(failure, ())

    def _wake_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    def _wake_progress(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    def _end(self) -> None:
        self._closing = True
        self._subscribers.end()
        self._wake_room()
        self._ended.set()
        self._wake_progress()

    def _commit(self, batch: Sequence[Pending]) -> SealedBatch:
        start_s = time.monotonic()
        sealed = self._log.write(batch)
        self._commit_s = time.monotonic() - start_s
        self._written = sealed.last_sequence  # before anybody acts on it, so that all of it is read
        self._unchecked_bytes += sealed.size_bytes
        if self._unchecked_bytes >= _RESERVE_CHECK_BYTES:
            self._unchecked_bytes = 0
            self._free_bytes = self._log.free_bytes()
        return sealed

    def _fail(self, error: BaseException, batch: Sequence[Pending]) -> None:
        """Close for good; what was in ``batch`` or waits has an unknown outcome."""
        self.failure = error
        self._closing = True
        lost = list(batch)
        while self._lanes:
            lost += self._lanes.take(self._limits.batch_bytes)
        _lose(lost)
        self._wake_room()
        self.failed.set()
        self._ring()

    def _check_open(self) -> None:
        if self.failure is not None:
            raise JournalClosedError(
                f"the journal failed and is closed: {self.failure}; mend the cause and reopen it"
            ) from self.failure
        if self._closing:
            raise JournalClosedError("the journal is closed; open it again")

    def _check_bounds(self, size_bytes: int, *, control: bool) -> None:
        limits, lanes = self._limits, self._lanes
        if size_bytes > limits.record_bytes_max:
            raise LimitExceededError(
                "the record's size in bytes", size_bytes, limits.record_bytes_max, "split it"
            )
        if control:
            if lanes.control_bytes >= limits.control_queue_bytes:
                raise LimitExceededError(
                    "the bytes of control records that wait for the disk",
                    lanes.control_bytes,
                    limits.control_queue_bytes,
                    "ask for less at a time",
                )
            return
        if lanes.message_bytes >= limits.message_queue_bytes:
            raise LimitExceededError(
                "the bytes of messages that wait for the disk",
                lanes.message_bytes,
                limits.message_queue_bytes,
                "await the journal's room() first",
            )
        self.check_reserve()

    def check_reserve(self) -> None:
        reserve_bytes = self._limits.reserve_bytes
        if self._free_bytes < reserve_bytes:
            self._free_bytes = self._log.free_bytes()
        if self._free_bytes < reserve_bytes:
            raise DiskReserveError(self._free_bytes, reserve_bytes)


def _wake(pending: Pending) -> None:
    """Wake all that wait for a record of this one's batch."""
    assert pending.append.commit is not None
    pending.append.commit.settle()


def _lose(lost: Sequence[Pending]) -> None:
    """Tell of records whose outcome is unknown."""
    for pending in lost:
        pending.append.settle(None)
    for pending in lost:
        _wake(pending)


def _tell_marks(batch: Sequence[Pending]) -> Exception | None:
    """Tell each receiver its highest number; return the first error, after all have heard."""
    failure: Exception | None = None
    highest: dict[DurableMark, int] = {}
    for receiver, number in [one.append.mark for one in batch if one.append.mark is not None]:
        highest[receiver] = max(number, highest.get(receiver, number))
    for receiver, number in highest.items():
        try:
            receiver.mark_durable(number)
        except Exception as error:
            failure = failure or error
    return failure


def _now(function: Callable[[], object]) -> None:
    function()
