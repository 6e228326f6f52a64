"""The queue before the writer: two lanes, and the order within each stream kept.

- Control records go first; messages follow as far as the batch has room.
- A control record of a stream that has messages waiting takes them along, in their order.
- All that waits has one ``Commit``, which ``take`` gives to the batch: what stays gets the next.
- The bounds are checked by the caller, nothing here waits.
- Filled by the event loop, emptied by the writer's thread: a lock keeps each step whole.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple, final

from ringflow.events.codec import Event
from ringflow.journal.api import Append, Commit


class Pending(NamedTuple):
    """A record that waits to be written; ``data`` is the canonical JSON of its events."""

    append: Append
    events: Sequence[Event]
    data: bytes


@final
class Lanes:
    """Records that wait, by lane.

    Attributes:
        control_bytes, message_bytes: what waits in each lane.
    """

    def __init__(self) -> None:
        self.control_bytes = 0
        self.message_bytes = 0
        self._control: deque[Pending] = deque()
        self._messages: deque[Pending] = deque()
        self._message_streams: Counter[str] = Counter()
        self._commit = Commit()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._control) + len(self._messages)

    def push(self, pending: Pending, *, control: bool) -> None:
        """Put ``pending`` at the end of its lane."""
        append, _, data = pending
        with self._lock:
            append.commit = self._commit
            if not control:
                self._messages.append(pending)
                self._message_streams[append.stream] += 1
                self.message_bytes += len(data)
                return
            if append.stream in self._message_streams:
                self._pull_forward(append.stream)
            self._control.append(pending)
            self.control_bytes += len(data)

    def take(self, size_bytes: int) -> list[Pending]:
        """Remove and return the next batch, about ``size_bytes``; empty if nothing waits."""
        with self._lock:
            return self._take(size_bytes)

    def _take(self, size_bytes: int) -> list[Pending]:
        if self.control_bytes + self.message_bytes <= size_bytes:
            return self._take_all()
        batch: list[Pending] = []
        while self._control and size_bytes > 0:
            batch.append(self._control.popleft())
            self.control_bytes -= len(batch[-1].data)
            size_bytes -= len(batch[-1].data)
        while self._messages and size_bytes > 0:
            batch.append(self._messages.popleft())
            self._forget_message_of(batch[-1].append.stream)
            self.message_bytes -= len(batch[-1].data)
            size_bytes -= len(batch[-1].data)
        if not batch:
            return batch
        self._commit = Commit()
        for lane in (self._control, self._messages):
            for pending in lane:
                pending.append.commit = self._commit
        return batch

    def _take_all(self) -> list[Pending]:
        batch = [*self._control, *self._messages]
        if batch:
            self._control.clear()
            self._messages.clear()
            self._message_streams.clear()
            self.control_bytes = self.message_bytes = 0
            self._commit = Commit()
        return batch

    def _forget_message_of(self, stream: str) -> None:
        self._message_streams[stream] -= 1
        if not self._message_streams[stream]:
            del self._message_streams[stream]

    def _pull_forward(self, stream: str) -> None:
        moved = [one for one in self._messages if one.append.stream == stream]
        self._messages = deque(one for one in self._messages if one.append.stream != stream)
        self._control.extend(moved)
        moved_bytes = sum(len(one.data) for one in moved)
        self.message_bytes -= moved_bytes
        self.control_bytes += moved_bytes
        del self._message_streams[stream]
