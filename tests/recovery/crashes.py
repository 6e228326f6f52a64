"""Engines on a file-system double whose power can be switched off."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import ringflow
from ringflow.events.engine import TornTailCut
from ringflow.simulate.files import CrashingFiles

FOLDER: Final = Path("/engine")


@asynccontextmanager
async def engine_on(
    files: CrashingFiles, devices: Sequence[Any] = ("host:0", "host:1"), **options: Any
) -> AsyncIterator[ringflow.Engine]:
    """Open an engine on a double; its end after a crash is expected to fail."""
    try:
        async with ringflow.open_engine(FOLDER, devices=devices, files=files, **options) as engine:
            yield engine
    except ringflow.StorageError:
        if not files.has_crashed:
            raise


def crash(files: CrashingFiles) -> CrashingFiles:
    """Switch the power off now; return what the next boot finds."""
    after = files.after_crash()
    files.crash_before_step(0)
    return after


async def events_of(engine: ringflow.Engine, wire_name: str) -> list[Any]:
    """Return the events of a type in the journal's order, all that were recorded until now."""
    journal = engine._core.journal
    await journal.until_durable(
        journal.append("test", [TornTailCut(segment="", cut_bytes=0, backup="")])
    )
    return [
        event
        for record in journal.records()
        for event in record.events
        if event.wire_name == wire_name
    ]
