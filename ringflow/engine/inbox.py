"""A kernel's messages on the host: parked, posted to the device, kept until they are done.

- Sequences ascend; a message leaves only from the front. A gap is a message that was skipped.
- What was posted and not applied goes back by ``rewind``; order never changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice, takewhile

from ringflow.device.posting import Posting
from ringflow.engine.skipped import Ranges, is_in


class Inbox:
    """Postings from the oldest kept one on; ``posted_through`` divides posted from parked."""

    def __init__(self, *, posted_through: int = 0) -> None:
        self._messages: deque[Posting] = deque()
        self._posted_count = 0  # of the messages that are kept, those at the front
        self._bulk_bytes = 0
        self.posted_through = posted_through

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def bulk_bytes(self) -> int:
        """Of the arrays and large payloads of all messages that are kept."""
        return self._bulk_bytes

    @property
    def last_sequence(self) -> int:
        """The newest message's sequence; ``posted_through`` where there is none."""
        return self._messages[-1].sequence if self._messages else self.posted_through

    @property
    def parked_count(self) -> int:
        return len(self._messages) - self._posted_count

    def push(self, message: Posting) -> None:
        assert not self._messages or message.sequence > self._messages[-1].sequence
        self._messages.append(message)
        self._bulk_bytes += _bulk_bytes(message)

    def refill(self, messages: Iterable[Posting], *, posted_through: int) -> None:
        """Put the history after ``posted_through`` before what is kept; all of it is parked."""
        history = deque(message for message in messages if message.sequence > posted_through)
        known = history[-1].sequence if history else posted_through
        history.extend(message for message in self._messages if message.sequence > known)
        self._messages = history
        self._posted_count = 0
        self._bulk_bytes = sum(map(_bulk_bytes, history))
        self.posted_through = posted_through

    def next_parked(self, count: int, *, through: int) -> list[Posting]:
        """Return up to ``count`` parked messages whose sequence is at most ``through``."""
        if count <= 0 or self._posted_count == len(self._messages):
            return []
        parked = islice(self._messages, self._posted_count, self._posted_count + count)
        return list(takewhile(lambda message: message.sequence <= through, parked))

    def mark_posted(self, count: int) -> None:
        """The next ``count`` parked messages are on the device."""
        self._posted_count += count
        if count:
            self.posted_through = self._messages[self._posted_count - 1].sequence

    def rewind(self, applied_sequence: int) -> int:
        """Park again what was posted after ``applied_sequence``; return how many those were."""
        posted = islice(self._messages, self._posted_count)
        kept = sum(1 for message in posted if message.sequence <= applied_sequence)
        returned, self._posted_count = self._posted_count - kept, kept
        self.posted_through = min(self.posted_through, applied_sequence)
        return returned

    def skip(self, skipped: Ranges) -> None:
        """Drop parked messages that are never to be applied."""
        keep = islice(self._messages, self._posted_count, None)
        posted = list(islice(self._messages, self._posted_count))
        self._messages = deque(
            [*posted, *(message for message in keep if not is_in(skipped, message.sequence))]
        )
        self._bulk_bytes = sum(map(_bulk_bytes, self._messages))

    def discard_through(self, sequence: int) -> None:
        """Forget messages up to ``sequence``."""
        while self._messages and self._messages[0].sequence <= sequence:
            self._bulk_bytes -= _bulk_bytes(self._messages.popleft())
            self._posted_count = max(0, self._posted_count - 1)


def _bulk_bytes(message: Posting) -> int:
    return message.bulk.size_bytes if message.bulk is not None else 0
