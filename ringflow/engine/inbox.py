"""A kernel's messages on the host: parked, posted to the device, kept until they are done.

- Sequences are contiguous; a message leaves only from the front.
- What was posted and not applied goes back by ``rewind``; order never changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

from ringflow.device.posting import Posting


class Inbox:
    """Postings from the oldest kept one on; ``posted_through`` divides posted from parked."""

    def __init__(self, *, posted_through: int = 0) -> None:
        self._messages: deque[Posting] = deque()
        self.posted_through = posted_through

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def last_sequence(self) -> int:
        """The newest message's sequence; ``posted_through`` where there is none."""
        return self._messages[-1].sequence if self._messages else self.posted_through

    @property
    def parked_count(self) -> int:
        return max(0, self.last_sequence - self.posted_through)

    def push(self, message: Posting) -> None:
        assert not self._messages or message.sequence == self._messages[-1].sequence + 1
        self._messages.append(message)

    def refill(self, messages: Iterable[Posting], *, posted_through: int) -> None:
        """Put the history after ``posted_through`` before what is kept; all of it is parked."""
        history = deque(message for message in messages if message.sequence > posted_through)
        known = history[-1].sequence if history else posted_through
        history.extend(message for message in self._messages if message.sequence > known)
        self._messages = history
        self.posted_through = posted_through

    def next_parked(self, count: int, *, through: int) -> list[Posting]:
        """Return up to ``count`` parked messages whose sequence is at most ``through``."""
        if not self._messages or count <= 0:
            return []
        start = self.posted_through + 1 - self._messages[0].sequence
        end = min(start + count, through + 1 - self._messages[0].sequence)
        return list(islice(self._messages, start, max(start, end)))

    def mark_posted(self, count: int) -> None:
        self.posted_through += count

    def rewind(self, applied_sequence: int) -> int:
        """Park again what was posted after ``applied_sequence``; return how many those were."""
        returned = max(0, self.posted_through - applied_sequence)
        self.posted_through = min(self.posted_through, applied_sequence)
        return returned

    def discard_through(self, sequence: int) -> None:
        """Forget messages up to ``sequence``."""
        while self._messages and self._messages[0].sequence <= sequence:
            self._messages.popleft()
