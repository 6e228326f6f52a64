"""Golden journals: folders of each format version, good and bad ones, with their verdicts.

``python -m tests.journal.golden`` writes those that are missing, with the verdict of today. A
released one is never changed: what could be read once must be read for ever, and what is bad must
be found for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import orjson

from ringflow.clock import ManualClock
from ringflow.errors import RingflowError
from ringflow.events.chain import seal
from ringflow.events.codec import Event
from ringflow.events.lifecycle import KernelLaunched
from ringflow.events.messages import MessagesAccepted
from ringflow.events.registry import EVENT_TYPES, default_codec
from ringflow.files import FileSystem
from ringflow.journal.api import JournalLimits
from ringflow.journal.opening import open_journal
from ringflow.journal.reader import read_records, verify
from ringflow.journal.record import FORMAT
from ringflow.simulate.files import CrashingFiles
from tests.events.samples import sample
from tests.journal.sample import record_line

FOLDER: Final = Path(__file__).parents[1] / "golden" / FORMAT
ENGINE: Final = Path("/engine")
_JOURNAL: Final = ENGINE / "journal"
_SMALL: Final = JournalLimits(segment_bytes=2000, batch_bytes=1)


async def _append(
    files: FileSystem, events: Sequence[Sequence[Event]], limits: JournalLimits
) -> None:
    async with open_journal(ENGINE, files=files, clock=ManualClock(), limits=limits) as journal:
        for one in events:
            await journal.until_durable(journal.append("golden", one))


def closed(*, parts: int = 8) -> CrashingFiles:
    """Return a closed journal of two epochs that holds every event type."""
    files = CrashingFiles()
    events = [sample(kind) for kind in EVENT_TYPES]
    step = -(-len(events) // parts)
    records = [events[at : at + step] for at in range(0, len(events), step)]
    anyio.run(_append, files, records[: parts // 2], _SMALL)
    anyio.run(_append, files, records[parts // 2 :], _SMALL)
    return files


def crashed() -> CrashingFiles:
    """Return a journal whose writer died after three acknowledged records."""

    async def run() -> CrashingFiles:
        files = CrashingFiles()
        async with open_journal(
            ENGINE, files=files, clock=ManualClock(), limits=JournalLimits(segment_bytes=4000)
        ) as journal:
            for number in range(3):
                event = KernelLaunched(kernel_id="k", device=f"host:{number}")
                await journal.until_durable(journal.append("kernel/k", [event]))
            return files.after_crash()

    return anyio.run(run)


def segments(files: CrashingFiles) -> list[Path]:
    return [_JOURNAL / name for name in files.names(_JOURNAL)]


def _poked(files: CrashingFiles, path: Path, change: Callable[[bytes], bytes]) -> CrashingFiles:
    files.poke(path, change(files.read(path)))
    return files


def torn() -> CrashingFiles:
    files = crashed()
    return _poked(files, segments(files)[-1], lambda data: data.rstrip(b"\0")[:-30])


def late_bytes() -> CrashingFiles:
    files = crashed()
    stalled = segments(files)[-1]
    anyio.run(_append, files, [[KernelLaunched(kernel_id="k", device="host:9")]], _SMALL)
    return _poked(files, stalled, lambda data: data + b'{"late":1}\n')


def flipped() -> CrashingFiles:
    files = crashed()
    return _poked(files, segments(files)[-1], lambda data: data.replace(b"host:0", b"host:1", 1))


def lost_line() -> CrashingFiles:
    files = crashed()

    def without_second(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        return b"".join([*lines[:2], *lines[3:]])

    return _poked(files, segments(files)[-1], without_second)


def lost_segment() -> CrashingFiles:
    files = closed()
    files.erase(segments(files)[1])
    return files


def sealed_cut_off() -> CrashingFiles:
    files = closed()
    return _poked(files, segments(files)[0], lambda data: data[: len(data) // 2])


def other_format() -> CrashingFiles:
    files = crashed()

    def changed(data: bytes) -> bytes:
        first, rest = data.split(b"\n", 1)
        line, _ = seal(first[:-75].replace(FORMAT.encode(), b"ringflow-journal-9") + b"}")
        return line + rest

    return _poked(files, segments(files)[-1], changed)


def _with_event(**event: object) -> CrashingFiles:
    """Return the crashed journal with one more sealed record, of this plain event."""
    files = crashed()
    path = segments(files)[-1]
    data = files.read(path).rstrip(b"\0")
    last = orjson.loads(data.splitlines()[-1])
    line = record_line(
        sequence=last["seq"] + 1,
        at_ns=int(last["at_ns"]),
        epoch=last["epoch"],
        stream="kernel/k",
        version=last["version"] + 1,
        durable=last["seq"],
        events=[event],
        previous_hash=last["hash"],
    )
    files.poke(path, data + line)
    return files


def unknown_event() -> CrashingFiles:
    return _with_event(kernel_id="k", type="kernel.teleported.v1")


def unknown_field() -> CrashingFiles:
    return _with_event(device="d", extra=1, kernel_id="k", type="kernel.launched.v1")


def negative_count() -> CrashingFiles:
    plain = default_codec().to_plain(sample(MessagesAccepted)) | {"first_sequence": -1}
    return _with_event(**plain)


CASES: Final = (
    closed,
    crashed,
    torn,
    late_bytes,
    flipped,
    lost_line,
    lost_segment,
    sealed_cut_off,
    other_format,
    unknown_event,
    unknown_field,
    negative_count,
)


def verdict(path: Path, *, files: FileSystem | None = None) -> dict[str, Any]:
    """Return what reading says of a journal, as plain JSON values."""
    codec = default_codec()
    try:
        report = verify(path, files=files)
        decoded = sum(
            len(record.decoded(codec).events) for record in read_records(path, files=files)
        )
    except RingflowError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {
        "records": report.records,
        "events": decoded,
        "head": report.head,
        "closed_cleanly": report.closed_cleanly,
        "torn": [one.size_bytes for one in report.torn],
        "ignored": [one.size_bytes for one in report.ignored],
    }


def main() -> None:
    """Write the journals and verdicts that are missing."""
    for case in CASES:
        folder = FOLDER / case.__name__
        if not folder.exists():
            folder.mkdir(parents=True)
            files = case()
            for path in segments(files):
                (folder / path.name).write_bytes(files.read(path))
            plain = orjson.dumps(verdict(folder), option=orjson.OPT_INDENT_2)
            (folder / "verdict.json").write_bytes(plain + b"\n")
            print(f"added {case.__name__}: {plain.decode()}")


if __name__ == "__main__":
    main()
