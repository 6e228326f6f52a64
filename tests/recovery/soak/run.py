"""The soak: folders, each with many lives of a worker, checked after each of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from ringflow.events.registry import default_codec
from ringflow.files import SystemFiles
from ringflow.journal.reader import read_records
from ringflow.journal.record import Record
from ringflow.journal.scan import Scan
from tests.recovery.soak import killer
from tests.recovery.soak.checks import evidence, problems
from tests.recovery.soak.witness import read_effects, read_notes
from tests.recovery.soak.worker import EFFECTS, ENGINE, WITNESS

KILLS_A_FOLDER: Final = 12


@attrs.define
class Totals:
    """What a soak went through."""

    kills: int = 0
    restarts: int = 0
    messages: int = 0
    outputs: int = 0
    states: int = 0
    torn: int = 0
    operations: Counter[str] = attrs.field(factory=Counter)

    def __str__(self) -> str:
        done = ", ".join(f"{count} {what}" for what, count in sorted(self.operations.items()))
        return (
            f"{self.kills} kills, {self.restarts} restarts, {self.messages} messages, "
            f"{self.outputs} outputs stored, {self.states} states compared, {self.torn} torn "
            f"tails; operations: {done}"
        )


def soak(folder: Path, *, kills: int, seed: int, tell: Callable[[str], None] = print) -> Totals:
    """Kill ``kills`` workers; raises ``AssertionError`` with what is wrong, and in which folder."""
    totals, choice = Totals(), random.Random(seed)
    for number, first in enumerate(range(0, kills, KILLS_A_FOLDER)):
        place = folder / f"folder-{number}"
        place.mkdir(parents=True)
        count = min(KILLS_A_FOLDER, kills - first)
        try:
            _soak_one(place, count, choice, totals)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, folder {str(place)!r}: {error}") from error
        tell(f"folder {number}: {totals}")
    return totals


def _soak_one(folder: Path, kills: int, choice: random.Random, totals: Totals) -> None:
    known: list[str] = []
    for life in range(1, kills + 1):
        plan, seed = killer.draw(choice), choice.getrandbits(32)
        try:
            killer.live_and_die(folder, life, seed, plan)
            totals.kills += 1
            known = check(folder, known, totals, last=False)
        except Exception as error:
            raise AssertionError(f"life {life}, killed by {plan}: {error}") from error
    killer.live_and_settle(folder)
    check(folder, known, totals, last=True)


def read_records_of(folder: Path) -> list[Record]:
    """Return the verified records of a soak's folder."""
    codec = default_codec()
    return [record.decoded(codec) for record in read_records(folder / ENGINE)]


def check(folder: Path, known: list[str], totals: Totals, *, last: bool) -> list[str]:
    """Check all that is known of a folder; return the hashes of its records.

    Args:
        known: the hashes at the last check; they must be the beginning of the present ones.
    """
    scan = Scan(SystemFiles(), folder / ENGINE / "journal")
    codec = default_codec()
    records: list[Record] = [record.decoded(codec) for record in scan.records()]
    notes, effects = read_notes(folder / WITNESS), read_effects(folder / EFFECTS)
    found = evidence(records, notes, effects)
    wrong = problems(found)
    hashes = [record.hash for record in records]
    if hashes[: len(known)] != known:
        wrong.append("records that were whole after an earlier kill are gone or changed")
    if last and not scan.chain.closed:
        wrong.append("the journal of an orderly end is not closed")
    totals.torn += len(scan.torn)
    if last:
        totals.restarts += len(found.of_kind("opened"))
        totals.messages += len(found.history.messages)
        totals.outputs += len(effects)
        totals.states += len(found.of_kind("state"))
        totals.operations.update(note["what"] for note in found.of_kind("operation"))
        wrong += _unread(found.reference.last, [one.sequence for one in effects])
    assert not wrong, "\n".join(wrong[:10])
    return hashes


def _unread(last: int, sequences: list[int]) -> list[str]:
    end = sequences[-1] if sequences else 0
    return [] if end == last else [f"effects end at message {end}, the kernel at {last}"]
