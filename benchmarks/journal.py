"""The journal's speed: an acknowledged append against a bare write and fdatasync, and the rest.

Bare and journaled appends take turns in one run on one disk; the medians count.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Final

import anyio

from benchmarks.table import Row, at_least, at_most, choices, finish, median
from ringflow.events.messages import MessagesAccepted
from ringflow.journal.api import JournalLimits
from ringflow.journal.opening import open_journal
from ringflow.journal.reader import verify
from ringflow.journal.writer import JournalWriter

STREAM: Final = "messages/bench"
BARE_BYTES: Final = 400  # about the size of a record with one small message


def message(sequence: int) -> MessagesAccepted:
    """Return the event of one accepted message with a payload of 16 bytes."""
    return MessagesAccepted(
        kernel_id="bench",
        first_sequence=sequence,
        types=(1,),
        payloads=(bytes(16),),
        producers=("",),
        numbers=(0,),
    )


async def round_trip(journal: JournalWriter, folder: Path, count: int) -> Row:
    """Time ``count`` pairs of a bare append and a journaled one."""
    bare: list[float] = []
    journaled: list[float] = []
    descriptor = os.open(folder / "bare", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        for sequence in range(1, count + 1):
            start = time.perf_counter()
            os.write(descriptor, bytes(BARE_BYTES))
            os.fdatasync(descriptor)
            middle = time.perf_counter()
            append = journal.append(STREAM, [message(sequence)])
            await journal.until_durable(append)
            journaled.append(time.perf_counter() - middle)
            bare.append(middle - start)
    finally:
        os.close(descriptor)
    ratio = median(journaled) / median(bare)
    return at_most("acknowledged append / bare write and fdatasync", ratio, "times", 2.0)


async def group_commit(journal: JournalWriter, writers: int, rounds: int) -> Row:
    """Count the acknowledged appends of many writers a second."""

    async def write() -> None:
        for sequence in range(1, rounds + 1):
            await journal.until_durable(journal.append(STREAM, [message(sequence)]))

    start = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(writers):
            tasks.start_soon(write)
    rate = writers * rounds / (time.perf_counter() - start)
    return at_least(f"acknowledged appends, {writers} writers", rate, "1/s", 10_000)


async def measure(backend: str, *, quick: bool) -> list[Row]:
    """Run all parts on one backend; the rows are named after it."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with open_journal(folder, limits=JournalLimits(reserve_bytes=0)) as journal:
            rows.append(await round_trip(journal, folder, 20 if quick else 500))
            rows.append(await group_commit(journal, 64, 5 if quick else 200))
        start = time.perf_counter()
        records = verify(folder).records
        rate = records / (time.perf_counter() - start)
        rows.append(at_least("records verified", rate, "1/s", 50_000))
    return [Row(f"{row.name} ({backend})", *_rest(row)) for row in rows]


def _rest(row: Row) -> tuple[float, str, float | None, bool]:
    return row.value, row.unit, row.goal, row.met


def main() -> int:
    """Measure under both backends."""
    given = choices("The journal's speed.")
    rows: list[Row] = []
    for backend in ("asyncio", "trio"):
        rows += anyio.run(partial(measure, backend, quick=given.quick), backend=backend)
    return finish("Journal", rows, given)


if __name__ == "__main__":
    sys.exit(main())
