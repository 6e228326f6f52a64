"""Repairing a damaged journal: a person's decision to go on without what is behind the damage.

- Nothing is repaired by itself: opening refuses, ``plan_repair`` says what would go, and only
  ``repair`` does it, in the name of ``actor`` and for a ``reason``.
- All files that change are copied first; the copies stay.
- A repair is written down before it changes anything. One that was interrupted keeps the journal
  shut, and the next ``repair`` ends it.
- It ends with a record ``engine.journal_repaired.v1`` in a segment of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs
import cattrs
import orjson

from ringflow.clock import Clock, SystemClock
from ringflow.errors import CorruptError, CorruptJournalError, UsageError
from ringflow.events.codec import EventCodec
from ringflow.events.engine import JournalRepaired
from ringflow.events.values import canonical_json
from ringflow.files import FileSystem, FolderLock, SystemFiles, write_atomic
from ringflow.journal.api import Append
from ringflow.journal.history import whole_lines
from ringflow.journal.lanes import Pending
from ringflow.journal.log import SegmentLog
from ringflow.journal.reader import PENDING_REPAIR, find_journal
from ringflow.journal.record import RawRecord
from ringflow.journal.scan import Scan
from ringflow.journal.segments import LOCK_NAME, SegmentName
from ringflow.journal.store import SEGMENT_BYTES_MAX, SegmentStore

_STREAM: Final = "engine"


@attrs.frozen(kw_only=True)
class RepairPlan:
    """What a repair takes out of a journal.

    Attributes:
        segment, line, damage: where the first damage is, and what it is.
        last_sequence: the last record that is kept, 0 for none.
        lost_records: whole records behind the damage, as far as they can be counted.
        cut_bytes: of text that go.
        last_segment, keep_bytes: where the kept history ends; empty if nothing is kept.
        goes: segments that go whole.
        epoch: of the repair; ``backup`` is the folder, beside the segments, for the copies.
    """

    segment: str
    line: int
    damage: str
    last_sequence: int
    lost_records: int
    cut_bytes: int
    last_segment: str
    keep_bytes: int
    goes: tuple[str, ...]
    epoch: int
    backup: str


@attrs.frozen(kw_only=True)
class _Pending:
    """A repair that was begun; kept in a file until it has ended."""

    plan: RepairPlan
    actor: str
    reason: str


def plan_repair(path: Path, *, files: FileSystem | None = None) -> RepairPlan | None:
    """Return what ``repair`` would do, None for a journal without damage; changes nothing.

    Raises:
        NotFoundError: there is no journal under ``path`` (as ``find_journal``).
    """
    files = files or SystemFiles()
    folder = find_journal(path, files)
    begun = _begun(files, folder)
    return begun.plan if begun else _plan(files, folder)


def repair(
    path: Path,
    *,
    actor: str,
    reason: str,
    files: FileSystem | None = None,
    clock: Clock | None = None,
) -> RepairPlan | None:
    """Cut a journal at its first damage and journal that; return what was done, None if nothing.

    Raises:
        NotFoundError: there is no journal under ``path``.
        FolderInUseError: an engine has the folder open.
        UsageError: ``actor`` or ``reason`` is empty.
    """
    if not actor or not reason:
        raise UsageError("a repair needs an actor and a reason; the journal keeps both")
    files = files or SystemFiles()
    folder = find_journal(path, files)
    lock = files.lock(folder.parent / LOCK_NAME)
    try:
        begun = _begun(files, folder)
        if begun is None:
            plan = _plan(files, folder)
            if plan is None:
                return None
            begun = _Pending(plan=plan, actor=actor, reason=reason)
            _back_up(files, folder, plan)
            write_atomic(
                files, folder / PENDING_REPAIR, [canonical_json(cattrs.unstructure(begun))]
            )
        _cut(files, folder, begun.plan)
        _write_record(files, folder, lock, clock or SystemClock(), begun)
        files.delete(folder / PENDING_REPAIR)
        files.fsync_folder(folder)
        return begun.plan
    finally:
        lock.release()


def _begun(files: FileSystem, folder: Path) -> _Pending | None:
    if not files.exists(folder / PENDING_REPAIR):
        return None
    try:
        plain = orjson.loads(files.read(folder / PENDING_REPAIR))
        return cattrs.structure(plain, _Pending)
    except Exception as error:  # cattrs raises many kinds
        raise CorruptError(f"{PENDING_REPAIR} is damaged: {error}; restore the journal") from error


def _plan(files: FileSystem, folder: Path) -> RepairPlan | None:
    """Drop the segments from the damage on, until what is left verifies."""
    store = SegmentStore(files, folder)
    names, without = store.names(), set[SegmentName]()
    first: CorruptJournalError | None = None
    while True:
        scan = Scan(files, folder, without=without)
        try:
            scan.finish()
        except CorruptJournalError as error:
            first = error
            place = SegmentName.parse(error.segment)
            if place is None:  # the base record, or all behind it: nothing stands for what went
                raise
            if error.line > 1:  # the lines before it are whole and end the history
                keep_bytes = _offset(store.text(place).data, error.line)
                return _plan_of(store, names, scan, error, place, keep_bytes)
            without |= {name for name in names if name.age >= place.age}
        else:
            break
    if first is None:
        return None
    last = scan.segments[-1] if scan.segments else None
    return _plan_of(
        store, names, scan, first, last.name if last else None, last.size_bytes if last else 0
    )


def _plan_of(
    store: SegmentStore,
    names: list[SegmentName],
    scan: Scan,
    damage: CorruptJournalError,
    last: SegmentName | None,
    keep_bytes: int,
) -> RepairPlan:
    goes = [name for name in names if last is None or name.age > last.age]
    cut = [store.text(last).data[keep_bytes:]] if last else []
    cut += [store.text(name).data for name in goes]
    epoch = max(name.epoch for name in names) + 1
    return RepairPlan(
        segment=damage.segment,
        line=damage.line,
        damage=damage.reason,
        last_sequence=scan.chain.sequence,
        lost_records=sum(isinstance(line, RawRecord) for data in cut for line in whole_lines(data)),
        cut_bytes=sum(map(len, cut)),
        last_segment=str(last or ""),
        keep_bytes=keep_bytes,
        goes=tuple(map(str, goes)),
        epoch=epoch,
        backup=f"repair-{epoch:08d}",
    )


def _offset(text: bytes, line: int) -> int:
    """Return where a line begins; lines are counted from 1."""
    offset = 0
    for _ in range(line - 1):
        offset = text.index(b"\n", offset) + 1
    return offset


def _named(name: str) -> SegmentName:
    parsed = SegmentName.parse(name)
    if parsed is None:
        raise CorruptError(f"{PENDING_REPAIR} names no segment: {name!r}; restore it from a copy")
    return parsed


def _files_of(store: SegmentStore, plan: RepairPlan) -> list[Path]:
    """Return the files that a repair changes, those that go first, the newest of them first."""
    names = [_named(name) for name in reversed(plan.goes)]
    names += [_named(plan.last_segment)] if plan.last_segment else []
    return [path for name in names for path in (store.plain_path(name), store.sealed_path(name))]


def _back_up(files: FileSystem, folder: Path, plan: RepairPlan) -> None:
    files.make_folder(folder / plan.backup)
    for path in _files_of(SegmentStore(files, folder), plan):
        if files.exists(path):
            data = files.read(path, size_bytes=SEGMENT_BYTES_MAX + 1)
            write_atomic(files, folder / plan.backup / path.name, [data])
    files.fsync_folder(folder)


def _cut(files: FileSystem, folder: Path, plan: RepairPlan) -> None:
    """Take out what goes; every step can be repeated."""
    store = SegmentStore(files, folder)
    for name in reversed(plan.goes):
        files.delete(store.plain_path(_named(name)))
        files.delete(store.sealed_path(_named(name)))
    if plan.last_segment:
        last = _named(plan.last_segment)
        text = store.text(last).data[: plan.keep_bytes]
        write_atomic(files, store.plain_path(last), [text])  # it wins over the sealed one
        files.delete(store.sealed_path(last))
    files.fsync_folder(folder)


def _write_record(
    files: FileSystem, folder: Path, lock: FolderLock, clock: Clock, begun: _Pending
) -> None:
    """Add a segment with the record of the repair; one that a crash left is made anew."""
    plan = begun.plan
    own = SegmentName(plan.last_sequence + 1, plan.epoch)
    store = SegmentStore(files, folder)
    files.delete(store.plain_path(own))
    scan = Scan(files, folder, without=[own]).finish()
    event = JournalRepaired(
        segment=plan.segment,
        line=plan.line,
        damage=plan.damage,
        last_sequence=plan.last_sequence,
        lost_records=plan.lost_records,
        cut_bytes=plan.cut_bytes,
        backup=plan.backup,
        actor=begun.actor,
        reason=begun.reason,
    )
    log = SegmentLog(
        files,
        folder,
        clock,
        lock=lock,
        segments=scan.segments,
        chain=scan.chain,
        unsealed=(),
        epoch=plan.epoch,
        segment_bytes=4096,  # the one record is all that it gets
    )
    version = scan.chain.versions.get(_STREAM, 0) + 1
    data = EventCodec([JournalRepaired]).encode([event])
    try:
        log.write([Pending(Append(_STREAM, version), [event], data)])
    except BaseException:
        log.abandon()
        raise
    log.close()
