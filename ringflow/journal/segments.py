"""Segments: their names, their order, and the rules that every line of a journal keeps.

- A segment is named by the first sequence that it may hold and the epoch of its writer.
- Its header pins name, length and last hash of the one before: what is added to that one later
  is outside the journal.
- ``Chain`` folds lines in order and refuses the first that breaks a rule; it reads no file.
"""

from __future__ import annotations

import re
from typing import Final, final

import attrs

from ringflow.errors import CorruptError
from ringflow.events.chain import GENESIS
from ringflow.journal.foundation import Place
from ringflow.journal.record import Closing, Header, Line, Pin, RawRecord

JOURNAL_FOLDER: Final = "journal"
ENGINE_FOLDER: Final = "engine"
LOCK_NAME: Final = "lock"
_NAME: Final = re.compile(r"([0-9]{16})-([0-9]{8})\.jsonl")


class BrokenLinkError(CorruptError):
    """The line is whole, but it does not follow the line before it."""


class BrokenRuleError(CorruptError):
    """The line follows the line before it and says what it must not; no crash writes that."""


@attrs.frozen
class SegmentName:
    """``first_sequence`` and ``epoch`` as the file's name gives them."""

    first_sequence: int
    epoch: int

    def __str__(self) -> str:
        return f"{self.first_sequence:016d}-{self.epoch:08d}.jsonl"

    @property
    def age(self) -> tuple[int, int]:
        """Sorts segments by the time when they were begun."""
        return (self.epoch, self.first_sequence)

    @classmethod
    def parse(cls, name: str) -> SegmentName | None:
        """Return the parts of ``name``, None if it is no segment's name."""
        match = _NAME.fullmatch(name)
        return cls(int(match[1]), int(match[2])) if match else None


@attrs.frozen(kw_only=True)
class Segment:
    """A verified part of the history: the first ``size_bytes`` of a file.

    ``last_sequence`` is ``first_sequence - 1`` for a segment that holds no record.
    """

    name: SegmentName
    size_bytes: int
    last_sequence: int
    hash: str

    @property
    def pin(self) -> Pin:
        return Pin(name=str(self.name), size_bytes=self.size_bytes, hash=self.hash)


@final
class Chain:
    """The state of the rules after some lines, or behind ``place``.

    Attributes:
        head: the hash of the last line.
        epoch, sequence, at_ns, durable: of the last record or header.
        versions: by stream, of its last record.
        closed: the last line is a closing one.
    """

    def __init__(self, place: Place | None = None) -> None:
        self.head = place.hash if place else GENESIS
        self.epoch = place.epoch if place else 0
        self.sequence = place.sequence if place else 0
        self.at_ns = place.at_ns if place else 0
        self.durable = place.durable if place else 0
        self.versions = dict(place.versions) if place else {}
        self.closed = False

    @property
    def place(self) -> Place:
        """Where the rules can be followed on from."""
        return Place(
            sequence=self.sequence,
            hash=self.head,
            epoch=self.epoch,
            at_ns=self.at_ns,
            durable=self.durable,
            versions=dict(self.versions),
        )

    def check_link(self, line: Line) -> None:
        """Raise ``BrokenLinkError`` unless ``line`` was sealed right after the last one."""
        if line.previous_hash != self.head:
            raise BrokenLinkError("its link to the line before is broken")

    def follow(self, line: Line) -> None:
        """Take the next line in.

        Raises:
            BrokenLinkError: the line belongs elsewhere.
            BrokenRuleError: the line belongs here, but its content doesn't.
        """
        if line.previous_hash != self.head:
            self.check_link(line)
        if isinstance(line, RawRecord):
            self._follow_record(line)
        elif isinstance(line, Header):
            self._follow_header(line)
        else:
            self._follow_closing(line)
        self.head = line.hash

    def _follow_header(self, line: Header) -> None:
        _rule(line.first_sequence == self.sequence + 1, "the header starts at another sequence")
        _rule(line.epoch >= self.epoch, "the header's epoch goes back")
        _rule(line.opened_at_ns >= self.at_ns, "the header's time goes back")
        self.epoch, self.at_ns = line.epoch, line.opened_at_ns
        self.durable = self.sequence
        self.closed = False

    def _follow_record(self, line: RawRecord) -> None:
        sequence, stream = self.sequence, line.stream
        version = self.versions.get(stream, 0) + 1
        if self.closed:
            raise BrokenRuleError("the record follows a closing line")
        if line.sequence != sequence + 1:
            raise BrokenRuleError(f"sequence {line.sequence} is out of order")
        if line.epoch != self.epoch:
            raise BrokenRuleError("the record's epoch is not its segment's")
        if line.at_ns < self.at_ns:
            raise BrokenRuleError("the record's time goes back")
        if not self.durable <= line.durable <= sequence:
            raise BrokenRuleError("the durable mark is out of order")
        if line.version != version:
            raise BrokenRuleError(f"stream {stream!r} should be at version {version}")
        self.sequence, self.at_ns, self.durable = line.sequence, line.at_ns, line.durable
        self.versions[stream] = version

    def _follow_closing(self, line: Closing) -> None:
        _rule(not self.closed, "the segment is closed twice")
        _rule(line.durable == self.sequence, "the closing line's durable mark is wrong")
        self.durable, self.closed = self.sequence, True
        self.at_ns = max(self.at_ns, line.closed_at_ns)


def _rule(kept: bool, reason: str) -> None:
    if not kept:
        raise BrokenRuleError(reason)
