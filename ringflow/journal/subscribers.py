"""Subscriptions: from any sequence of the history to live records, without a gap or a repeat.

- A subscriber reads history from the disk until nothing durable is left, then gets live records.
- Each has a bound. One that falls behind it goes back to the history: the writer never waits, and
  nothing is lost.
- Only durable records are handed out; both kinds are told in the event loop, so the step from
  history to live has no await in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Protocol, TypeVar, final

import anyio
import anyio.lowlevel
from anyio.abc import ObjectReceiveStream

from ringflow.journal.record import RawRecord, Record
from ringflow.journal.selection import Selection

T = TypeVar("T")
CHUNK_BYTES: Final = 2**18  # of history, read in one go: some 10 ms of a worker thread
LIVE_BYTES_MAX: Final = 2**24


class Source(Protocol):
    """What subscriptions need of their journal."""

    @property
    def durable_sequence(self) -> int: ...
    def read(self, from_sequence: int, to_sequence: int) -> Iterator[RawRecord]: ...
    def decode(self, record: RawRecord) -> Record: ...
    async def in_thread(self, work: Callable[[], T]) -> T: ...


@final
class CatchUp(ObjectReceiveStream[Record]):
    """One subscription (``ringflow.journal.api.Subscription``); made by ``Subscribers``."""

    def __init__(self, source: Source, wanted: Selection, from_sequence: int, bound: int) -> None:
        self._source = source
        self._wanted = wanted
        self._bound = bound
        self._ready: deque[Record] = deque()
        self._ready_bytes = 0
        self._next = from_sequence
        self._behind = from_sequence <= source.durable_sequence
        self._history: tuple[Iterator[RawRecord], int] | None = None
        self._wake = anyio.Event()
        self._ended = self._closed = False

    @property
    def is_live(self) -> bool:
        """Nothing durable is left to read from the history."""
        return not self._behind

    @property
    def position(self) -> int:
        """Everything up to this sequence was received, or was not asked for."""
        return self._ready[0].sequence - 1 if self._ready else self._next - 1

    async def receive(self) -> Record:
        await anyio.lowlevel.checkpoint()
        while not self._ready:
            if self._closed:
                raise anyio.ClosedResourceError
            if self._behind:
                await self._read_history()
            elif self._ended:
                raise anyio.EndOfStream
            else:
                self._wake = anyio.Event()
                await self._wake.wait()
        record = self._ready.popleft()
        self._ready_bytes -= record.size_bytes
        return record

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        self._closed = True
        self._ready.clear()
        self._history = None
        self._wake.set()

    def offer(self, records: Sequence[Record]) -> None:
        """Take what has just become durable, or remember to read it from the history."""
        if self._behind or self._closed:
            return
        for record in records:
            if record.sequence < self._next:
                continue  # it was asked for from a later one on
            if len(self._ready) >= self._bound or self._ready_bytes >= LIVE_BYTES_MAX:
                self._behind = True
                break
            self._next = record.sequence + 1
            if self._wanted.wants_events(record, record.events):
                self._ready.append(record)
                self._ready_bytes += record.size_bytes
        self._wake.set()

    def end(self) -> None:
        """End the subscription after what is durable."""
        self._ended = True
        self._wake.set()

    async def _read_history(self) -> None:
        """Read one chunk; what is cancelled in between is read again."""
        if self._history is None:
            until = self._source.durable_sequence
            self._history = (self._source.read(self._next, until), until)
        history, until = self._history
        self._history = None
        work = partial(_chunk, history, self._wanted, self._source.decode)
        records, last = await self._source.in_thread(work)
        if self._closed:
            return
        self._ready.extend(records)
        self._ready_bytes += sum(record.size_bytes for record in records)
        if last:
            self._next, self._history = last + 1, (history, until)
        else:
            self._next = until + 1
            self._behind = self._next <= self._source.durable_sequence


def _chunk(
    history: Iterator[RawRecord], wanted: Selection, decode: Callable[[RawRecord], Record]
) -> tuple[list[Record], int]:
    """Return the wanted records of a chunk and its last sequence, 0 at the history's end."""
    records, size_bytes = [], 0
    for raw in history:
        if wanted.wants(raw):
            records.append(decode(raw))
        size_bytes += raw.size_bytes
        if size_bytes >= CHUNK_BYTES:
            return records, raw.sequence
    return records, 0


@final
class Subscribers:
    """All subscriptions of one journal."""

    def __init__(self, source: Source, bound: int) -> None:
        self._source = source
        self._bound = bound
        self._all: list[CatchUp] = []
        self._ended = False

    def __len__(self) -> int:
        return len(self._all)

    @asynccontextmanager
    async def subscribe(
        self, wanted: Selection, from_sequence: int | None
    ) -> AsyncIterator[CatchUp]:
        """Yield a subscription that is closed at the end of the block."""
        start = self._source.durable_sequence + 1 if from_sequence is None else from_sequence
        one = CatchUp(self._source, wanted, start, self._bound)
        if self._ended:
            one.end()
        self._all.append(one)
        try:
            yield one
        finally:
            one.close()
            self._all.remove(one)

    def publish(self, records: Sequence[Record]) -> None:
        for one in tuple(self._all):
            one.offer(records)

    def end(self) -> None:
        """End all subscriptions, now and later ones."""
        self._ended = True
        for one in self._all:
            one.end()
