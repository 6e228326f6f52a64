"""Opening a journal: lock, verify everything, cut a torn tail, begin a segment of its own.

- Nothing is changed before the whole history has been verified.
- Every step can be repeated: a crash within an opening leaves a journal that opens again.
- What is built upon is durable first: that it can be read does not prove it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio

from ringflow.clock import Clock, SystemClock
from ringflow.errors import StorageError
from ringflow.events.codec import Event, EventCodec
from ringflow.events.payloads import PayloadCodec
from ringflow.events.registry import EVENT_TYPES
from ringflow.events.upcasters import UPCASTERS
from ringflow.files import FileSystem, FolderLock, SystemFiles, ensure_folder, write_atomic
from ringflow.journal.api import JournalLimits, OpeningReport, TornTail
from ringflow.journal.history import Tear
from ringflow.journal.log import SegmentLog
from ringflow.journal.reader import check_no_repair
from ringflow.journal.record import RawRecord, parse_line
from ringflow.journal.replaying import Replay, run_replay
from ringflow.journal.scan import Scan
from ringflow.journal.segments import JOURNAL_FOLDER, LOCK_NAME, Segment, SegmentName
from ringflow.journal.store import SegmentStore
from ringflow.journal.writer import JournalWriter
from ringflow.workers import in_thread

T = TypeVar("T")


@asynccontextmanager
async def open_journal(
    folder: Path | str,
    *,
    files: FileSystem | None = None,
    clock: Clock | None = None,
    types: Sequence[type[Event]] = EVENT_TYPES,
    limits: JournalLimits | None = None,
    replay: Replay | None = None,
    payload_codec: PayloadCodec | None = None,
) -> AsyncIterator[JournalWriter]:
    """Yield the open journal of an engine's ``folder``; it is in ``folder/journal``.

    Args:
        replay: gets the history while it is verified, in a worker thread; where it has a snapshot
            that the journal holds, both begin behind that.

    Leaving the block writes what is queued. An error of the block comes out as it is.

    Raises:
        FolderInUseError: another process has the folder open.
        CorruptJournalError: what was durable is damaged; nothing was changed.
        StorageError: the folder can't be written.
    """
    files, clock, limits = files or SystemFiles(), clock or SystemClock(), limits or JournalLimits()
    codec = EventCodec(types, UPCASTERS, payloads=payload_codec)
    root = Path(folder)
    lock = await _in_thread(partial(_lock, files, root))
    try:
        prepare = partial(_prepare, files, root / JOURNAL_FOLDER, lock, clock, limits, replay)
        try:
            log, scan, report = await _in_thread(prepare)
        except OSError as error:
            raise StorageError(
                f"the journal in {str(root)!r} can't be opened: {error}; mend that and try again"
            ) from error
        journal = JournalWriter(
            log, codec, limits, report, versions=scan.chain.versions, base=scan.base
        )
        async with running(journal):
            yield journal
    finally:
        lock.release()


@asynccontextmanager
async def running(journal: JournalWriter) -> AsyncIterator[None]:
    """Run the journal's flusher for the block; the block's error is not wrapped in a group."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(journal.run)
        try:
            yield
        except Exception as error:
            failure = error
        finally:
            await journal.aclose()
    if failure is not None:
        raise failure


async def _in_thread(call: Callable[[], T]) -> T:
    done: list[T] = []
    with anyio.CancelScope(shield=True):  # a lock or a file that was opened must not be lost
        done.append(await in_thread(call, what="opening"))
    return done[0]


def _lock(files: FileSystem, root: Path) -> FolderLock:
    try:
        ensure_folder(files, root)
    except OSError as error:
        raise StorageError(
            f"the folder {str(root)!r} can't be made: {error}; mend that and try again"
        ) from error
    return files.lock(root / LOCK_NAME)


def _prepare(
    files: FileSystem,
    folder: Path,
    lock: FolderLock,
    clock: Clock,
    limits: JournalLimits,
    replay: Replay | None,
) -> tuple[SegmentLog, Scan, OpeningReport]:
    files.make_folder(folder)
    files.fsync_folder(folder.parent.parent)
    files.fsync_folder(folder.parent)
    check_no_repair(files, folder)
    scan = Scan(files, folder)
    if replay is None:
        scan.finish()
    else:
        run_replay(scan, replay)
    epoch = max((name.epoch for name in scan.history.names), default=0) + 1
    if SegmentName.parse(str(SegmentName(scan.chain.sequence + 1, epoch))) is None:
        raise StorageError(
            f"epoch {epoch} is beyond what a segment's name can tell; a file in {str(folder)!r} "
            "pretends to be of the epoch before: take it away"
        )
    torn = tuple(_cut(files, folder, tear) for tear in scan.torn)
    _trim(files, folder, scan.segments)
    _make_durable(files, folder, scan)
    report = OpeningReport(
        epoch=epoch,
        last_sequence=scan.chain.sequence,
        head=scan.chain.head,
        closed_cleanly=scan.chain.closed or not scan.segments,
        torn=torn,
        ignored=tuple(scan.ignored),
    )
    plain = SegmentStore(files, folder).plain_names()
    log = SegmentLog(
        files,
        folder,
        clock,
        segments=scan.segments,
        unsealed=[one for one in scan.segments[:-1] if str(one.name) in plain],
        chain=scan.chain,
        epoch=epoch,
        lock=lock,
        segment_bytes=limits.segment_bytes,
    )
    return log, scan, report


def _trim(files: FileSystem, folder: Path, segments: Sequence[Segment]) -> None:
    """Cut the space that a writer had reserved in the newest segment when it was stopped."""
    if segments:
        path, size_bytes = folder / str(segments[-1].name), segments[-1].size_bytes
        if files.exists(path) and files.size_bytes(path) > size_bytes:
            files.truncate(path, size_bytes)


def _make_durable(files: FileSystem, folder: Path, scan: Scan) -> None:
    """Write the end of the newest segment again: the next header pins what must not be lost.

    A writer that was killed, or whose sync failed, leaves lines that can be read and are not on
    the disk. What the segment's own durable mark covers was synced before that mark was written.
    """
    if not scan.segments or not files.exists(folder / str(scan.segments[-1].name)):
        return
    last = scan.segments[-1]
    text = SegmentStore(files, folder).read_segment(last)
    begin = _synced_bytes(text, scan.chain.durable)
    files.rewrite(folder / str(last.name), begin, text[begin:])


def _synced_bytes(text: bytes, durable: int) -> int:
    """Return where the lines behind the last record up to ``durable`` begin."""
    end = len(text)
    while end:
        begin = text.rfind(b"\n", 0, end - 1) + 1
        line = parse_line(text[begin : end - 1])
        if isinstance(line, RawRecord) and line.sequence <= durable:
            return end
        end = begin
    return 0


def _cut(files: FileSystem, folder: Path, tear: Tear) -> TornTail:
    """Back up and cut a torn tail; a segment without a whole header is deleted."""
    path = folder / str(tear.segment)
    backup = ""
    if tear.size_bytes:
        backup = f"torn-{path.stem}-at-{tear.offset_bytes}"
        write_atomic(
            files, folder / backup, [files.read(path)[tear.offset_bytes :][: tear.size_bytes]]
        )
    if tear.offset_bytes:
        files.truncate(path, tear.offset_bytes)
    else:
        files.delete(path)  # durable with the name of the next segment; harmless if it comes back
    return TornTail(
        segment=str(tear.segment),
        offset_bytes=tear.offset_bytes,
        size_bytes=tear.size_bytes,
        backup=backup,
        reason=tear.reason,
    )
