"""Events of the engine as a whole (stream ``engine``)."""

from __future__ import annotations

from typing import ClassVar, Final

from ringflow.events.base import event


@event
class EngineOpened:
    """An engine opened the folder; every device effect of earlier epochs is void."""

    wire_name: ClassVar[str] = "engine.opened.v1"
    version: str
    devices: tuple[str, ...]
    tables_digest: str


@event
class TornTailCut:
    """The journal's unsynced tail was backed up and cut."""

    wire_name: ClassVar[str] = "engine.torn_tail_cut.v1"
    segment: str
    cut_bytes: int
    backup: str


@event
class EngineClosed:
    """The engine was closed in order, all kernels at rest."""

    wire_name: ClassVar[str] = "engine.closed.v1"


@event
class JournalRepaired:
    """A person had the journal cut at damage; what was durable after it is gone.

    Attributes:
        segment, line: where the damage was; ``damage`` says which.
        last_sequence: the last record that was kept.
        lost_records: whole records behind the damage, where they could still be counted.
        cut_bytes: what was taken out; the folder ``backup`` beside the segments keeps it.
    """

    wire_name: ClassVar[str] = "engine.journal_repaired.v1"
    segment: str
    line: int
    damage: str
    last_sequence: int
    lost_records: int
    cut_bytes: int
    backup: str
    actor: str
    reason: str


@event
class JournalArchived:
    """The oldest records were taken out; the journal's base record stands for them.

    Attributes:
        first_sequence, last_sequence: of the records that went.
        head: the hash of the last line that went.
        segments: the names of the segments that went to ``folder``; empty: they were deleted.
    """

    wire_name: ClassVar[str] = "engine.journal_archived.v1"
    first_sequence: int
    last_sequence: int
    head: str
    segments: tuple[str, ...]
    folder: str
    actor: str
    reason: str


EVENT_TYPES: Final = (EngineOpened, TornTailCut, EngineClosed, JournalRepaired, JournalArchived)
