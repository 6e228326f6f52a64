"""How fast the journal writes, in ratios to a bare file and to others on the same disk.

- Every round measures each in turn; the medians of the rounds' ratios count. One writer's appends
  take turns with the bare ones, one by one, so that both meet the same disk and the same load.
- The bare file grows with each append, as one does that nobody reserves space for.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from benchmarks.journal_peers import PEERS, WRITERS, Write, in_threads, installed
from benchmarks.table import Row, at_least, median
from ringflow.events.messages import MessagesAccepted
from ringflow.journal.api import JournalLimits
from ringflow.journal.opening import open_journal
from ringflow.journal.writer import JournalWriter

STREAM: Final = "messages/bench"
RECORD_BYTES: Final = 420  # a line with one small message
GOALS: Final = {"eventsourcing": 20.0, "dbos": 50.0}


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


def bare(descriptor: int) -> float:
    """Append and sync once; return the seconds."""
    start = time.perf_counter()
    os.write(descriptor, bytes(RECORD_BYTES))
    os.fdatasync(descriptor)
    return time.perf_counter() - start


def bare_hashed(descriptor: int) -> float:
    """Append and sync once, with the hash that a chain needs; return the seconds."""
    start = time.perf_counter()
    data = bytes(RECORD_BYTES)
    os.write(descriptor, data[64:] + hashlib.sha256(data).hexdigest().encode())
    os.fdatasync(descriptor)
    return time.perf_counter() - start


async def one_writer(journal: JournalWriter, sequence: int) -> float:
    """Append once and wait until that is acknowledged; return the seconds."""
    start = time.perf_counter()
    await journal.until_durable(journal.append(STREAM, [message(sequence)]))
    return time.perf_counter() - start


async def in_turns(journal: JournalWriter, descriptor: int, count: int) -> dict[str, float]:
    """Let the three take turns; return the appends a second that each one's median makes."""
    times: dict[str, list[float]] = {"bare": [], "bare with SHA-256": [], "one writer": []}
    for sequence in range(1, count + 1):
        times["bare"].append(bare(descriptor))
        times["one writer"].append(await one_writer(journal, sequence))
        times["bare with SHA-256"].append(bare_hashed(descriptor))
    return {name: 1 / median(spent) for name, spent in times.items()}


async def many_writers(journal: JournalWriter, rounds: int) -> float:
    """Let ``WRITERS`` tasks append at once; return acknowledged appends a second."""

    async def write(stream: str) -> None:
        for sequence in range(1, rounds + 1):
            await journal.until_durable(journal.append(stream, [message(sequence)]))

    start = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for number in range(WRITERS):
            tasks.start_soon(write, f"{STREAM}{number}")
    return WRITERS * rounds / (time.perf_counter() - start)


def peer(write: Write, rounds: int) -> float:
    """Return the events that a peer's writers made durable a second."""
    start = time.perf_counter()
    return in_threads(write, rounds) / (time.perf_counter() - start)


async def rounds_of(folder: Path, *, quick: bool) -> list[dict[str, float]]:
    """Measure everything in turns; a round is a rate by name."""
    count, many = (20, 4) if quick else (200, 200)
    descriptor = os.open(folder / "bare", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    rates: list[dict[str, float]] = []
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        peers = {name: stack.enter_context(PEERS[name](folder)) for name in installed()}
        async with open_journal(folder, limits=JournalLimits(reserve_bytes=0)) as journal:
            for _ in range(2 if quick else 7):
                one = await in_turns(journal, descriptor, count)
                one["many writers"] = await many_writers(journal, many)
                for name, write in peers.items():
                    call: Callable[[], float] = partial(peer, write, 2 if quick else 10)
                    one[name] = await anyio.to_thread.run_sync(call)
                rates.append(one)
    return rates


def ratio(rates: list[dict[str, float]], above: str, below: str) -> float:
    return median([one[above] / one[below] for one in rates])


def rows_of(rates: list[dict[str, float]], backend: str) -> list[Row]:
    """Return the table's rows; rates themselves are information."""
    many = f"{WRITERS} writers"
    rows = [
        at_least(
            f"one writer / bare append, SHA-256 and fdatasync ({backend})",
            ratio(rates, "one writer", "bare with SHA-256"),
            "times",
            0.75,
        ),
        at_least(
            f"{many} / one bare append and fdatasync ({backend})",
            ratio(rates, "many writers", "bare"),
            "times",
            6.0,
        ),
    ]
    rows += [
        at_least(
            f"{many} / {name} on SQLite, {many} ({backend})",
            ratio(rates, "many writers", name),
            "times",
            goal,
        )
        for name, goal in GOALS.items()
        if name in rates[0]
    ]
    rows += [
        Row(f"{name} ({backend})", median([one[name] for one in rates]), "1/s") for name in rates[0]
    ]
    return rows


async def measure(folder: Path, backend: str, *, quick: bool) -> list[Row]:
    return rows_of(await rounds_of(folder, quick=quick), backend)
