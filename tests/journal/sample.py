"""Events, journals and checks that the journal's tests share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar

import attrs
import zstandard

from ringflow.clock import Clock, ManualClock
from ringflow.events.chain import seal
from ringflow.events.values import canonical_json, dump_integer
from ringflow.files import FileSystem
from ringflow.journal.api import Journal, JournalLimits
from ringflow.journal.opening import open_journal
from ringflow.journal.reader import read_records
from ringflow.journal.record import RawRecord
from ringflow.journal.writer import JournalWriter
from ringflow.simulate.files import CrashingFiles

FOLDER = Path("/engine")
JOURNAL = FOLDER / "journal"


@attrs.frozen(kw_only=True)
class Noted:
    wire_name: ClassVar[str] = "test.noted.v1"
    text: str
    data: bytes = b""


TYPES = (Noted,)
OpenJournal = Callable[..., AbstractAsyncContextManager[JournalWriter]]


def note(text: str) -> list[Noted]:
    return [Noted(text=text)]


def opened(
    files: FileSystem, *, clock: Clock | None = None, limits: JournalLimits | None = None
) -> AbstractAsyncContextManager[JournalWriter]:
    """Open the journal in ``FOLDER`` of a file-system double."""
    return open_journal(
        FOLDER, files=files, clock=clock or ManualClock(), types=TYPES, limits=limits
    )


async def write_durably(journal: Journal, texts: list[str], stream: str = "s") -> None:
    """Append one record for each text, each acknowledged before the next is asked for."""
    for text in texts:
        await journal.until_durable(journal.append(stream, note(text)))


def texts_of(journal: Journal) -> list[str]:
    """Return the texts of the durable history in order."""
    return [
        event.text
        for record in journal.records()
        for event in record.events
        if isinstance(event, Noted)
    ]


def texts_on_disk(files: FileSystem, path: Path = FOLDER) -> list[str]:
    """Return the texts as the read-only reader finds them."""
    return [text_of(record) for record in read_records(path, files=files)]


def record_line(
    *,
    sequence: int,
    at_ns: int,
    epoch: int,
    version: int,
    durable: int,
    previous_hash: str,
    stream: str = "s",
    events: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """Return a sealed line as the format's page has it, whatever it says."""
    record = {
        "at_ns": dump_integer(at_ns),
        "durable": durable,
        "epoch": epoch,
        "events": [*events],
        "prev": previous_hash,
        "seq": sequence,
        "stream": stream,
        "version": version,
    }
    line, _ = seal(canonical_json(record))
    return line


def unseal(files: CrashingFiles) -> None:
    """Put the plain file in the place of every sealed one, as ``zstd -d --rm`` would."""
    for name in files.names(JOURNAL):
        if name.endswith(".zst"):
            text = zstandard.ZstdDecompressor().decompress(files.read(JOURNAL / name))
            files.poke(JOURNAL / name.removesuffix(".zst"), text)
            files.erase(JOURNAL / name)


def text_of(record: RawRecord) -> str:
    text: str = record.events[0]["text"]
    return text
