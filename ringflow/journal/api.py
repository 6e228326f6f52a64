"""What the engine needs of a journal, and the values that it hands out.

- ``append`` is synchronous: version and place within the stream are given at once, with no await.
- A record is one decision: its events become durable together or not at all.
- Nothing is acknowledged, and no subscriber sees a record, before it is durable.
- The first failed write or fsync closes the journal for good.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, final

import anyio
import attrs

from ringflow.errors import LimitExceededError
from ringflow.events.codec import Event
from ringflow.journal.foundation import Foundation
from ringflow.journal.record import RawRecord, Record
from ringflow.journal.segments import Segment
from ringflow.journal.selection import StreamFilter, Streams, Types

_LIMITS_MAX: Final = {  # together within what a reader takes for a segment (256 MiB)
    "record_bytes_max": 64 * 2**20,
    "batch_bytes": 16 * 2**20,
    "segment_bytes": 64 * 2**20,
}


@attrs.frozen(kw_only=True)
class JournalLimits:
    """Bounds of a journal; sizes in bytes of encoded events.

    Attributes:
        record_bytes_max: the largest single record.
        message_queue_bytes: waiting message records; at the bound ``append`` refuses and
            ``room`` waits.
        control_queue_bytes: waiting control records; at the bound ``append`` refuses.
        batch_bytes: about as much is written with one fsync.
        segment_bytes: a segment that has reached this size is followed by a new one.
        subscriber_records: live records that may wait for one subscriber; beyond that it reads
            them from the disk when it comes to them.
        reserve_bytes: with less free disk space, message records are refused.
    """

    record_bytes_max: int = 16 * 2**20
    message_queue_bytes: int = 8 * 2**20
    control_queue_bytes: int = 64 * 2**20
    batch_bytes: int = 2 * 2**20
    segment_bytes: int = 16 * 2**20
    subscriber_records: int = 4096
    reserve_bytes: int = 64 * 2**20

    def __attrs_post_init__(self) -> None:
        for name, most in _LIMITS_MAX.items():
            if (value := getattr(self, name)) > most:
                raise LimitExceededError(
                    f"JournalLimits.{name}", value, most, "a segment is read into memory as a whole"
                )


class DurableMark(Protocol):
    """What is told how far it is durable, in the journal's thread."""

    def mark_durable(self, number: int) -> None:
        """Everything up to ``number`` is durable; must be short, and safe beside the event loop."""


@final
class Commit:
    """A batch on its way to the disk: what all waiters of its records wait for."""

    __slots__ = ("_is_over", "_over")

    def __init__(self) -> None:
        self._over: anyio.Event | None = None
        self._is_over = False

    @property
    def over(self) -> anyio.Event:
        """Set when the batch is settled."""
        if self._over is None:  # many batches have no waiters
            self._over = anyio.Event()
            if self._is_over:
                self._over.set()
        return self._over

    def settle(self) -> None:
        """Called by the journal, in the event loop, after the batch's records were settled."""
        self._is_over = True
        if self._over is not None:
            self._over.set()


