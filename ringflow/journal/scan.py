"""One pass over a journal: every line is verified, nothing is changed.

- It begins with the oldest record, behind the base record, or behind a place that the caller knows.
- Bytes behind a pin, and segments that no pin names, are reported, never read.
- Damage at the end of the newest segment, above every durable mark behind it, is a torn tail;
  damage anywhere else raises ``CorruptJournalError``.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import final

from ringflow.errors import CorruptError, CorruptJournalError
from ringflow.files import FileSystem
from ringflow.journal.api import IgnoredBytes
from ringflow.journal.foundation import Place
from ringflow.journal.history import History, Tear, lines_up_to, unread, whole_lines
from ringflow.journal.record import Closing, Header, Line, Pin, RawRecord, parse_line
from ringflow.journal.segments import BrokenLinkError, BrokenRuleError, Chain, Segment, SegmentName


@final
class Scan:
    """One pass over a journal's folder; iterate ``records`` to the end, then read the rest.

    Attributes:
        chain: the rules' state after the last whole line.
        segments: what was verified of it.
        history: the folder's segments in order, verified or not.
        head_sequence, torn, ignored: as in ``VerifyReport``.
        base: the newest base record, None where nothing was archived.
    """

    def __init__(
        self,
        files: FileSystem,
        folder: Path,
        *,
        without: Collection[SegmentName] = (),
        head: str | None = None,
    ) -> None:
        self.history = History(files, folder, without=without)
        self.base = self.history.base
        self.chain = Chain(self.base.place if self.base else None)
        self._wanted_head = head
        self.head_sequence = self.chain.sequence if head == self.chain.head else None
        self.segments: list[Segment] = []
        self.torn: list[Tear] = self.history.torn
        self.ignored: list[IgnoredBytes] = []

    @property
    def first_sequence(self) -> int:
        """Of the oldest record that is there or will be."""
        return self.base.place.sequence + 1 if self.base else 1

    def finish(self) -> Scan:
        """Verify everything; raises ``CorruptJournalError``."""
        deque(self.records(), maxlen=0)
        return self

    def records(self, start: Place | None = None) -> Iterator[RawRecord]:
        """Yield each record once it is verified; raises ``CorruptJournalError``.

        Args:
            start: begin behind this place, which the journal ``holds``; what is before it is not
                looked at. None: begin with the oldest record there is.
        """
        order = self.history.order
        first = 0
        if start is not None:
            first = self.history.index_of(start)
            self.chain = Chain(start)
            self.segments = [unread(*pair) for pair in itertools.pairwise(order[: first + 1])]
        for index, (name, header) in enumerate(order[first:], first):
            pin = order[index + 1][1].previous if index + 1 < len(order) else None
            yield from self._segment(name, header, pin, start if index == first else None)
        self._report_strays({name for name, _ in order})

    def _segment(
        self, name: SegmentName, header: Header, pin: Pin | None, start: Place | None
    ) -> Iterator[RawRecord]:
        """Verify one segment from ``start`` on.

        Args:
            pin: what the next one says of it, None for the newest.
        """
        text = self.history.store.text(name)
        data = text.data
        if pin is not None and len(data) > pin.size_bytes:
            late = len(data) - pin.size_bytes
            self.ignored.append(
                IgnoredBytes(segment=str(name), offset_bytes=pin.size_bytes, size_bytes=late)
            )
            data = data[: pin.size_bytes]
        number, offset = lines_up_to(data, header, start) if start is not None else (0, 0)
        follow, size_bytes = self.chain.follow, len(data)
        while offset < size_bytes:
            number += 1
            end = data.find(b"\n", offset)
            try:
                if end < 0:
                    raise BrokenLinkError(text.damage or "the line has no end")
                line = parse_line(data[offset:end])
                if number == 1 or type(line) is not RawRecord:
                    self._check_place(line, header, number)
                follow(line)
            except CorruptError as error:
                self._damage(name, data, offset, number, error, pinned=pin is not None)
                break
            if line.hash == self._wanted_head:
                self.head_sequence = self.chain.sequence
            if isinstance(line, RawRecord):
                yield line
            offset = end + 1
        if text.damage and (pin is None or offset < pin.size_bytes):
            raise CorruptJournalError(str(name), number + 1, self.chain.sequence + 1, text.damage)
        self._end_segment(name, offset, number, pin)

    def _check_place(self, line: Line, header: Header, number: int) -> None:
        self.chain.check_link(line)
        if number > 1:
            if isinstance(line, Header):
                raise BrokenRuleError("a header stands where a record should")
            return
        if not self.segments and self.history.is_based(header):
            return  # what it continues is gone
        expected = self.segments[-1].pin if self.segments else None
        if header.previous != expected:  # and ``line`` is this header: it was read before
            raise BrokenRuleError("the header continues another segment")

    def _damage(
        self,
        name: SegmentName,
        data: bytes,
        offset: int,
        number: int,
        error: CorruptError,
        *,
        pinned: bool,
    ) -> None:
        """Note a torn tail, or raise: that what is damaged was durable, or no crash writes it."""
        sequence = self.chain.sequence + 1
        durable = max((_durable(line) for line in whole_lines(data[offset:])), default=-1)
        in_place = isinstance(error, BrokenRuleError)
        if pinned or in_place or number == 1 or durable >= sequence:
            raise CorruptJournalError(str(name), number, sequence, str(error)) from error
        self.torn.append(
            Tear(
                segment=name,
                offset_bytes=offset,
                size_bytes=len(data) - offset,
                reason=f"line {number}: {error}",
            )
        )

    def _end_segment(
        self, name: SegmentName, size_bytes: int, number: int, pin: Pin | None
    ) -> None:
        segment = Segment(
            name=name,
            size_bytes=size_bytes,
            last_sequence=self.chain.sequence,
            hash=self.chain.head,
        )
        if pin is not None and segment.pin != pin:
            reason = "the segment ends before the place where the next one continues it"
            raise CorruptJournalError(str(name), number + 1, self.chain.sequence + 1, reason)
        self.segments.append(segment)

    def _report_strays(self, used: set[SegmentName]) -> None:
        known = {*used, *(tear.segment for tear in self.torn), *self.history.leftovers}
        for name in self.history.names:
            if name not in known:
                size = len(self.history.store.text(name).data)
                self.ignored.append(
                    IgnoredBytes(segment=str(name), offset_bytes=0, size_bytes=size)
                )


def _durable(line: Line) -> int:
    return line.durable if isinstance(line, (RawRecord, Closing)) else line.first_sequence - 1
