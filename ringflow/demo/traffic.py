"""The producer that never stops sending, and the reader that records every reply.

- The producer keeps its own pace: at most ``WINDOW`` messages wait for their replies.
- Both are told apart from the operations: they know nothing of migrations and reloads.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio
import anyio.to_thread
import attrs
from anyio.abc import TaskStatus

import ringflow
from ringflow.demo import DemoError
from ringflow.demo.records import ReplyLog, Timing
from ringflow.demo.script import PRODUCER, command_at

WINDOW: Final = 16  # more than a probation holds back, else producer and probation would wait
CONSUMER: Final = "recorder"
ACKNOWLEDGE_EVERY: Final = 8  # an acknowledgement covers all replies before it
PATIENCE_S: Final = 60.0


@attrs.define
class Timeline:
    """When messages were accepted and replies read, in ns of one monotonic clock."""

    sent_ns: list[int] = attrs.field(factory=list)
    replied_ns: list[int] = attrs.field(factory=list)

    def timing(self, start_ns: int, end_ns: int) -> Timing:
        """Return the longest gaps between two replies and two sends around an operation."""
        return Timing(
            longest_gap_ms(self.replied_ns, start_ns, end_ns),
            longest_gap_ms(self.sent_ns, start_ns, end_ns),
        )


def longest_gap_ms(times_ns: Sequence[int], start_ns: int, end_ns: int) -> float | None:
    """Return the longest gap between neighbouring times that touches [start, end].

    ``None`` where nothing was seen before the start or after the end: the gap is not known then.
    """
    if not times_ns or times_ns[0] > start_ns or times_ns[-1] < end_ns:
        return None
    pairs = itertools.pairwise(times_ns)
    return max((b - a for a, b in pairs if b >= start_ns and a <= end_ns), default=0) / 1e6


class Traffic:
    """One producer and one reader on one kernel.

    Attributes:
        last_number: the number of the last message that was accepted.
    """

    def __init__(
        self,
        kernel: ringflow.KernelHandle,
        log: ReplyLog,
        *,
        shape: tuple[int, int],
        message_count: int,
        on_reply: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.timeline = Timeline()
        self.last_number = kernel.last_number(PRODUCER)
        self._kernel, self._log = kernel, log
        self._shape, self._message_count = shape, message_count
        self._on_reply = on_reply
        self._may_stop = self._stopped = False
        self._changed = anyio.Event()

    @property
    def reply_count(self) -> int:
        return self._log.count

    async def run(self, director: Callable[[Traffic], Awaitable[None]]) -> None:
        """Send and read until ``director`` has returned and the script has been said and answered.

        The producer goes on past the script's length while the director still works.
        """
        async with anyio.create_task_group() as group:
            reader = await group.start(self._read)  # a new consumer gets the replies to come
            group.start_soon(self._produce)
            await director(self)
            self._may_stop = True
            self._tell()
            await self.until(lambda: self._stopped and self.reply_count >= self.last_number)
            reader.cancel()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on this traffic holds."""
        while not condition():
            await self._change()

    async def until_seen_after(self, time_ns: int) -> None:
        """Wait for a reply that was read, and a message that was taken, after ``time_ns``."""
        seen = self.timeline.replied_ns, self.timeline.sent_ns
        await self.until(lambda: all(times and times[-1] > time_ns for times in seen))

    async def _change(self) -> None:
        with anyio.move_on_after(PATIENCE_S):
            await self._changed.wait()
            return
        raise DemoError(
            f"no message was taken and no reply came for {PATIENCE_S:.0f} s; {self.last_number} "
            f"sent, {self.reply_count} answered; look at the journal"
        )

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    @property
    def _finished(self) -> bool:
        return self._may_stop and self.last_number >= self._message_count

    async def _produce(self) -> None:
        while not self._finished:
            if self.last_number - self.reply_count >= WINDOW:
                await self._change()
                continue
            number = self.last_number + 1
            command = command_at(self._shape, number)
            receipt = await self._kernel.send(command, producer=PRODUCER, number=number)
            if receipt.sequence != number:
                raise DemoError(f"message {number} got sequence {receipt.sequence}, not its number")
            self.timeline.sent_ns.append(time.monotonic_ns())
            self.last_number = number
            self._tell()
        self._stopped = True  # nothing is on its way any more
        self._tell()

    async def _read(self, *, task_status: TaskStatus[anyio.CancelScope]) -> None:
        with anyio.CancelScope() as scope:
            async with self._kernel.replies(consumer=CONSUMER) as replies:
                task_status.started(scope)
                async for reply in replies:
                    self.timeline.replied_ns.append(time.monotonic_ns())
                    await self._record(reply)
                    self._on_reply(self.reply_count)
                    self._tell()

    async def _record(self, reply: ringflow.Reply) -> None:
        add = self._log.add
        await anyio.to_thread.run_sync(add, reply.sequence, reply.index, reply.payload)
        if self.reply_count % ACKNOWLEDGE_EVERY == 0 or self.reply_count == self._message_count:
            await reply.ack()
