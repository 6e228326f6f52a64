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


EVENT_TYPES: Final = (EngineOpened, TornTailCut, EngineClosed)
