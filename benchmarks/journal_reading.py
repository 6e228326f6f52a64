"""How fast a journal is verified, folded and opened, and what memory that takes.

- One event a record, as an engine writes messages that arrive one by one: the slowest case.
- Memory is the peak of a process of its own that does nothing else, less the folded state.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import anyio

from benchmarks.table import Row, at_least, at_most, choices, finish, median
from ringflow.clock import SystemClock
from ringflow.engine.folding import Fold
from ringflow.engine.state_snapshots import StateSnapshots
from ringflow.events.codec import Event
from ringflow.events.lifecycle import KernelLaunchRequested
from ringflow.events.messages import MessagesAccepted
from ringflow.events.registry import default_codec
from ringflow.files import SystemFiles
from ringflow.journal.api import Append, JournalLimits
from ringflow.journal.lanes import Pending
from ringflow.journal.log import SegmentLog
from ringflow.journal.opening import open_journal
from ringflow.journal.reader import find_journal
from ringflow.journal.replaying import run_replay
from ringflow.journal.scan import Scan
from ringflow.journal.segments import JOURNAL_FOLDER, LOCK_NAME, Chain
from ringflow.limits import EngineLimits

EVENTS: Final = 1_000_000
BATCH: Final = 2_000
LIMITS: Final = JournalLimits(reserve_bytes=0)


def _events(count: int) -> Iterator[tuple[str, Event]]:
    yield (
        "kernel/bench",
        KernelLaunchRequested(
            kernel_id="bench",
            device="host:0",
            spec_digest="",
            version_id="",
            grid=(1, 1, 1),
            actor="",
            reason="",
        ),
    )
    for sequence in range(1, count):
        yield (
            "messages/bench",
            MessagesAccepted(
                kernel_id="bench",
                first_sequence=sequence,
                types=(1,),
                payloads=(sequence.to_bytes(16, "little"),),
                producers=("sender",),
                numbers=(sequence,),
            ),
        )


def write_journal(folder: Path, count: int) -> None:
    """Write a journal of ``count`` records, as the writer's thread would, with fewer syncs."""
    codec = default_codec()
    files = SystemFiles()
    files.make_folder(folder / JOURNAL_FOLDER)
    lock = files.lock(folder / LOCK_NAME)
    log = SegmentLog(
        files,
        folder / JOURNAL_FOLDER,
        SystemClock(),
        lock=lock,
        segments=(),
        chain=Chain(),
        unsealed=(),
        epoch=1,
        segment_bytes=LIMITS.segment_bytes,
    )
    versions: dict[str, int] = {}
    events = _events(count)
    while batch := list(islice(events, BATCH)):
        pending = []
        for stream, event in batch:
            versions[stream] = versions.get(stream, 0) + 1
            data = codec.encode([event])
            pending.append(Pending(Append(stream, versions[stream]), [event], data))
        log.write(pending)
    log.close()
    lock.release()


def replay(folder: Path) -> Fold:
    """Verify and fold a whole journal."""
    fold = Fold(default_codec())
    run_replay(Scan(SystemFiles(), find_journal(folder)), fold)
    return fold


async def opening_s(folder: Path, fold: Fold) -> float:
    """Return how long it takes until a journal is open for writing, its state folded."""
    start = time.perf_counter()
    async with open_journal(folder, limits=LIMITS, replay=fold):
        return time.perf_counter() - start


def save_snapshot(folder: Path, sequence: int) -> None:
    """Save the folded state as of ``sequence``, as an engine does while it works."""
    fold = Fold(default_codec())
    fold.begin(None)
    for record in islice(Scan(SystemFiles(), find_journal(folder)).records(), sequence):
        fold.take(record)
    StateSnapshots(SystemFiles(), folder).save(fold.foundation())


_CHILD: Final = """
import re, sys
from pathlib import Path
from benchmarks.journal_reading import replay
def peak_kb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak_kb()
fold = replay(Path(sys.argv[1]))
print((peak_kb() - before) / 1024)
"""


def replay_memory_mb(folder: Path) -> float:
    """Return by how many MiB the peak memory of a process grows in a replay.

    The folded state of this journal is one kernel and one sender: a few kB.
    """
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder)], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def measure(*, quick: bool) -> list[Row]:
    """Run all parts on one journal."""
    count, tail = (4_000, 1_000) if quick else (EVENTS, EngineLimits().state_snapshot_records)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_journal(folder, count)
        rates = []
        for _ in range(3):
            start = time.perf_counter()
            assert replay(folder).sequence == count
            rates.append(count / (time.perf_counter() - start))
        memory_mb = replay_memory_mb(folder)
        codec = default_codec()
        full_s = anyio.run(opening_s, folder, Fold(codec))
        save_snapshot(folder, count - tail)
        from_snapshot_s = median(
            [
                anyio.run(
                    opening_s, folder, Fold(codec, StateSnapshots(SystemFiles(), folder).load())
                )
                for _ in range(3)
            ]
        )
    events = f"{count:,} events"
    return [
        at_least("replay with verification", median(rates), "events/s", 120_000),
        at_most(f"opening {events}, in full", full_s, "s", 12.0),
        at_most(f"opening {events}, from a snapshot {tail:,} back", from_snapshot_s, "s", 1.0),
        at_most(f"memory while replaying {events}", memory_mb, "MiB", 64.0),
    ]


def main() -> int:
    """Measure and print."""
    given = choices("Reading the journal: replay, opening, memory.")
    return finish("Journal, reading", measure(quick=given.quick), given)


if __name__ == "__main__":
    sys.exit(main())
