"""Where batches go: into segment files, or into memory.

- Calls block and come one at a time; the writer makes them in a worker thread.
- A batch is durable when ``write`` returns; after an exception its outcome is unknown.
- Small batches replace zeros that were reserved in larger steps: their sync is cheaper.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol, final

from ringflow.clock import Clock
from ringflow.errors import (
    ArchivedError,
    CorruptError,
    CorruptJournalError,
    NotFoundError,
    UsageError,
)
from ringflow.events.chain import GENESIS
from ringflow.files import FileSystem, FolderLock, OpenFile
from ringflow.journal.batch import SealedBatch, Sealer
from ringflow.journal.lanes import Pending
from ringflow.journal.record import Header, RawRecord, header_line, parse_line
from ringflow.journal.segments import Chain, Segment, SegmentName
from ringflow.journal.store import SegmentStore

_ENDS_OTHERWISE: Final = "the segment ends otherwise than it was written"
_RESERVE_BYTES: Final = 2**20
_STALLED_NS: Final = 10_000_000
_UNSEALED_MAX: Final = 4  # so many wait for a quiet moment
_SMALL_BATCH_BYTES: Final = 2**16  # larger ones would be written twice for little


class Log(Protocol):
    """The durable side of a journal."""

    @property
    def epoch(self) -> int: ...

    @property
    def sequence(self) -> int:
        """The last durable sequence."""

    def write(self, batch: Sequence[Pending]) -> SealedBatch:
        """Make ``batch`` durable."""

    def read(self, from_sequence: int, to_sequence: int) -> Iterator[RawRecord]:
        """Yield the records from one sequence to the other, both included; 0: from the oldest.

        Raises:
            ArchivedError: the first one was archived.
            CorruptJournalError: from the damaged record on.
        """

    def segments(self) -> Sequence[Segment]:
        """Return the segments, oldest first; the last one is being written."""

    def forget(self, sequence: int) -> None:
        """Read nothing up to ``sequence``, the last one of a finished segment, any more."""

    def free_bytes(self) -> int: ...
    def tidy(self) -> bool:
        """Do one piece of work that can wait; False if there is none."""

    def close(self) -> None:
        """Mark an orderly close; not called after a failed ``write``."""

    def abandon(self) -> None:
        """Let go of what is open without writing; after a failed ``write``."""


@final
class SegmentLog:
    """``Log`` in a folder of segment files.

    Args:
        segments: the verified history; ``chain`` is the rules' state at its end.
        unsealed: segments of the history, all pinned, that have a plain file still.
        epoch: of this opening.
        lock: the folder's; a batch whose writer has lost it is never acknowledged.
        segment_bytes: a segment that has reached this size is followed by a new one.
    """

    def __init__(
        self,
        files: FileSystem,
        folder: Path,
        clock: Clock,
        *,
        segments: Sequence[Segment],
        chain: Chain,
        unsealed: Sequence[Segment],
        epoch: int,
        lock: FolderLock,
        segment_bytes: int,
    ) -> None:
        self._files = files
        self._lock = lock
        self._clock = clock
        self._checked_ns: int | None = None
        self._folder = folder
        self._store = SegmentStore(files, folder)
        self._segment_bytes = segment_bytes
        self._segments = list(segments)
        self._unsealed = deque(unsealed)
        self._sealer = Sealer(
            clock, epoch=epoch, sequence=chain.sequence, at_ns=chain.at_ns, head=chain.head
        )
        self._file: OpenFile
        self._reserved_bytes = 0
        self._begin_segment()

    @property
    def epoch(self) -> int:
        return self._sealer.epoch

    @property
    def sequence(self) -> int:
        return self._segments[-1].last_sequence

    def write(self, batch: Sequence[Pending]) -> SealedBatch:
        last = self._segments[-1]
        if (
            last.size_bytes >= self._segment_bytes
            and last.last_sequence >= last.name.first_sequence
        ):
            self._file.trim()
            self._file.close()
            self._begin_segment()
            self._unsealed.append(last)
            while len(self._unsealed) > _UNSEALED_MAX:
                self.tidy()
        sealed = self._sealer.seal(batch)
        self._write(b"".join(sealed.lines))
        self._check_lock()
        return sealed

    def _check_lock(self) -> None:
        """Raise if another writer may have taken over; before anything is acknowledged.

        It takes a writer that was stalled, within the sync or before it, so a writer that was
        here a moment ago need not look.
        """
        now_ns = self._clock.monotonic_ns()  # wall time may step back, and would hide a stall
        if self._checked_ns is None or now_ns - self._checked_ns >= _STALLED_NS:
            self._lock.check()
            self._checked_ns = now_ns

    def close(self) -> None:
        try:
            while self.tidy():
                pass
            self._write(self._sealer.close())
            self._file.trim()
        finally:
            self._file.close()

    def tidy(self) -> bool:
        """Seal one segment; with a full disk it stays plain until the next opening."""
        if not self._unsealed:
            return False
        try:
            self._store.seal(self._unsealed.popleft())
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        return True

    def abandon(self) -> None:
        self._file.close()

    def segments(self) -> Sequence[Segment]:
        return tuple(self._segments)

    def forget(self, sequence: int) -> None:
        while self._segments[0].last_sequence <= sequence and len(self._segments) > 1:
            del self._segments[0]  # one step: the writer's thread looks at the last one only

    def free_bytes(self) -> int:
        return self._files.free_bytes(self._folder)

    def read(self, from_sequence: int, to_sequence: int) -> Iterator[RawRecord]:
        first = self._segments[0].name.first_sequence
        if 0 < from_sequence < first:
            raise ArchivedError(from_sequence, first)
        return self._read(from_sequence, to_sequence)

    def _read(self, from_sequence: int, to_sequence: int) -> Iterator[RawRecord]:
        for segment in tuple(self._segments):
            if segment.last_sequence >= from_sequence and (
                segment.name.first_sequence <= to_sequence
            ):
                yield from self._read_segment(segment, from_sequence, to_sequence)

    def _read_segment(self, segment: Segment, start: int, end: int) -> Iterator[RawRecord]:
        try:
            data = self._store.read(segment.name)[: segment.size_bytes]
        except NotFoundError:
            first = self._segments[0].name.first_sequence
            if segment.name.first_sequence < first:
                raise ArchivedError(max(start, segment.name.first_sequence), first) from None
            raise
        lines = data.split(b"\n")[:-1]
        # The header is followed by a line a record: what lies before the wanted ones is passed
        # over, but for the line that the first of them is linked to.
        passed = max(0, min(start - segment.name.first_sequence, len(lines) - 1))
        expected, head = segment.name.first_sequence + max(0, passed - 1), ""
        if not lines:
            raise CorruptJournalError(str(segment.name), 1, expected, _ENDS_OTHERWISE)
        for number, line in enumerate(lines[passed:], passed + 1):
            try:
                record = parse_line(line)
            except CorruptError as error:
                raise CorruptJournalError(
                    str(segment.name), number, expected, str(error)
                ) from error
            if head and record.previous_hash != head:
                reason = "its link to the line before is broken"
                raise CorruptJournalError(str(segment.name), number, expected, reason)
            head = record.hash
            if number == len(lines) and head != segment.hash:  # all links lead here
                raise CorruptJournalError(str(segment.name), number, expected, _ENDS_OTHERWISE)
            if not isinstance(record, RawRecord):
                continue
            if record.sequence != expected:
                raise CorruptJournalError(
                    str(segment.name), number, expected, "the record is missing"
                )
            expected += 1
            if start <= record.sequence <= end:
                yield record

    def _write(self, data: bytes) -> None:
        if self._reserved_bytes < len(data) <= _SMALL_BATCH_BYTES:
            self._reserve()
        last = self._segments[-1]
        grown = Segment(
            name=last.name,
            size_bytes=last.size_bytes + len(data),
            last_sequence=self._sealer.sequence,
            hash=self._sealer.head,
        )
        self._file.write(data)
        self._reserved_bytes = max(0, self._reserved_bytes - len(data))
        self._file.datasync()
        self._segments[-1] = grown

    def _reserve(self) -> None:
        try:
            self._file.reserve(min(_RESERVE_BYTES, self._segment_bytes))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return  # what is left is for records
        self._reserved_bytes = min(_RESERVE_BYTES, self._segment_bytes)

    def _begin_segment(self) -> None:
        """Create the next segment with a durable header that pins the one before."""
        sealer = self._sealer
        name = SegmentName(sealer.sequence + 1, sealer.epoch)
        line, digest = header_line(
            Header(
                epoch=sealer.epoch,
                first_sequence=sealer.sequence + 1,
                opened_at_ns=sealer.tick(),
                previous=self._segments[-1].pin if self._segments else None,
                previous_hash=sealer.head,
            )
        )
        self._file = self._files.create(self._folder / str(name))
        try:
            self._file.write(line)
            self._reserved_bytes = 0
            self._reserve()
            self._file.datasync()
            self._files.fsync_folder(self._folder)
        except BaseException:
            self._file.close()
            raise
        sealer.head = digest
        self._segments.append(
            Segment(name=name, size_bytes=len(line), last_sequence=sealer.sequence, hash=digest)
        )


@final
class MemoryLog:
    """``Log`` in memory; opening it again continues its history, as a folder's would."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._sealer: Sealer | None = None
        self.versions: dict[str, int] = {}

    def begin(self, clock: Clock) -> None:
        """Start the next epoch."""
        last = self._sealer
        self._sealer = Sealer(
            clock,
            epoch=last.epoch + 1 if last else 1,
            sequence=last.sequence if last else 0,
            at_ns=last.at_ns if last else 0,
            head=last.head if last else GENESIS,
        )

    @property
    def _open(self) -> Sealer:
        assert self._sealer is not None
        return self._sealer

    @property
    def epoch(self) -> int:
        return self._open.epoch

    @property
    def sequence(self) -> int:
        return len(self._lines)

    @property
    def head(self) -> str:
        return self._open.head

    def write(self, batch: Sequence[Pending]) -> SealedBatch:
        sealed = self._open.seal(batch)
        self._lines += sealed.lines
        for pending in batch:
            self.versions[pending.append.stream] = pending.append.version
        return sealed

    def read(self, from_sequence: int, to_sequence: int) -> Iterator[RawRecord]:
        for line in self._lines[max(0, from_sequence - 1) : to_sequence]:
            record = parse_line(line[:-1])
            assert isinstance(record, RawRecord)
            yield record

    def segments(self) -> Sequence[Segment]:
        """Return all that there is as one segment, which has no file."""
        name = SegmentName(1, self.epoch)
        return (Segment(name=name, size_bytes=0, last_sequence=self.sequence, hash=self.head),)

    def forget(self, sequence: int) -> None:
        raise UsageError("a journal in memory has no segments to archive; use one in a folder")

    def free_bytes(self) -> int:
        return 2**62

    def tidy(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass
