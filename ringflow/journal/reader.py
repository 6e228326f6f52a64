"""Reading and verifying a journal's folder; nothing here changes a byte.

- Segments are found through their pins, from the newest back; every line is verified, from the
  beginning, from the base record that stands for it, or from a place that the caller knows.
- Bytes behind a pin, and segments that no pin names, came from a writer that a later opening had
  fenced off: they are reported, never read.
- Damage at the end of the newest segment, above every durable mark behind it, is a torn tail;
  damage anywhere else raises ``CorruptJournalError``.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, final

import attrs

from ringflow.errors import (
    ArchivedError,
    CorruptError,
    CorruptJournalError,
    HeadNotFoundError,
    NotFoundError,
    StorageError,
)
from ringflow.events.codec import EventCodec
from ringflow.events.registry import EVENT_TYPES
from ringflow.events.upcasters import UPCASTERS
from ringflow.files import FileSystem, SystemFiles
from ringflow.journal.api import IgnoredBytes
from ringflow.journal.foundation import (
    Foundation,
    Place,
    base_name,
    base_sequence,
    decode_foundation,
)
from ringflow.journal.record import Closing, Header, Line, Pin, RawRecord, Record, parse_line
from ringflow.journal.segments import (
    ENGINE_FOLDER,
    JOURNAL_FOLDER,
    BrokenLinkError,
    BrokenRuleError,
    Chain,
    Segment,
    SegmentName,
)
from ringflow.journal.selection import Selection, Streams, Types
from ringflow.journal.store import HEADER_BYTES_MAX, SegmentStore

PENDING_REPAIR: Final = "repair-pending.json"
_LINE_START: Final = re.compile(rb'\n|(?=\{"(?:at_ns|closed_at_ns)":)')


@attrs.frozen(kw_only=True)
class Tear:
    """A torn tail: the bytes of ``segment`` from ``offset_bytes`` on were never acknowledged."""

    segment: SegmentName
    offset_bytes: int
    size_bytes: int
    reason: str


@attrs.frozen(kw_only=True)
class VerifyReport:
    """What a whole journal consists of; ``verify`` raises where it is damaged.

    Attributes:
        segments, records, streams: how many there are.
        first_sequence: of the oldest record that is there; what was before it was archived.
        last_sequence, epoch: of the newest record and opening, 0 for none.
        head: the hash of the last line; publish it elsewhere to prove the journal later.
        closed_cleanly: nothing was written after an orderly close.
        head_sequence: the last record up to the line with the hash that was asked for, if any.
        torn: ends that were never acknowledged; the next opening cuts them after a backup.
        ignored: bytes of writers that had been fenced off.
    """

    segments: int
    records: int
    streams: int
    first_sequence: int
    last_sequence: int
    epoch: int
    head: str
    closed_cleanly: bool
    head_sequence: int | None
    torn: tuple[Tear, ...]
    ignored: tuple[IgnoredBytes, ...]


@final
class Scan:
    """One pass over a journal's folder; iterate ``records`` to the end, then read the rest.

    Attributes:
        chain: the rules' state after the last whole line.
        segments: the verified history in order.
        names: every segment file that is there, whether it belongs to the history or not.
        head_sequence, torn, ignored: as in ``VerifyReport``.
        base: the newest base record, None where nothing was archived.
        leftovers: segments that the base record stands for and that are still there.
    """

    def __init__(
        self,
        files: FileSystem,
        folder: Path,
        *,
        without: Collection[SegmentName] = (),
        head: str | None = None,
    ) -> None:
        self._store = SegmentStore(files, folder, without=without)
        self._without = without
        self.base = read_base(files, folder)
        self.chain = Chain(self.base.place if self.base else None)
        self._wanted_head = head
        self.head_sequence = self.chain.sequence if head == self.chain.head else None
        self._history: list[tuple[SegmentName, Header]] | None = None
        self.leftovers: list[SegmentName] = []
        self.segments: list[Segment] = []
        self.torn: list[Tear] = []
        self.ignored: list[IgnoredBytes] = []
        self.names = self._store.names()

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
        order = self._order()
        first = 0
        if start is not None:
            first = self._index_of(start)
            self.chain = Chain(start)
            self.segments = [_unread(*pair) for pair in itertools.pairwise(order[: first + 1])]
        for index, (name, header) in enumerate(order[first:], first):
            pin = order[index + 1][1].previous if index + 1 < len(order) else None
            yield from self._segment(name, header, pin, start if index == first else None)
        self._report_strays({name for name, _ in order})

    def holds(self, place: Place) -> bool:
        """Return whether the record that ``place`` is behind is in the journal, unchanged."""
        if place.sequence < 1 or not self._order() or self._index_of(place) < 0:
            return False
        name, header = self._order()[self._index_of(place)]
        data = self._store.text(name).data
        _, end = _behind(data, header, place)
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

    def _index_of(self, place: Place) -> int:
        """Return which segment of the history holds the place's record, -1 for none."""
        firsts = [header.first_sequence for _, header in self._order()]
        return bisect.bisect_right(firsts, place.sequence) - 1

    def _order(self) -> list[tuple[SegmentName, Header]]:
        """Return the segments of the history with their headers, oldest first."""
        if self._history is None:
            self._history = self._find_order()
        return self._history

    def _find_order(self) -> list[tuple[SegmentName, Header]]:
        order: list[tuple[SegmentName, Header]] = []
        left = list(self.names)
        while left and not order:
            header = self._newest_header(left[-1])
            if header is not None:
                order.append((left[-1], header))
            left.pop()
        while order and not self._is_based(order[-1][1]):
            pin = order[-1][1].previous
            if pin is None:
                break
            name = SegmentName.parse(pin.name)
            if name is None or name.age >= order[-1][0].age:
                reason = "it continues a segment that is not older"
                raise CorruptJournalError(str(order[-1][0]), 1, None, reason)
            if not self._store.exists(name):
                reason = f"the segment that {order[-1][0]} continues is missing"
                raise CorruptJournalError(pin.name, 1, None, reason)
            order.append((name, self._header(name)))
        self._check_base(order)
        return order[::-1]

    def _is_based(self, header: Header) -> bool:
        """Whether a segment is the first one behind the base record."""
        place = self.base.place if self.base else None
        return place is not None and (
            (header.first_sequence, header.previous_hash) == (place.sequence + 1, place.hash)
        )

    def _check_base(self, order: list[tuple[SegmentName, Header]]) -> None:
        if self.base is None or (not order and self._without):
            return  # a repair may leave nothing but the base record
        if not order or not self._is_based(order[-1][1]):
            name = base_name(self.base.place.sequence)
            raise CorruptJournalError(name, 1, None, "no segment continues the base record")
        self.leftovers = [name for name in self.names if name.age < order[-1][0].age]

    def _newest_header(self, name: SegmentName) -> Header | None:
        """Return the newest segment's header, None if a crash left it torn."""
        try:
            return _parse_header(self._store.read_start(name), name)
        except CorruptError as error:
            data = self._store.text(name).data
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
            return _parse_header(self._store.read_start(name), name)
        except CorruptError as error:
            reason = self._store.text(name).damage or str(error)
            raise CorruptJournalError(str(name), 1, name.first_sequence, reason) from error

    def _segment(
        self, name: SegmentName, header: Header, pin: Pin | None, start: Place | None
    ) -> Iterator[RawRecord]:
        """Verify one segment from ``start`` on.

        Args:
            pin: what the next one says of it, None for the newest.
        """
        text = self._store.text(name)
        data = text.data
        if pin is not None and len(data) > pin.size_bytes:
            late = len(data) - pin.size_bytes
            self.ignored.append(
                IgnoredBytes(segment=str(name), offset_bytes=pin.size_bytes, size_bytes=late)
            )
            data = data[: pin.size_bytes]
        number, offset = _behind(data, header, start) if start is not None else (0, 0)
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
        if not self.segments and self._is_based(header):
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
        known = {*used, *(tear.segment for tear in self.torn), *self.leftovers}
        for name in self.names:
            if name not in known:
                size = len(self._store.text(name).data)
                self.ignored.append(
                    IgnoredBytes(segment=str(name), offset_bytes=0, size_bytes=size)
                )


def _unread(one: tuple[SegmentName, Header], following: tuple[SegmentName, Header]) -> Segment:
    """Return a segment as the header of the one that follows it tells it."""
    pin = following[1].previous
    assert pin is not None
    return Segment(
        name=one[0],
        size_bytes=pin.size_bytes,
        last_sequence=following[1].first_sequence - 1,
        hash=pin.hash,
    )


def _behind(data: bytes, header: Header, place: Place) -> tuple[int, int]:
    """Return how many lines are up to ``place``, and the offset behind them; -1 if it is short."""
    number = place.sequence - header.first_sequence + 2
    offset = 0
    for _ in range(number):
        offset = data.find(b"\n", offset) + 1
        if not offset:
            return number, -1
    return number, offset


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


def _durable(line: Line) -> int:
    return line.durable if isinstance(line, (RawRecord, Closing)) else line.first_sequence - 1


def find_journal(path: Path, files: FileSystem | None = None) -> Path:
    """Return the journal's own folder for ``path``.

    Args:
        path: the journal's folder, an engine's folder, or a folder that holds one engine's; of
            several there the one named ``engine``.
    Raises:
        NotFoundError: there is none, or more than one.
    """
    files = files or SystemFiles()
    if _is_journal(files, path):
        return path
    if _is_journal(files, path / JOURNAL_FOLDER):
        return path / JOURNAL_FOLDER
    inside = [path / name / JOURNAL_FOLDER for name in files.names(path)]
    found = [folder for folder in inside if _is_journal(files, folder)]
    if len(found) == 1:
        return found[0]
    if (named := path / ENGINE_FOLDER / JOURNAL_FOLDER) in found:
        return named
    if found:
        names = ", ".join(folder.parent.name for folder in found)
        raise NotFoundError(f"{str(path)!r} holds several journals; name one of: {names}")
    raise NotFoundError(f"no journal in {str(path)!r}; give the engine's folder or the journal's")


