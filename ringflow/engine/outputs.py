"""A kernel's outputs on the host: each taken once, in order, released when they may be seen.

- An output's identity is (sequence, index); what was taken already is dropped, so a replay of
  messages repeats nothing.
- On probation, and until a recovery point covers them where a replay may differ, outputs are held;
  ``release`` lets them go, ``forget_after`` unmakes them. Both take an output's identity: what a
  kernel puts out between messages has the sequence of the message before.
- A named consumer gets every output after its journaled position, also across restarts; so does the
  kernel at the end of a route, whose position is the mark of its connection.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

import anyio
import attrs

from ringflow.device.abi import OutputFlag
from ringflow.device.pump import Output
from ringflow.errors import CorruptError
from ringflow.routing import INDEX_MAX, OutputId

_HEAD: Final = struct.Struct("<QIIIQ")


def id_of(output: Output) -> OutputId:
    return output.sequence, output.index


@attrs.define(eq=False)
class ConsumerQueue:
    """What one named consumer, or a route, has not acknowledged.

    Attributes:
        next_index: what it reads next; those before are read and not acknowledged.
    """

    name: str
    position: OutputId
    outputs: deque[Output] = attrs.field(factory=deque)
    data_bytes: int = 0
    next_index: int = 0
    has_reader: bool = False
    changed: anyio.Event = attrs.field(factory=anyio.Event)

    def offer(self, output: Output) -> None:
        if id_of(output) > self.position:
            self.outputs.append(output)
            self.data_bytes += len(output.data)
            self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    @property
    def unread_count(self) -> int:
        return len(self.outputs) - self.next_index

    def peek(self, count: int) -> list[Output]:
        """Return up to ``count`` unread outputs; they stay unread."""
        return list(islice(self.outputs, self.next_index, self.next_index + count))

    def skip(self, count: int) -> None:
        """Count outputs as read, or with a negative count as unread again."""
        self.next_index += count

    def take(self) -> Output | None:
        """Return the next unread output, None if there is none now."""
        if self.next_index >= len(self.outputs):
            return None
        self.next_index += 1
        return self.outputs[self.next_index - 1]

    def acknowledge(self, through: OutputId) -> bool:
        """Drop outputs up to ``through``; False if they were acknowledged before."""
        if through <= self.position:
            return False
        self.position = through
        while self.outputs and id_of(self.outputs[0]) <= through:
            self.data_bytes -= len(self.outputs.popleft().data)
            self.next_index = max(0, self.next_index - 1)
        return True

    def reread(self) -> None:
        """A new reader starts with the oldest output that is not acknowledged."""
        self.next_index = 0

    def close(self) -> None:
        self._wake()


class Outputs:
    """Where a kernel's outputs go.

    ``bound`` and ``bound_bytes`` limit how many, and how much of arrays, wait for one consumer or
    are held.
    """

    def __init__(self, *, bound: int, bound_bytes: int = 1 << 30, seen: OutputId = (0, 0)) -> None:
        self.bound = bound
        self.bound_bytes = bound_bytes
        self.seen = seen
        self.consumers: dict[str, ConsumerQueue] = {}
        self.routes: dict[int, ConsumerQueue] = {}
        self.taken: Counter[int] = Counter()
        self.dropped: Counter[int] = Counter()
        self.unconnected: list[Output] = []
        self.calls: OrderedDict[int, CallWaiter] = OrderedDict()  # sequences ascend
        self._held: deque[Output] = deque()
        self._held_bytes = 0
        self.held_after: OutputId | None = None

    @property
    def held_count(self) -> int:
        return len(self._held)

    def holds_any(self, through: int) -> bool:
        """Whether outputs of messages up to ``through``, or between them, are held."""
        return bool(self._held) and self._held[0].sequence <= through

    @property
    def is_full(self) -> bool:
        """Whether new messages must wait until someone reads, acknowledges or releases."""
        count, data_bytes = self.waiting
        return count >= self.bound or data_bytes >= self.bound_bytes

    @property
    def waiting(self) -> tuple[int, int]:
        """The most outputs that wait in one place, and the most bytes of their arrays."""
        if not self.consumers and not self.routes:
            return len(self._held), self._held_bytes
        # In one step for each: the journal's thread asks as well.
        queues = [*list(self.consumers.values()), *list(self.routes.values())]
        waiting = max((len(queue.outputs) for queue in queues), default=0)
        waiting_bytes = max((queue.data_bytes for queue in queues), default=0)
        return max(waiting, len(self._held)), max(waiting_bytes, self._held_bytes)

    def _queues(self) -> Iterator[ConsumerQueue]:
        yield from self.consumers.values()
        yield from self.routes.values()

    def take(self, outputs: Iterable[Output]) -> None:
        """Take what a kernel put out, drop what is known already, release or hold the rest."""
        for output in outputs:
            if id_of(output) <= self.seen:
                continue
            self.seen = id_of(output)
            if self.held_after is not None and self.seen > self.held_after:
                self._held.append(output)
                self._held_bytes += len(output.data)
            else:
                self._release(output)

    def _release(self, output: Output) -> None:
        if output.route is not None:
            self._send(output, output.route)
            return
        if not output.flags & OutputFlag.EMITTED:
            waiter = self.calls.pop(output.sequence, None)
            if waiter is not None:
                waiter.resolve(output)
        for queue in self.consumers.values():
            queue.offer(output)

    def _send(self, output: Output, route: int) -> None:
        queue = self.routes.get(route)
        if queue is not None:
            queue.offer(output)
            return
        if not self.dropped[route]:
            self.unconnected.append(output)
        self.dropped[route] += 1

    def take_unconnected(self) -> list[Output]:
        """Return the first output of each route that leads nowhere; each is told once."""
        told, self.unconnected = self.unconnected, []
        return told

    def settle_calls(self, through: int) -> None:
        """Tell the calls of messages up to ``through`` that no reply will come.

        Takes no longer for those that wait on: this is asked with every report.
        """
        while self.calls and next(iter(self.calls)) <= through:
            self.calls.popitem(last=False)[1].resolve(None)

    def hold_after(self, last: OutputId) -> None:
        """Hold the outputs after ``last`` until ``release``."""
        self.held_after = last

    def release(self, *, hold_after: OutputId | None = None) -> None:
        """Let held outputs go, in order; go on holding those after ``hold_after``, if given."""
        self.held_after = hold_after
        while self._held and (hold_after is None or id_of(self._held[0]) <= hold_after):
            output = self._held.popleft()
            self._held_bytes -= len(output.data)
            self._release(output)

    @property
    def released(self) -> OutputId:
        """The last output that may have been seen outside."""
        if self.held_after is None:
            return self.seen
        sequence, index = min(self.seen, self.held_after)
        return (sequence, index) if index >= 0 else (sequence - 1, INDEX_MAX)

    def next_index(self, applied_sequence: int) -> int:
        """Return what an output before the next message is numbered, so that none is taken twice.

        A kernel's very first one is 1: (0, 0) is where consumers start.
        """
        if self.seen[0] == applied_sequence and self.seen[1] < INDEX_MAX:
            return self.seen[1] + 1
        return 0

    def forget_after(self, last: OutputId) -> None:
        """Unmake the held outputs after ``last``: they will be made again."""
        while self._held and id_of(self._held[-1]) > last:
            self._held_bytes -= len(self._held.pop().data)
        self.seen = min(self.seen, last)

    def unacknowledged(self, through: int) -> tuple[Output, ...]:
        """Return the outbox: outputs up to ``through`` that somebody lacks, held ones too."""
        waiting = {
            id_of(output): output
            for queue in self._queues()
            for output in queue.outputs
            if output.sequence <= through
        }
        waiting.update((id_of(o), o) for o in self._held if o.sequence <= through)
        return tuple(waiting[identity] for identity in sorted(waiting))

    def add_consumer(self, name: str, position: OutputId) -> ConsumerQueue:
        queue = self.consumers[name] = ConsumerQueue(name, position)
        return queue

    def connect(self, route: int, position: OutputId) -> None:
        """Keep a route's outputs after ``position`` for the kernel at its end."""
        self.routes[route] = ConsumerQueue(f"route {route}", position)
        self.dropped[route] = 0

    def recover(
        self,
        outbox: Iterable[Output],
        *,
        seen: OutputId,
        positions: Mapping[str, OutputId],
        routes: Mapping[int, OutputId] | None = None,
    ) -> None:
        """Start after a restart: consumers at their positions, the outbox waiting for them.

        Args:
            routes: the marks of connected routes by number.
        """
        for name, position in positions.items():
            self.add_consumer(name, position)
        for route, mark in (routes or {}).items():
            self.connect(route, mark)
        for output in outbox:
            if output.route is None:
                for queue in self.consumers.values():
                    queue.offer(output)
            elif (queue_of_route := self.routes.get(output.route)) is not None:
                queue_of_route.offer(output)
        self.seen = seen

    def close(self) -> None:
        """Wake every waiter; nothing comes any more."""
        for queue in self.consumers.values():
            queue.close()
        for waiter in self.calls.values():
            waiter.lose()
        self.calls.clear()


