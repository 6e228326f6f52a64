"""A batch of records: they get their sequence, time and links, and become lines.

- Every append of a program passes here, so a line is put together by hand, in the canonical order.
- Records as values are made for those who look at them, not for the disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import final

from ringflow.clock import Clock
from ringflow.journal.lanes import Pending
from ringflow.journal.record import Closing, Record, closing_line, record_opening, stream_json


@final
class SealedBatch:
    """A batch as it is written.

    Attributes:
        batch: what was sealed, in order.
        lines: its lines, each with its line feed.
        size_bytes: of all lines.
        durable: the sequence before the batch's first one.
    """

    __slots__ = ("_at_ns", "_epoch", "_hashes", "batch", "durable", "lines", "size_bytes")

    def __init__(
        self,
        batch: Sequence[Pending],
        lines: Sequence[bytes],
        hashes: Sequence[str],
        *,
        durable: int,
        at_ns: int,
        epoch: int,
    ) -> None:
        self.batch = batch
        self.lines = lines
        self.size_bytes = sum(map(len, lines))
        self.durable = durable
        self._hashes = hashes  # that of the line before is the first
        self._at_ns = at_ns
        self._epoch = epoch

    @property
    def last_sequence(self) -> int:
        return self.durable + len(self.batch)

    def records(self) -> list[Record]:
        """Return the batch's records."""
        return [
            Record(
                sequence=self.durable + place,
                at_ns=self._at_ns,
                epoch=self._epoch,
                stream=pending.append.stream,
                version=pending.append.version,
                durable=self.durable,
                events=tuple(pending.events),
                previous_hash=self._hashes[place - 1],
                hash=self._hashes[place],
                size_bytes=len(self.lines[place - 1]),
            )
            for place, pending in enumerate(self.batch, 1)
        ]


@final
class Sealer:
    """Gives records their sequence, time and links."""

    def __init__(self, clock: Clock, *, epoch: int, sequence: int, at_ns: int, head: str) -> None:
        self._clock = clock
        self.epoch = epoch
        self.sequence = sequence
        self.at_ns = at_ns
        self.head = head

    def tick(self) -> int:
        """Return the time, never less than what was returned or read before."""
        self.at_ns = max(self.at_ns, self._clock.now_ns())
        return self.at_ns

    def seal(self, batch: Sequence[Pending]) -> SealedBatch:
        """Return the batch with its lines; all before the batch must be durable."""
        durable, at_ns = self.sequence, self.tick()
        opening = record_opening(at_ns=at_ns, durable=durable, epoch=self.epoch)
        lines, hashes, link = [], [self.head], self.head.encode()
        for sequence, (append, _, events) in enumerate(batch, durable + 1):
            body = b'%b%b,"prev":"%b","seq":%d,"stream":%b,"version":%d' % (
                opening,
                events,
                link,
                sequence,
                stream_json(append.stream),
                append.version,
            )
            digest = sha256(body + b"}").hexdigest()  # as ``chain.seal``, without its calls
            link = digest.encode()
            lines.append(b'%b,"hash":"%b"}\n' % (body, link))
            hashes.append(digest)
        self.sequence, self.head = durable + len(batch), hashes[-1]
        return SealedBatch(batch, lines, hashes, durable=durable, at_ns=at_ns, epoch=self.epoch)

    def close(self) -> bytes:
        """Return the closing line."""
        line, self.head = closing_line(
            Closing(closed_at_ns=self.tick(), durable=self.sequence, previous_hash=self.head)
        )
        return line
