"""Folding a journal while it is verified, from the newest foundation that holds.

- A snapshot that the journal doesn't hold, or that can't be read, is passed over, never trusted.
- The state and the rules begin at the same place: either both from a snapshot, or both from the
  base record, or both from the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ringflow.errors import CorruptError, CorruptJournalError
from ringflow.journal.foundation import Foundation, Place, base_name
from ringflow.journal.record import RawRecord
from ringflow.journal.scan import Scan


class Replay(Protocol):
    """What is folded from a journal; used by one thread."""

    def snapshots(self) -> Iterator[Foundation]:
        """Yield what may be begun with, the newest first."""

    def begin(self, foundation: Foundation | None) -> None:
        """Start over from a foundation, from nothing if None.

        Raises:
            CorruptError: its state can't be read.
        """

    def take(self, record: RawRecord) -> None:
        """Fold the next record in; what it raises ends the replay."""


def run_replay(scan: Scan, replay: Replay) -> None:
    """Verify the journal to its end and give ``replay`` every record from where it begins.

    Raises:
        CorruptJournalError: the base record or a record from there on is damaged.
    """
    start = _begin(scan, replay)
    for record in scan.records(start):
        replay.take(record)


def _begin(scan: Scan, replay: Replay) -> Place | None:
    for snapshot in replay.snapshots():
        if not scan.history.holds(snapshot.place):
            continue
        try:
            replay.begin(snapshot)
        except CorruptError:
            continue
        return snapshot.place
    try:
        replay.begin(scan.base)
    except CorruptError as error:
        assert scan.base is not None
        name = base_name(scan.base.place.sequence)
        raise CorruptJournalError(name, 1, None, str(error)) from error
    return None