@attrs.define(eq=False)
class CallWaiter:
    """Waits for the first output of one message, until a deadline by the monotonic clock."""

    deadline_ns: int
    done: anyio.Event = attrs.field(factory=anyio.Event)
    output: Output | None = None
    lost: bool = False
    expired: bool = False

    def expire(self) -> None:
        self.expired = True
        self.done.set()

    def lose(self) -> None:
        """Nothing runs any more that could reply."""
        self.lost = True
        self.done.set()

    def resolve(self, output: Output | None) -> None:
        self.output = output
        self.done.set()


def encode_outbox(outputs: Iterable[Output]) -> bytes:
    """Return outputs as bytes: sequence, index, type, two sizes, payload, array; little-endian."""
    pieces: list[bytes | memoryview] = []
    for output in outputs:
        sizes = len(output.payload), len(output.data)
        head = _HEAD.pack(output.sequence, output.index, output.type, *sizes)
        pieces += (head, output.payload, output.data)
    return b"".join(pieces)


def decode_outbox(data: memoryview) -> tuple[Output, ...]:
    """Return what ``encode_outbox`` wrote, arrays as views of it; raises ``CorruptError``."""
    outputs, at = [], 0
    while at < len(data):
        if at + _HEAD.size > len(data):
            raise CorruptError("the outbox ends within an output; restore the checkpoint")
        sequence, index, type_id, size, array_bytes = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        end = at + size + array_bytes
        if end > len(data):
            raise CorruptError("the outbox ends within a payload; restore the checkpoint")
        payload, array = bytes(data[at : at + size]), data[at + size : end].toreadonly()
        outputs.append(
            Output(
                sequence=sequence, index=index, type=type_id, flags=0, payload=payload, data=array
            )
        )
        at = end
    return tuple(outputs)
