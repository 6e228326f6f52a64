"""A journal in memory: the same promises but for the durability; for tests and simulations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from ringflow.clock import Clock, SystemClock
from ringflow.events.codec import Event, EventCodec
from ringflow.events.registry import EVENT_TYPES
from ringflow.events.upcasters import UPCASTERS
from ringflow.journal.api import JournalLimits, OpeningReport
from ringflow.journal.log import MemoryLog
from ringflow.journal.opening import running
from ringflow.journal.writer import JournalWriter


@asynccontextmanager
async def open_memory_journal(
    log: MemoryLog | None = None,
    *,
    clock: Clock | None = None,
    types: Sequence[type[Event]] = EVENT_TYPES,
    limits: JournalLimits | None = None,
) -> AsyncIterator[JournalWriter]:
    """Yield a journal over ``log``; the same ``log`` again continues the history."""
    log = log if log is not None else MemoryLog()
    log.begin(clock or SystemClock())
    report = OpeningReport(
        epoch=log.epoch, last_sequence=log.sequence, head=log.head, closed_cleanly=True
    )
    journal = JournalWriter(
        log,
        EventCodec(types, UPCASTERS),
        limits or JournalLimits(),
        report,
        versions=log.versions,
        in_thread=False,
    )
    async with running(journal):
        yield journal
