"""Archiving the oldest part of an engine's journal: what may go, what keeps the rest, and doing it.

- Kept: what the oldest retained recovery point of a kernel needs, what a consumer has not
  acknowledged, what a projection has not seen, and every operation that is not at its end.
- Producers' marks, positions and all other state go into the base record.
- Whole segments go, never the one that is being written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import final

import attrs

from ringflow.engine.folding import Fold
from ringflow.engine.state import EngineState
from ringflow.engine.state_snapshots import StateSnapshots
from ringflow.errors import StorageError, UsageError
from ringflow.events.codec import EventCodec
from ringflow.events.engine import JournalArchived
from ringflow.events.messages import BulkMessageAccepted, MessagesAccepted
from ringflow.events.registry import default_codec
from ringflow.events.values import load_integer
from ringflow.files import FileSystem, SystemFiles
from ringflow.journal.api import Journal
from ringflow.journal.archive import (
    check_target,
    leftover_segments,
    remove_old_bases,
    remove_segments,
    write_base,
)
from ringflow.journal.foundation import Foundation
from ringflow.journal.opening import open_journal
from ringflow.journal.projections import FileProjections
from ringflow.journal.reader import find_journal
from ringflow.journal.record import RawRecord
from ringflow.journal.replaying import run_replay
from ringflow.journal.scan import Scan
from ringflow.journal.segments import JOURNAL_FOLDER, Segment, SegmentName
from ringflow.workers import in_thread


@final
@attrs.frozen(kw_only=True)
class Keeper:
    """Something that needs the journal from ``sequence`` on; ``what`` says it to a person."""

    what: str
    sequence: int


@final
@attrs.frozen(kw_only=True)
class ArchivePlan:
    """What an archiving would do, or did.

    Attributes:
        first_sequence, last_sequence: of the records that go; nothing goes if the last one is 0.
        segments: the names of the segments that go.
        leftovers: segments of an earlier archiving that was cut short; they go, too.
        size_bytes: of the text of the segments that go.
        kept: what needs the records behind them, the most demanding first.
    """

    first_sequence: int
    last_sequence: int
    segments: tuple[str, ...]
    leftovers: tuple[str, ...]
    size_bytes: int
    kept: tuple[Keeper, ...]


def needs(
    state: EngineState, records: Iterable[RawRecord], projections: Mapping[str, int]
) -> tuple[Keeper, ...]:
    """Return what keeps records, each with the first sequence that it needs.

    Args:
        records: the whole journal; not read further than needed.
        projections: by name, the last sequence that is in its stored state.
    """
    messages = _needed_messages(state)
    operations = {
        f"operation/{one.operation_id}": f"operation {one.operation_id!r} is not at its end"
        for one in state.unfinished()
    }
    found = [
        Keeper(what=f"projection {name!r} has not seen it", sequence=position + 1)
        for name, position in projections.items()
    ]
    for record in records:
        if not messages and not operations:
            break
        if (what := operations.pop(record.stream, None)) is not None:
            found.append(Keeper(what=what, sequence=record.sequence))
        wanted = messages.get(record.stream)
        if wanted and (last := _last_message(record)):
            for one in [one for one in wanted if one.sequence <= last]:
                found.append(Keeper(what=one.what, sequence=record.sequence))
                wanted.remove(one)
            if not wanted:
                del messages[record.stream]
    return tuple(sorted(found, key=lambda one: one.sequence))


def _needed_messages(state: EngineState) -> dict[str, list[Keeper]]:
    """Return by stream of messages who needs them; ``sequence`` is a message's here."""
    wanted: dict[str, list[Keeper]] = {}
    for life in state.kernels.values():
        marks = state.marks[life.kernel_id]
        if life.is_terminal:
            continue
        kernel = f"kernel {life.kernel_id!r}"
        one = wanted.setdefault(f"messages/{life.kernel_id}", [])
        if life.recovery_points:
            oldest = min(life.recovery_points, key=lambda point: point.replay_from)
            what = f"{kernel}, recovery point {oldest.checkpoint!r}, replays it"
            one.append(Keeper(what=what, sequence=oldest.replay_from))
        else:
            one.append(Keeper(what=f"{kernel} has no recovery point yet", sequence=1))
        one += [
            Keeper(
                what=f"{kernel}, consumer {name!r}, has not acknowledged it", sequence=position[0]
            )
            for name, position in marks.consumers.items()
        ]
    return wanted


