"""Reading and verifying the journal under a path, without a lock; nothing here changes a byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from ringflow.errors import ArchivedError, HeadNotFoundError, NotFoundError, StorageError
from ringflow.events.codec import EventCodec
from ringflow.events.registry import EVENT_TYPES
from ringflow.events.upcasters import UPCASTERS
from ringflow.files import FileSystem, SystemFiles
from ringflow.journal.api import IgnoredBytes
from ringflow.journal.foundation import Foundation
from ringflow.journal.history import Tear
from ringflow.journal.record import RawRecord, Record
from ringflow.journal.scan import Scan
from ringflow.journal.segments import ENGINE_FOLDER, JOURNAL_FOLDER
from ringflow.journal.selection import Selection, Streams, Types
from ringflow.journal.store import SegmentStore

PENDING_REPAIR: Final = "repair-pending.json"


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


def find_journal(path: Path, files: FileSystem | None = None) -> Path:
    """Return the journal's own folder for ``path``.

    Args:
        path: the journal's folder, an engine's folder, or a folder that holds one engine's; of
            several there the one named ``engine``.
    Raises:
        NotFoundError: there is none, or more than one.
    """
    files = files or SystemFiles()
    if holds_journal(files, path):
        return path
    if holds_journal(files, path / JOURNAL_FOLDER):
        return path / JOURNAL_FOLDER
    inside = [path / name / JOURNAL_FOLDER for name in files.names(path)]
    found = [folder for folder in inside if holds_journal(files, folder)]
    if len(found) == 1:
        return found[0]
    if (named := path / ENGINE_FOLDER / JOURNAL_FOLDER) in found:
        return named
    if found:
        names = ", ".join(folder.parent.name for folder in found)
        raise NotFoundError(f"{str(path)!r} holds several journals; name one of: {names}")
    raise NotFoundError(f"no journal in {str(path)!r}; give the engine's folder or the journal's")


def holds_journal(files: FileSystem, folder: Path) -> bool:
    """Return whether a journal lies in ``folder`` itself, be it one that a repair has not ended."""
    return bool(SegmentStore(files, folder).names()) or files.exists(folder / PENDING_REPAIR)


def check_no_repair(files: FileSystem, folder: Path) -> None:
    """Raise ``StorageError`` if a repair of the journal in ``folder`` has begun and not ended."""
    if files.exists(folder / PENDING_REPAIR):
        raise StorageError(
            f"a repair of the journal in {str(folder)!r} was interrupted; run `ringflow journal "
            "repair --apply` again to end it"
        )


def _scan(path: Path, files: FileSystem | None, *, head: str | None = None) -> Scan:
    files = files or SystemFiles()
    folder = find_journal(path, files)
    check_no_repair(files, folder)
    return Scan(files, folder, head=head)


def read_records(path: Path, *, files: FileSystem | None = None) -> Iterator[RawRecord]:
    """Yield the verified records under ``path`` (as ``find_journal``); takes no lock.

    Raises:
        NotFoundError: there is no journal.
        StorageError: a repair of it was interrupted.
        CorruptJournalError: from the damaged record on; those before it have been yielded.
    """
    return read_history(path, files=files)[1]


def read_history(
    path: Path, *, files: FileSystem | None = None
) -> tuple[Foundation | None, Iterator[RawRecord]]:
    """Return the base record, None if nothing was archived, and ``read_records``'s records."""
    scan = _scan(path, files)
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
    scan = _scan(path, files)
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
        StorageError: a repair of it was interrupted.
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
    scan = _scan(path, files, head=head).finish()
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
