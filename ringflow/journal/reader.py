"""Reading and verifying a journal's folder; nothing here changes a byte.

- Segments are found through their pins, from the newest back; every line is verified.
- Bytes behind a pin, and segments that no pin names, came from a writer that a later opening had
  fenced off: they are reported, never read.
- Damage at the end of the newest segment, above every durable mark behind it, is a torn tail;
  damage anywhere else raises ``CorruptJournalError``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, final

import attrs

from ringflow.errors import (
    CorruptError,
    CorruptJournalError,
    HeadNotFoundError,
    NotFoundError,
    StorageError,
)
from ringflow.events.chain import GENESIS
from ringflow.files import FileSystem, SystemFiles
from ringflow.journal.api import IgnoredBytes
from ringflow.journal.record import Closing, Header, Line, Pin, RawRecord, parse_line
from ringflow.journal.segments import (
    ENGINE_FOLDER,
    JOURNAL_FOLDER,
    BrokenLinkError,
    BrokenRuleError,
    Chain,
    Segment,
    SegmentName,
)
from ringflow.journal.store import SegmentStore

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
        self._wanted_head = head
        self.head_sequence = 0 if head == GENESIS else None
        self.chain = Chain()
        self.segments: list[Segment] = []
        self.torn: list[Tear] = []
        self.ignored: list[IgnoredBytes] = []
        self.names = self._store.names()

    def finish(self) -> Scan:
        """Verify everything; raises ``CorruptJournalError``."""
        deque(self.records(), maxlen=0)
        return self

    def records(self) -> Iterator[RawRecord]:
        """Yield each record once it is verified; raises ``CorruptJournalError``."""
        order = self._order()
        for index, (name, header) in enumerate(order):
            pin = order[index + 1][1].previous if index + 1 < len(order) else None
            yield from self._segment(name, header, pin)
        self._report_strays({name for name, _ in order})

    def _order(self) -> list[tuple[SegmentName, Header]]:
        """Return the segments of the history with their headers, oldest first."""
        order: list[tuple[SegmentName, Header]] = []
        left = list(self.names)
        while left and not order:
            header = self._newest_header(left[-1])
            if header is not None:
                order.append((left[-1], header))
            left.pop()
        while order and (pin := order[-1][1].previous) is not None:
            name = SegmentName.parse(pin.name)
            if name is None or name.age >= order[-1][0].age:
                reason = "it continues a segment that is not older"
                raise CorruptJournalError(str(order[-1][0]), 1, None, reason)
            if not self._store.exists(name):
                reason = f"the segment that {order[-1][0]} continues is missing"
                raise CorruptJournalError(pin.name, 1, None, reason)
            order.append((name, self._header(name)))
        return order[::-1]

    def _newest_header(self, name: SegmentName) -> Header | None:
        """Return the newest segment's header, None if a crash left it torn."""
        try:
            return _parse_header(self._store.read_start(name), name)
        except CorruptError as error:
            data = self._store.text(name).data
            written = any(not isinstance(line, Header) for line in whole_lines(data))
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
            raise CorruptJournalError(str(name), 1, name.first_sequence, str(error)) from error

    def _segment(self, name: SegmentName, header: Header, pin: Pin | None) -> Iterator[RawRecord]:
        """Verify one segment; ``pin`` is what the next one says of it, None for the newest."""
        text = self._store.text(name)
        data = text.data
        if pin is not None and len(data) > pin.size_bytes:
            late = len(data) - pin.size_bytes
            self.ignored.append(
                IgnoredBytes(segment=str(name), offset_bytes=pin.size_bytes, size_bytes=late)
            )
            data = data[: pin.size_bytes]
        offset = number = 0
        while offset < len(data):
            number += 1
            end = data.find(b"\n", offset)
            try:
                if end < 0:
                    raise BrokenLinkError("the line has no end")
                line = parse_line(data[offset:end])
                if number == 1 or type(line) is not RawRecord:
                    self._check_place(line, header, number)
                self.chain.follow(line)
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
        torn = {tear.segment for tear in self.torn}
        for name in self.names:
            if name not in used and name not in torn:
                size = len(self._store.text(name).data)
                self.ignored.append(
                    IgnoredBytes(segment=str(name), offset_bytes=0, size_bytes=size)
                )


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
    files = files or SystemFiles()
    folder = find_journal(path, files)
    check_no_repair(files, folder)
    return Scan(files, folder).records()


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
        records=scan.chain.sequence,
        streams=len(scan.chain.versions),
        last_sequence=scan.chain.sequence,
        epoch=scan.chain.epoch,
        head=scan.chain.head,
        closed_cleanly=scan.chain.closed or not scan.segments,
        head_sequence=scan.head_sequence,
        torn=tuple(scan.torn),
        ignored=tuple(scan.ignored),
    )