def _last_message(record: RawRecord) -> int:
    """Return the number of the last message that was accepted with a record, 0 for none."""
    last = 0
    for plain in record.events:
        if plain.get("type") == MessagesAccepted.wire_name:
            last = load_integer(plain["first_sequence"]) + len(plain["types"]) - 1
        elif plain.get("type") == BulkMessageAccepted.wire_name:
            last = load_integer(plain["sequence"])
    return last


def plan(
    segments: Iterable[Segment],
    leftovers: Iterable[str],
    kept: tuple[Keeper, ...],
    *,
    to_sequence: int | None = None,
) -> ArchivePlan:
    """Return which of the oldest segments may go.

    Args:
        segments: all that are finished, oldest first.
        to_sequence: nothing behind it goes.
    """
    end = min((one.sequence - 1 for one in kept), default=2**63)
    end = end if to_sequence is None else min(end, to_sequence)
    going: list[Segment] = []
    for segment in segments:
        if segment.last_sequence > end:
            break
        going.append(segment)
    while going and going[-1].last_sequence < going[-1].name.first_sequence:
        going.pop()  # an empty one holds no record to build upon
    return ArchivePlan(
        first_sequence=going[0].name.first_sequence if going else 0,
        last_sequence=going[-1].last_sequence if going else 0,
        segments=tuple(str(one.name) for one in going),
        leftovers=tuple(leftovers),
        size_bytes=sum(one.size_bytes for one in going),
        kept=kept,
    )


async def archive(
    journal: Journal,
    files: FileSystem,
    root: Path,
    *,
    target: Path | None,
    delete: bool = False,
    to_sequence: int | None = None,
    dry_run: bool = False,
    actor: str = "",
    reason: str = "",
) -> ArchivePlan:
    """Archive the oldest part of an open journal; return what was done, or would be.

    Args:
        root: the engine's folder.
        target: the folder that the segments go to; None only to ``delete`` them.
        to_sequence: nothing behind it goes; None: whatever may.
    Raises:
        UsageError: neither ``target`` nor ``delete``, or both.
        ConflictError: ``target`` holds other segments of the same names; nothing was changed.
        StorageError: the disk failed; the journal is as before or begins at the new base, and the
            next archiving finishes what is left.
    """
    if (target is None) is not delete and not dry_run:
        raise UsageError("give the folder that the segments go to, or delete=True, but not both")
    codec = default_codec()
    work = _Work(journal, files, root, codec, to_sequence)
    try:
        planned = await in_thread(work.plan)
        if dry_run or not (planned.segments or planned.leftovers):
            return planned
        if target is not None:
            await in_thread(partial(work.check_target, planned, target))
        base = journal.base
        if planned.segments:
            base = await in_thread(partial(work.write_base, planned))
        assert base is not None  # leftovers are what it stands for
        going = _going(planned)
        done = JournalArchived(
            first_sequence=going[0].first_sequence,
            last_sequence=base.place.sequence,
            head=base.place.hash,
            segments=tuple(map(str, going)),
            folder="" if target is None else str(target),
            actor=actor,
            reason=reason,
        )
        await journal.until_durable(journal.append("engine", [done]))
        journal.rebase(base)
        await in_thread(partial(work.remove, planned, target))
    except OSError as error:
        raise StorageError(f"archiving failed: {error}; mend that and archive again") from error
    return planned