@final
class Append:
    """A record on its way to the disk.

    Attributes:
        stream, version: its stream and its number in it, counted from 1; known at once.
        sequence: its number in the journal once it is durable, None before.
        failed: its outcome is unknown.
        mark: what is told first that the record is durable, and the number that it is told; of
            several records of a batch with one receiver only the highest number is given.
        commit: the batch that it is in, or is to be in.
    """

    __slots__ = ("_then", "commit", "failed", "mark", "sequence", "stream", "version")

    def __init__(
        self,
        stream: str,
        version: int,
        mark: tuple[DurableMark, int] | None = None,
    ) -> None:
        self.stream = stream
        self.version = version
        self.mark = mark
        self.sequence: int | None = None
        self.failed = False
        self.commit: Commit | None = None
        self._then: Callable[[], None] | None = None

    def then(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the event loop once the record is durable, never if it fails.

        Callbacks of records run in the journal's order, before any waiter wakes; they must be
        short and must not raise.
        """
        assert self._then is None
        if self.sequence is not None:
            callback()
        else:
            self._then = callback

    def settle(self, sequence: int | None) -> None:
        """Called once, by the journal: the record is durable, or None: that is unknown."""
        self.sequence = sequence
        self.failed = sequence is None
        if self._then is not None and not self.failed:
            self._then()


@attrs.frozen(kw_only=True)
class TornTail:
    """Bytes that were never acknowledged and were cut when the journal was opened.

    Attributes:
        segment: the segment that was cut.
        offset_bytes, size_bytes: where the cut was and how much was behind it.
        backup: the file name, beside the segment, that keeps the bytes; empty if there were none.
        reason: what was wrong with the first of the bytes.
    """

    segment: str
    offset_bytes: int
    size_bytes: int
    backup: str
    reason: str


@attrs.frozen(kw_only=True)
class IgnoredBytes:
    """Bytes that a writer added after a later opening had fenced it off; never read."""

    segment: str
    offset_bytes: int
    size_bytes: int


@attrs.frozen(kw_only=True)
class OpeningReport:
    """What an opening found; the engine journals it.

    Attributes:
        epoch: of this opening; one more than any before it.
        last_sequence: of the verified history, 0 for a new journal.
        head: the hash of the history's last line.
        closed_cleanly: the history is empty or ends with its writer's closing line.
    """

    epoch: int
    last_sequence: int
    head: str
    closed_cleanly: bool
    torn: tuple[TornTail, ...] = ()
    ignored: tuple[IgnoredBytes, ...] = ()


class Subscription(Protocol):
    """Durable records in order, without a gap or a repeat; an ``anyio`` receive stream.

    Once the journal is closed the iteration ends after the last durable record. One task reads;
    a slow one loses nothing and holds up nobody.
    """

    @property
    def is_live(self) -> bool:
        """Nothing durable is left to read from the history."""

    @property
    def position(self) -> int:
        """Everything up to this sequence was received, or was not asked for."""

    async def receive(self) -> Record:
        """Return the next record.

        Raises:
            anyio.EndOfStream: the journal was closed.
            CorruptJournalError: the history was damaged after the opening.
            ArchivedError: the next record was archived before it was read.
        """

    def __aiter__(self) -> AsyncIterator[Record]: ...
    async def aclose(self) -> None: ...


class Journal(Protocol):
    """One writer's journal."""

    @property
    def epoch(self) -> int:
        """The number of this opening, from 1; fences earlier writers."""

    @property
    def report(self) -> OpeningReport: ...

    @property
    def durable_sequence(self) -> int:
        """The sequence up to which everything is durable; 0 for none."""

    async def until_sequence(self, sequence: int) -> None:
        """Wait until ``sequence`` is durable; raises ``JournalClosedError`` if it won't be."""

    @property
    def base(self) -> Foundation | None:
        """What stands for the records that were archived, None for none."""

    def segments(self) -> Sequence[Segment]:
        """Return the segments, oldest first; the last one is being written."""

    def rebase(self, base: Foundation) -> None:
        """Begin behind a durable base record: readers get nothing that it stands for any more."""

    @property
    def failed(self) -> anyio.Event:
        """Set when a write or fsync failed and closed the journal for good."""

    def stream_version(self, stream: str) -> int:
        """Return the version of the stream's last appended record, 0 for none."""

    def append(
        self,
        stream: str,
        events: Sequence[Event],
        *,
        control: bool = True,
        mark: tuple[DurableMark, int] | None = None,
        expected_version: int | None = None,
    ) -> Append:
        """Queue one record; with ``control=False`` it waits in the lane of messages.

        Control records overtake waiting messages; the order within a stream is kept.

        Args:
            expected_version: what the stream must be at, 0 for a new one; None: anything.
            mark: see ``Append``; what is delivered need not wait for the event loop.

        Raises:
            JournalClosedError: the journal is closed or has failed.
            LimitExceededError: the record is too large or its lane is at its bound.
            DiskReserveError: ``control=False`` and the disk is nearly full.
            ConcurrencyError: the stream is not at ``expected_version`` (0: it is new).
            UsageError: an event can't be written. In all cases nothing was queued.
        """

    def check_reserve(self) -> None:
        """Raise ``DiskReserveError`` while the disk is nearly full: begin nothing new then."""

    async def until_durable(self, append: Append) -> None:
        """Wait for the durable mark; raises ``OutcomeUnknownError`` if the journal failed."""

    @property
    def has_room(self) -> bool:
        """Whether ``room`` would return at once."""

    async def room(self) -> None:
        """Wait until the message lane is under its bound; an ``append`` without await fits then."""

    @property
    def waiting_count(self) -> int:
        """How many records wait for the writer, those of the batch in work left out."""

    @property
    def commit_s(self) -> float:
        """How long the last batch took to become durable, 0 before the first one."""

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
        """Yield the records that were durable at the call, in order; reads the disk, blocking.

        Args:
            streams: a stream, the start of streams' names and ``*``, or a function of the name.
            types: event types or their wire names; a record is yielded whole if it holds one.
            from_sequence, to_sequence: both included; 0 starts with the oldest there is.
            since_ns, until_ns: wall time of the write; ``until_ns`` itself is not included.
        Raises:
            ArchivedError: ``from_sequence`` is not 0 and was archived.
            UsageError: no event has this type.
        """

    def read(self, from_sequence: int, to_sequence: int) -> Iterator[RawRecord]:
        """Like ``records``, with events as plain objects; ``to_sequence`` must be durable."""

    def stream_back(self, stream: str) -> Iterator[tuple[Record, ...]]:
        """Yield a stream's durable records segment by segment, the newest segment first.

        Within a segment they are in order. Whoever needs the end of a stream stops early; blocking.
        """

    def subscribe(
        self,
        *,
        from_sequence: int | None = None,
        streams: Streams = None,
        types: Types = None,
    ) -> AbstractAsyncContextManager[Subscription]:
        """``async with journal.subscribe(from_sequence=1) as records``: history, then live.

        Args:
            from_sequence: the first record; 0 for the oldest there is, None for live ones only.
            streams, types: as for ``records``.
        """

    def statistics(self) -> Mapping[str, int]:
        """Return counters: queued bytes by lane, records, batches (fsyncs), written bytes."""

    async def aclose(self) -> None:
        """Write what is queued, close the journal and wake all waiters; twice is once."""


__all__ = [
    "Append",
    "DurableMark",
    "IgnoredBytes",
    "Journal",
    "JournalLimits",
    "OpeningReport",
    "Record",
    "StreamFilter",
    "Subscription",
    "TornTail",
]