def _is_journal(files: FileSystem, folder: Path) -> bool:
    return bool(SegmentStore(files, folder).names()) or files.exists(folder / PENDING_REPAIR)


def check_no_repair(files: FileSystem, folder: Path) -> None:
    """Raise ``StorageError`` if a repair of the journal in ``folder`` has begun and not ended."""
    if files.exists(folder / PENDING_REPAIR):
        raise StorageError(
            f"a repair of the journal in {str(folder)!r} was interrupted; run `ringflow journal "
            "repair --apply` again to end it"
        )


def read_records(path: Path, *, files: FileSystem | None = None) -> Iterator[RawRecord]:
    """Yield the verified records under ``path`` (as ``find_journal``); takes no lock.

    Raises:
        NotFoundError: there is no journal.
        CorruptJournalError: from the damaged record on; those before it have been yielded.
    """
    return read_history(path, files=files)[1]


def read_history(
    path: Path, *, files: FileSystem | None = None
) -> tuple[Foundation | None, Iterator[RawRecord]]:
    """Return the base record, None if nothing was archived, and ``read_records``'s records."""
    files = files or SystemFiles()
    folder = find_journal(path, files)
    check_no_repair(files, folder)
    scan = Scan(files, folder)
    return scan.base, scan.records()


def select_records(
    path: Path,
    wanted: Selection,
    *,
    from_sequence: int = 0,
    to_sequence: int | None = None,
    files: FileSystem | None = None,
) -> Iterator[RawRecord]:
    """Yield the verified records that are wanted; raises as ``read_records``.

    Raises:
        ArchivedError: ``from_sequence`` is not 0 and was archived.
    """
    files = files or SystemFiles()
    scan = Scan(files, find_journal(path, files))
    if 0 < from_sequence < scan.first_sequence:
        raise ArchivedError(from_sequence, scan.first_sequence)
    for record in scan.records():
        if to_sequence is not None and record.sequence > to_sequence:
            return
        if record.sequence >= from_sequence and wanted.wants(record):
            yield record


def read_journal(
    path: Path | str,
    *,
    streams: Streams = None,
    types: Types = None,
    from_sequence: int = 0,
    to_sequence: int | None = None,
    since_ns: int = 0,
    until_ns: int | None = None,
) -> Iterator[Record]:
    """Yield the records of the journal under ``path``, verified; takes no lock, reads blocking.

    Args:
        path: the engine's folder, the journal's, an archive's, or one that holds one engine's.
        streams: a stream, the start of streams' names and ``*``, or a function of the name.
        types: event types or their wire names; a record is yielded whole if it holds one.
        from_sequence, to_sequence: both included; 0 starts with the oldest there is.
        since_ns, until_ns: wall time of the write; ``until_ns`` itself is not included.
    Raises:
        NotFoundError: there is no journal.
        ArchivedError: ``from_sequence`` is not 0 and was archived.
        CorruptJournalError: from the damaged record on; those before it have been yielded.
        UnknownEventError: this version knows an event no more, or not yet.
    """
    codec = EventCodec(EVENT_TYPES, UPCASTERS)
    wanted = Selection.of(codec, streams=streams, types=types, since_ns=since_ns, until_ns=until_ns)
    found = select_records(Path(path), wanted, from_sequence=from_sequence, to_sequence=to_sequence)
    return (record.decoded(codec) for record in found)


def verify(path: Path, *, head: str | None = None, files: FileSystem | None = None) -> VerifyReport:
    """Verify every line of the journal under ``path``; takes no lock; raises as ``read_records``.

    A journal that is being written may show a torn tail for a moment.

    Args:
        head: a hash that was published once; it must be that of a line in the journal.
    Raises:
        HeadNotFoundError: the journal is whole, but ``head`` is none of its lines.
    """
    files = files or SystemFiles()
    folder = find_journal(path, files)
    check_no_repair(files, folder)
    scan = Scan(files, folder, head=head).finish()
    if head is not None and scan.head_sequence is None:
        raise HeadNotFoundError(head, scan.chain.sequence)
    return VerifyReport(
        segments=len(scan.segments),
        records=scan.chain.sequence - scan.first_sequence + 1,
        first_sequence=scan.first_sequence,
        streams=len(scan.chain.versions),
        last_sequence=scan.chain.sequence,
        epoch=scan.chain.epoch,
        head=scan.chain.head,
        closed_cleanly=scan.chain.closed or not scan.segments,
        head_sequence=scan.head_sequence,
        torn=tuple(scan.torn),
        ignored=tuple(scan.ignored),
    )