async def archive_folder(
    path: Path,
    *,
    target: Path | None,
    delete: bool = False,
    to_sequence: int | None = None,
    dry_run: bool = False,
    actor: str = "",
    reason: str = "",
    files: FileSystem | None = None,
) -> ArchivePlan:
    """Like ``archive``, for a folder that no engine has open; a dry run takes no lock.

    Raises:
        FolderInUseError: an engine has it open; nothing was changed.
        NotFoundError: there is no journal.
    """
    files = files or SystemFiles()
    root = find_journal(path, files).parent
    if dry_run:
        return await in_thread(partial(_plan_unopened, files, root, to_sequence))
    fold = Fold(default_codec(), StateSnapshots(files, root).load())
    async with open_journal(root, files=files, replay=fold) as journal:
        return await archive(
            journal,
            files,
            root,
            target=target,
            delete=delete,
            to_sequence=to_sequence,
            actor=actor,
            reason=reason,
        )


def _plan_unopened(files: FileSystem, root: Path, to_sequence: int | None) -> ArchivePlan:
    folder = root / JOURNAL_FOLDER
    scan = Scan(files, folder)
    fold = Fold(default_codec())
    run_replay(scan, fold)
    kept = needs(
        fold.state, Scan(files, folder).records(), FileProjections(root, files=files).positions()
    )
    leftovers = map(str, scan.history.leftovers)
    return plan(scan.segments[:-1], leftovers, kept, to_sequence=to_sequence)


@attrs.frozen
class _Work:
    """The blocking parts, on what is durable: the live state is ahead of it."""

    journal: Journal
    files: FileSystem
    root: Path
    codec: EventCodec
    to_sequence: int | None

    def plan(self) -> ArchivePlan:
        segments = self.journal.segments()
        durable = self.journal.durable_sequence
        state = self._fold(durable).state
        kept = needs(
            state,
            self.journal.read(0, durable),
            FileProjections(self.root, files=self.files).positions(),
        )
        leftovers: list[SegmentName] = []
        if self.journal.base is not None:
            leftovers = leftover_segments(self.files, self._folder, segments[0].name)
        return plan(segments[:-1], map(str, leftovers), kept, to_sequence=self.to_sequence)

    def write_base(self, planned: ArchivePlan) -> Foundation:
        last = next(one for one in self.journal.segments() if str(one.name) == planned.segments[-1])
        folded = self._fold(last.last_sequence).foundation()
        place = attrs.evolve(folded.place, hash=last.hash, durable=last.last_sequence)
        base = attrs.evolve(folded, place=place)
        write_base(self.files, self._folder, base)
        return base

    def check_target(self, planned: ArchivePlan, target: Path) -> None:
        check_target(self.files, self._folder, _going(planned), target)

    def remove(self, planned: ArchivePlan, target: Path | None) -> None:
        remove_segments(self.files, self._folder, _going(planned), target)
        remove_old_bases(self.files, self._folder)
        if self.journal.base is not None:
            StateSnapshots(self.files, self.root).keep(self.journal.base.place.sequence + 1, 2**63)

    @property
    def _folder(self) -> Path:
        return self.root / JOURNAL_FOLDER

    def _fold(self, to_sequence: int) -> Fold:
        """Return the fold up to a sequence; the last record at least is read."""
        base = self.journal.base
        floor = base.place.sequence if base else 0
        snapshots = StateSnapshots(self.files, self.root).load()
        known = (one for one in snapshots if floor < one.place.sequence < to_sequence)
        fold = Fold(self.codec)
        fold.begin(next(known, base))
        for record in self.journal.read(fold.sequence + 1, to_sequence):
            fold.take(record)
        return fold


def _going(planned: ArchivePlan) -> list[SegmentName]:
    names = [SegmentName.parse(name) for name in (*planned.leftovers, *planned.segments)]
    return [one for one in names if one]
