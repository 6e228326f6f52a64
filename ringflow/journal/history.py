"""Which segments of a folder are the journal's history, and in which order.

They are found through their pins, from the newest back. Segments that no pin names came from a
writer that a later opening had fenced off.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final, final

import attrs

from ringflow.errors import CorruptError, CorruptJournalError
from ringflow.files import FileSystem
from ringflow.journal.foundation import (
    Foundation,
    Place,
    base_name,
    base_sequence,
    decode_foundation,
)
from ringflow.journal.record import Header, Line, RawRecord, parse_line
from ringflow.journal.segments import BrokenRuleError, Segment, SegmentName
from ringflow.journal.store import HEADER_BYTES_MAX, SegmentStore

_LINE_START: Final = re.compile(rb'\n|(?=\{"(?:at_ns|closed_at_ns)":)')


@attrs.frozen(kw_only=True)
class Tear:
    """A torn tail: the bytes of ``segment`` from ``offset_bytes`` on were never acknowledged."""

    segment: SegmentName
    offset_bytes: int
    size_bytes: int
    reason: str


@final
class History:
    """The segments of a journal's folder, their headers read and nothing else.

    Attributes:
        names: every segment file that is there, whether it belongs to the history or not.
        base: the newest base record, None where nothing was archived.
        leftovers: segments that the base record stands for and that are still there.
        torn: headers at the end that a crash left half-written.
    """

    def __init__(
        self, files: FileSystem, folder: Path, *, without: Collection[SegmentName] = ()
    ) -> None:
        self.store = SegmentStore(files, folder, without=without)
        self.names = self.store.names()
        self.base = read_base(files, folder)
        self.leftovers: list[SegmentName] = []
        self.torn: list[Tear] = []
        self._without = without
        self._order: list[tuple[SegmentName, Header]] | None = None

    @property
    def order(self) -> list[tuple[SegmentName, Header]]:
        """The segments of the history with their headers, oldest first."""
        if self._order is None:
            self._order = self._find_order()
        return self._order

    def holds(self, place: Place) -> bool:
        """Return whether the record that ``place`` is behind is in the journal, unchanged."""
        if place.sequence < 1 or not self.order or self.index_of(place) < 0:
            return False
        name, header = self.order[self.index_of(place)]
        data = self.store.text(name).data
        _, end = lines_up_to(data, header, place)
        if end < 1:
            return False
        try:
            line = parse_line(data[data.rfind(b"\n", 0, end - 1) + 1 : end - 1])
        except CorruptError:
            return False
        return isinstance(line, RawRecord) and (
            (line.sequence, line.hash, line.epoch, line.at_ns, line.durable)
            == (place.sequence, place.hash, place.epoch, place.at_ns, place.durable)
        )

    def index_of(self, place: Place) -> int:
        """Return which segment of the history holds the place's record, -1 for none."""
        firsts = [header.first_sequence for _, header in self.order]
        return bisect.bisect_right(firsts, place.sequence) - 1

    def is_based(self, header: Header) -> bool:
        """Whether a segment is the first one behind the base record."""
        place = self.base.place if self.base else None
        return place is not None and (
            (header.first_sequence, header.previous_hash) == (place.sequence + 1, place.hash)
        )

    def _find_order(self) -> list[tuple[SegmentName, Header]]:
        order: list[tuple[SegmentName, Header]] = []
        left = list(self.names)
        while left and not order:
            header = self._newest_header(left[-1])
            if header is not None:
                order.append((left[-1], header))
            left.pop()
        while order and not self.is_based(order[-1][1]):
            pin = order[-1][1].previous
            if pin is None:
                break
            name = SegmentName.parse(pin.name)
            if name is None or name.age >= order[-1][0].age:
                reason = "it continues a segment that is not older"
                raise CorruptJournalError(str(order[-1][0]), 1, None, reason)
            if not self.store.exists(name):
                reason = f"the segment that {order[-1][0]} continues is missing"
                raise CorruptJournalError(pin.name, 1, None, reason)
            order.append((name, self._header(name)))
        self._check_base(order)
        return order[::-1]

    def _check_base(self, order: list[tuple[SegmentName, Header]]) -> None:
        if self.base is None or (not order and self._without):
            return  # a repair may leave nothing but the base record
        if not order or not self.is_based(order[-1][1]):
            name = base_name(self.base.place.sequence)
            raise CorruptJournalError(name, 1, None, "no segment continues the base record")
        self.leftovers = [name for name in self.names if name.age < order[-1][0].age]

    def _newest_header(self, name: SegmentName) -> Header | None:
        """Return the newest segment's header, None if a crash left it torn."""
        try:
            return _parse_header(self.store.read_start(name), name)
        except CorruptError as error:
            data = self.store.text(name).data
            written = (  # behind a header that was not durable nothing is written
                len(data) > HEADER_BYTES_MAX
                or b"\n" in data[:-1]
                or any(not isinstance(line, Header) for line in whole_lines(data))
            )
            if written or isinstance(error, BrokenRuleError):
                raise CorruptJournalError(str(name), 1, name.first_sequence, str(error)) from error
            self.torn.append(
                Tear(segment=name, offset_bytes=0, size_bytes=len(data), reason=str(error))
            )
            return None

    def _header(self, name: SegmentName) -> Header:
        try:
            return _parse_header(self.store.read_start(name), name)
        except CorruptError as error:
            reason = self.store.text(name).damage or str(error)
            raise CorruptJournalError(str(name), 1, name.first_sequence, reason) from error


def read_base(files: FileSystem, folder: Path) -> Foundation | None:
    """Return the newest base record in a journal's own folder, None if nothing was archived.

    Raises:
        CorruptJournalError: it is damaged.
    """
    sequences = [base_sequence(name) for name in files.names(folder)]
    newest = max((one for one in sequences if one is not None), default=None)
    if newest is None:
        return None
    name = base_name(newest)
    try:
        base = decode_foundation(files.read(folder / name))
    except CorruptError as error:
        raise CorruptJournalError(name, 1, None, str(error)) from error
    if base.place.sequence != newest:
        raise CorruptJournalError(name, 1, None, "the base record is that of another sequence")
    return base


def _parse_header(data: bytes, name: SegmentName) -> Header:
    end = data.find(b"\n")
    if end < 0:
        raise CorruptError("the header has no end")
    line = parse_line(data[:end])
    if not isinstance(line, Header):
        raise CorruptError("the first line is no header")
    if (line.first_sequence, line.epoch) != (name.first_sequence, name.epoch):
        raise BrokenRuleError("the header is that of another segment")
    return line


def whole_lines(data: bytes) -> list[Line]:
    """Return the lines in damaged ``data`` that are whole, also those whose line feed is lost."""
    lines: list[Line] = []
    for piece in _LINE_START.split(data):
        try:
            lines.append(parse_line(piece))
        except CorruptError:
            continue
    return lines


def unread(one: tuple[SegmentName, Header], following: tuple[SegmentName, Header]) -> Segment:
    """Return a segment as the header of the one that follows it tells it."""
    pin = following[1].previous
    assert pin is not None
    return Segment(
        name=one[0],
        size_bytes=pin.size_bytes,
        last_sequence=following[1].first_sequence - 1,
        hash=pin.hash,
    )


def lines_up_to(data: bytes, header: Header, place: Place) -> tuple[int, int]:
    """Return how many lines are up to ``place``, and the offset behind them; -1 if it is short."""
    number = place.sequence - header.first_sequence + 2
    offset = 0
    for _ in range(number):
        offset = data.find(b"\n", offset) + 1
        if not offset:
            return number, -1
    return number, offset
