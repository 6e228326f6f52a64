"""Live records for subscribers; each has a bound, and none can block the writer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ringflow.errors import SubscriberLaggedError
from ringflow.journal.api import Record


@final
class LiveRecords:
    """One subscription (``ringflow.journal.api.Subscription``)."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._lagged_at: int | None = None
        self._send: MemoryObjectSendStream[Record]
        self._receive: MemoryObjectReceiveStream[Record]
        self._send, self._receive = anyio.create_memory_object_stream(bound)

    async def receive(self) -> Record:
        try:
            return await self._receive.receive()
        except anyio.EndOfStream:
            if self._lagged_at is not None:
                raise SubscriberLaggedError(self._bound, self._lagged_at) from None
            raise

    def __aiter__(self) -> LiveRecords:
        return self

    async def __anext__(self) -> Record:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    def offer(self, record: Record) -> bool:
        """Hand ``record`` over; False if the subscriber was too slow and is cut off now."""
        try:
            self._send.send_nowait(record)
        except anyio.WouldBlock:
            self._lagged_at = record.sequence
            self.end()
            return False
        return True

    def end(self) -> None:
        """End the subscription after what waits in it."""
        self._send.close()

    def close(self) -> None:
        self._send.close()
        self._receive.close()


@final
class Subscribers:
    """All subscriptions of one journal."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._live: list[LiveRecords] = []
        self._ended = False

    def __len__(self) -> int:
        return len(self._live)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[LiveRecords]:
        """Yield a subscription that is closed at the end of the block."""
        one = LiveRecords(self._bound)
        if self._ended:
            one.end()
        else:
            self._live.append(one)
        try:
            yield one
        finally:
            one.close()
            if one in self._live:
                self._live.remove(one)

    def publish(self, records: Sequence[Record]) -> None:
        for one in tuple(self._live):
            if not all(one.offer(record) for record in records):
                self._live.remove(one)

    def end(self) -> None:
        """End all subscriptions, now and later ones."""
        self._ended = True
        for one in self._live:
            one.end()
        self._live.clear()
