"""Snapshots of the folded state: a cache that makes an opening short, and is never trusted.

- A snapshot is the fold of the durable journal up to a sequence, read from the disk: the live
  state is ahead of the durable one and is never written.
- Its own hash, the state's hash, the code's identity and the journal's record at its sequence must
  all agree. Whatever doesn't is passed over, and the journal is folded from further back.
- The newest two are kept; files that are lost cost time only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final, final

from ringflow.engine.core import Core
from ringflow.engine.folding import Fold, code_identity
from ringflow.errors import CorruptError, NotFoundError, StorageError
from ringflow.events.codec import EventCodec
from ringflow.files import FileSystem, write_atomic
from ringflow.journal.api import Journal
from ringflow.journal.foundation import Foundation, decode_foundation, encode_foundation

SNAPSHOT_FOLDER: Final = "snapshots"
_NAME: Final = re.compile(r"state-([0-9]{16})\.json")
_KEPT: Final = 2


@final
class StateSnapshots:
    """The snapshot files of an engine's folder."""

    def __init__(self, files: FileSystem, root: Path) -> None:
        self._files = files
        self._folder = root / SNAPSHOT_FOLDER

    def sequences(self) -> list[int]:
        """Return the sequences that there are snapshots of, newest first."""
        matches = (_NAME.fullmatch(name) for name in self._files.names(self._folder))
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def load(self) -> Iterator[Foundation]:
        """Yield the snapshots that this code may use, newest first."""
        for sequence in self.sequences():
            try:
                found = decode_foundation(self._files.read(self._path(sequence)))
            except (CorruptError, NotFoundError):
                continue
            if found.place.sequence == sequence and found.code == code_identity():
                yield found

    def save(self, foundation: Foundation) -> None:
        """Write one and delete the oldest ones; raises ``OSError``."""
        self._files.make_folder(self._folder)
        path = self._path(foundation.place.sequence)
        write_atomic(self._files, path, [encode_foundation(foundation)])
        for sequence in self.sequences()[_KEPT:]:
            self._files.delete(self._path(sequence))

    def keep(self, from_sequence: int, to_sequence: int) -> None:
        """Delete all that lie outside; both bounds are included."""
        for sequence in self.sequences():
            if not from_sequence <= sequence <= to_sequence:
                self._files.delete(self._path(sequence))

    def _path(self, sequence: int) -> Path:
        return self._folder / f"state-{sequence:016d}.json"


def take_snapshot(journal: Journal, snapshots: StateSnapshots, codec: EventCodec) -> int:
    """Fold what became durable since the newest snapshot and save it; blocking.

    Returns the sequence of the newest snapshot.
    """
    fold = Fold(codec)
    foundation = next(snapshots.load(), None) or journal.base
    try:
        fold.begin(foundation)
    except CorruptError:
        fold.begin(journal.base)
    for record in journal.read(fold.sequence + 1, journal.durable_sequence):
        fold.take(record)
    if fold.sequence > fold.begun_at:
        snapshots.save(fold.foundation())
    return fold.sequence


async def keep_snapshots(
    core: Core, snapshots: StateSnapshots, codec: EventCodec, *, newest: int
) -> None:
    """Take a snapshot whenever enough records came since ``newest``; until the journal ends.

    Args:
        newest: what the opening began with; later snapshots are of another history.
    """
    every, base = core.limits.state_snapshot_records, core.journal.base
    first = base.place.sequence + 1 if base else 1
    await core.in_thread(partial(snapshots.keep, first, newest))
    while every:
        try:
            await core.journal.until_sequence(newest + every)
            newest = await core.in_thread(partial(take_snapshot, core.journal, snapshots, codec))
        except StorageError:  # closed, or damaged: the next opening says where
            return
        except OSError:  # a full disk: it is a cache, the next one may fit
            newest = core.journal.durable_sequence
