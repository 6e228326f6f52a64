"""The journal over any log: one flusher task, group commit, and the end after a failure.

- ``append`` queues; the flusher takes all that waits and makes it durable with one call in one
  worker thread, which runs to its end even when everything else is cancelled.
- Waiters and subscribers hear of a record only after that call has returned.
- The first failure is the last write: what waits has an unknown outcome, later appends are refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, final

import anyio
import anyio.lowlevel

from ringflow.errors import (
    DiskReserveError,
    JournalClosedError,
    LimitExceededError,
    OutcomeUnknownError,
)
from ringflow.events.codec import Event, EventCodec
from ringflow.journal.api import (
    Append,
    JournalLimits,
    OpeningReport,
    Record,
    StreamFilter,
)
from ringflow.journal.lanes import Lanes, Pending
from ringflow.journal.log import Log
from ringflow.journal.subscribers import LiveRecords, Subscribers
from ringflow.journal.thread import worker_thread

_RESERVE_CHECK_BYTES: Final = 2**20  # the system is asked for the free space this often

Call = Callable[[Callable[[], Any]], Awaitable[Any]]


async def _call_here(function: Callable[[], Any]) -> Any:
    await anyio.lowlevel.checkpoint()
    return function()


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
        in_thread: bool = True,
    ) -> None:
        self._log = log
        self._codec = codec
        self._limits = limits
        self._report = report
        self._versions = dict(versions)
        self._in_thread = in_thread
        self._lanes = Lanes()
        self._subscribers = Subscribers(limits.subscriber_records)
        self._work = anyio.Event()
        self._room = anyio.Event()
        self._ended = anyio.Event()
        self._closing = False
        self._free_bytes = log.free_bytes()
        self._durable = log.sequence
        self._batches = self._written_bytes = self._unchecked_bytes = 0
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

    def stream_version(self, stream: str) -> int:
        return self._versions.get(stream, 0)

    def append(self, stream: str, events: Sequence[Event], *, control: bool = True) -> Append:
        self._check_open()
        data = self._codec.encode(events)
        self._check_bounds(len(data), control=control)
        append = Append(stream, self._versions.get(stream, 0) + 1)
        self._versions[stream] = append.version
        self._lanes.push(Pending(append, events, data), control=control)
        self._work.set()
        return append

    async def until_durable(self, append: Append) -> None:
        if append.sequence is None:
            await append.done.wait()
        if append.failed:
            raise OutcomeUnknownError(
                f"version {append.version} of stream {append.stream!r} may or may not be durable, "
                f"the journal failed: {self.failure}; open it again and look"
            ) from self.failure

    async def room(self) -> None:
        while self._lanes.message_bytes >= self._limits.message_queue_bytes:
            self._check_open()
            await self._room.wait()
        self._check_open()

    def records(
        self, *, streams: StreamFilter | None = None, from_sequence: int = 0
    ) -> Iterator[Record]:
        return self._records(streams, from_sequence, self._durable)

    def subscribe(self) -> AbstractAsyncContextManager[LiveRecords]:
        return self._subscribers.subscribe()

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
        self._work.set()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()

    async def run(self) -> None:
        """Write what is appended, until ``aclose`` or the first failure; once, as a task."""
        with anyio.CancelScope(shield=True):  # acknowledged or failed, but never abandoned
            try:
                if self._in_thread:
                    async with worker_thread() as worker:
                        await self._flush(worker.call)
                else:
                    await self._flush(_call_here)
            finally:
                self._closing = True
                self._subscribers.end()
                self._room.set()
                self._ended.set()

    async def _flush(self, blocking: Call) -> None:
        batch: list[Pending] = []
        try:
            while await self._wait_for_work():
                batch = self._lanes.take(self._limits.batch_bytes)
                await self._write(batch, blocking)
            if self.failure is None:
                await blocking(self._log.close)
        except Exception as error:  # nobody waits for ever, whatever broke
            self._fail(error, [one for one in batch if one.append.sequence is None])

    async def _wait_for_work(self) -> bool:
        """Wait until something is queued; False at the end."""
        while self.failure is None and not self._lanes and not self._closing:
            self._work = anyio.Event()
            await self._work.wait()
        return self.failure is None and len(self._lanes) > 0

    async def _write(self, batch: list[Pending], blocking: Call) -> None:
        try:
            records, size, self._free_bytes = await blocking(partial(self._commit, batch))
        except Exception as error:
            self._fail(error, batch)
            self._log.abandon()
            return
        self._durable = records[-1].sequence
        self._batches += 1
        self._written_bytes += size
        errors: list[Exception] = []
        for pending, record in zip(batch, records, strict=True):
            try:
                pending.append.settle(record.sequence)
            except Exception as error:  # a callback's; all others still hear of their records
                errors.append(error)
        self._subscribers.publish(records)
        self._room.set()
        self._room = anyio.Event()
        if errors:
            raise errors[0]

    def _commit(self, batch: list[Pending]) -> tuple[list[Record], int, int]:
        records, size = self._log.write(batch)
        self._unchecked_bytes += size
        if self._unchecked_bytes < _RESERVE_CHECK_BYTES:
            return records, size, self._free_bytes
        self._unchecked_bytes = 0
        return records, size, self._log.free_bytes()

    def _fail(self, error: BaseException, batch: list[Pending]) -> None:
        self.failure = error
        self._closing = True
        while self._lanes:
            batch = batch + self._lanes.take(self._limits.batch_bytes)
        for pending in batch:
            pending.append.settle(None)
        self.failed.set()

    def _records(
        self, streams: StreamFilter | None, from_sequence: int, to_sequence: int
    ) -> Iterator[Record]:
        for raw in self._log.read(from_sequence, to_sequence):
            if streams is None or streams(raw.stream):
                yield raw.decoded(self._codec)

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
        if self._free_bytes < limits.reserve_bytes:
            self._free_bytes = self._log.free_bytes()
        if self._free_bytes < limits.reserve_bytes:
            raise DiskReserveError(self._free_bytes, limits.reserve_bytes)
