"""The checks after each restart: what the witnesses saw against the journal and the reference.

Each check yields the problems that it finds, as sentences; a sound folder has none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, zip_longest
from typing import Any, Final

import attrs

from ringflow.engine.replay import replay_records
from ringflow.journal.record import Record
from tests.recovery.soak.kernel import PRODUCERS, value_of
from tests.recovery.soak.reference import History, Reference, history_of
from tests.recovery.soak.witness import Effect, OutputId

Note = dict[str, Any]
EXACT, LAZY = "exactly-once", "lazy"  # the consumers' names


@attrs.frozen
class Evidence:
    """All that is known of a folder: its records, and what its workers wrote down."""

    records: Sequence[Record]
    notes: Sequence[Note]
    effects: Sequence[Effect]
    history: History
    reference: Reference

    def of_kind(self, kind: str) -> list[Note]:
        return [note for note in self.notes if note["kind"] == kind]

    @property
    def epochs(self) -> dict[int, int]:
        """The epoch of each life that came to work."""
        return {note["life"]: note["epoch"] for note in self.of_kind("opened")}


def evidence(
    records: Sequence[Record], notes: Sequence[Note], effects: Sequence[Effect]
) -> Evidence:
    """Bring records and notes together; the kernel is the one that was launched last."""
    launched = [
        event.kernel_id  # type: ignore[attr-defined]
        for record in records
        for event in record.events
        if event.wire_name == "kernel.launch_requested.v1"
    ]
    history = history_of(launched[-1] if launched else "", records)
    return Evidence(records, notes, effects, history, Reference(history))


def acknowledged_messages_are_there(found: Evidence) -> Iterator[str]:
    """What ``send`` returned for is in the journal, under its number and sequence."""
    messages = found.history.messages
    for note in found.of_kind("acknowledged"):
        sequence, said = note["sequence"], (note["producer"], note["number"])
        if sequence > len(messages):
            yield f"message {sequence} of {said} was acknowledged and is gone"
        elif (got := messages[sequence - 1]) and (got.producer, got.number) != said:
            yield f"message {sequence} was acknowledged to {said}, the journal has {got}"


def numbers_are_accepted_once_in_order(found: Evidence) -> Iterator[str]:
    """Each producer's numbers come one after the other, each with its own value."""
    last = dict.fromkeys(PRODUCERS, 0)
    for sequence, message in enumerate(found.history.messages, 1):
        if not message.producer:
            continue
        if message.number != last[message.producer] + 1:
            yield f"message {sequence}: {message} came after number {last[message.producer]}"
        if message.value != value_of(message.producer, message.number):
            yield f"message {sequence}: {message} has another producer's value"
        last[message.producer] = message.number


def states_are_those_without_crashes(found: Evidence) -> Iterator[str]:
    """Every state that was looked at is the fold of the messages up to its sequence.

    Of the messages that a person had not decided to skip until then.
    """
    looks: dict[tuple[tuple[int, int], ...], list[Note]] = defaultdict(list)
    for note in found.of_kind("state"):
        looks[tuple((first, last) for first, last in note["skipped"])].append(note)
    for skipped, notes in looks.items():
        gone = {one for first, last in skipped for one in range(first, last + 1)}
        if unknown := gone - found.history.skipped:
            yield f"messages {sorted(unknown)} were skipped, the journal does not say so"
            continue
        yield from _compare_states(Reference(found.history, gone), notes)


def _compare_states(reference: Reference, notes: list[Note]) -> Iterator[str]:
    cells = reference.cells(note["applied"] for note in notes)
    for note in notes:
        applied = note["applied"]
        if applied > reference.last:
            yield f"life {note['life']} saw a state after message {applied}, which is gone"
        elif note["words"] != reference.words(applied):
            expected = reference.words(applied)
            yield f"state after message {applied} is {note['words']}, without crashes {expected}"
        elif note["cells"] != cells[applied]:
            yield f"cells after message {applied} are not those without crashes"


def outputs_are_equal_under_their_identity(found: Evidence) -> Iterator[str]:
    """Whatever a consumer got is what a run without crashes gives under that identity."""
    got = [(effect.identity, effect.payload) for effect in found.effects]
    got += [(_identity(note), bytes.fromhex(note["payload"])) for note in found.of_kind("seen")]
    for (sequence, index), payload in got:
        if sequence in found.history.skipped:
            continue  # it was seen before a person undid it
        if sequence > found.reference.last:
            yield f"output {sequence, index} was seen, its message is gone"
            continue
        outputs = found.reference.outputs(sequence)
        if index >= len(outputs) or payload != outputs[index]:
            yield f"output {sequence, index} is {payload.hex()}, without crashes {outputs}"


def effects_come_exactly_once(found: Evidence) -> Iterator[str]:
    """The consumer that stores its position with its effect has each output once, in order."""
    every = [effect.identity for effect in found.effects]
    if any(one >= other for one, other in pairwise(every)):
        yield "effects are out of order"
    identities = [one for one in every if one[0] not in found.history.skipped]
    start = next((at for _, name, at in found.history.positions if name == EXACT), None)
    if start is None or not identities:
        return
    expected = found.reference.identities(start, identities[-1])
    if identities != expected:
        pairs = zip_longest(identities, expected)
        got, right = next(pair for pair in pairs if pair[0] != pair[1])
        yield f"effects are not each output once: {got} where {right} should be"


def nothing_is_missed_after_a_restart(found: Evidence) -> Iterator[str]:
    """A consumer goes on after what it acknowledged, with no gap and nothing acknowledged twice."""
    acknowledged: OutputId = (0, 0)
    for life, epoch in found.epochs.items():
        position = found.history.position_before(epoch, LAZY)
        for reading in _readings(found, life):
            seen = [_identity(note) for note in reading if note["kind"] == "seen"]
            yield from _check_reading(found, life, seen, position, acknowledged)
            done = [_identity(note) for note in reading if note["kind"] == "acking"]
            acknowledged = max([acknowledged, *done])


def _readings(found: Evidence, life: int) -> Iterator[list[Note]]:
    """Yield the notes of each time that the lazy consumer began to read in a life."""
    notes = [note for note in found.notes if note["life"] == life]
    starts = [index for index, note in enumerate(notes) if note["kind"] == "reading"]
    for start, end in pairwise([*starts, len(notes)]):
        yield notes[start:end]


def _check_reading(
    found: Evidence,
    life: int,
    every: list[OutputId],
    position: OutputId | None,
    acknowledged: OutputId,
) -> Iterator[str]:
    """Check one reading from its first output on.

    Args:
        position: what the journal had when the life began; None: nothing of this consumer.
        acknowledged: by the consumer itself; it may not be journaled yet, and come again.
    """
    seen = [one for one in every if one[0] not in found.history.skipped]
    if not seen:
        return
    if position is not None:
        if seen[0] <= position:
            yield f"life {life}: output {seen[0]} came again, {position} was acknowledged"
        missed = found.reference.identities(max(position, acknowledged), seen[0])[:-1]
        if missed:
            yield f"life {life} began with {seen[0]}: outputs {missed[:3]} never came"
    if seen[1:] != found.reference.identities(seen[0], seen[-1]):
        yield f"life {life} saw gaps or repeats between {seen[0]} and {seen[-1]}"


def _identity(note: Note) -> OutputId:
    sequence, index = note["id"]
    return sequence, index


def kernel_is_in_one_place(found: Evidence) -> Iterator[str]:
    """After each restart the kernel runs; whenever nobody moves it, it has one instance."""
    for note in found.of_kind("opened"):
        running = [one for one in note["states"] if one[1] in ("running", "halted")]
        if len(running) != 1 or running[0][0] != found.history.kernel_id:
            yield f"life {note['life']} found {note['states']}"
        if note["unfinished"]:
            yield f"life {note['life']} found operations unfinished: {note['unfinished']}"
    for note in found.of_kind("instances"):
        if note["count"] != 1:
            yield f"life {note['life']}: the kernel's memory was there {note['count']} times"


def numbers_are_known_after_a_restart(found: Evidence) -> Iterator[str]:
    """``last_number`` is never less than what was acknowledged in an earlier life."""
    acknowledged = dict.fromkeys(PRODUCERS, 0)
    for note in found.notes:
        if note["kind"] == "acknowledged":
            acknowledged[note["producer"]] = note["number"]
        elif note["kind"] == "opened":
            for producer, number in acknowledged.items():
                if note["last_numbers"][producer] < number:
                    yield f"life {note['life']} had forgotten number {number} of {producer}"


def operations_end_as_they_should(found: Evidence) -> Iterator[str]:
    """Trapping code is rolled back, everything else is done."""
    for note in found.of_kind("operation"):
        good = note["outcome"].startswith("rolled_back" if note["what"] == "trap" else "done")
        if not good:
            yield f"life {note['life']}: {note['what']} ended: {note['outcome']}"


def decisions_follow_from_their_inputs(found: Evidence) -> Iterator[str]:
    """Every record is what the machines make of the ones before it."""
    difference = replay_records(found.records).difference
    if difference is not None:
        yield f"record {difference.sequence}: {difference}"
    yield from found.history.problems


CHECKS: Final[tuple[Callable[[Evidence], Iterator[str]], ...]] = (
    acknowledged_messages_are_there,
    numbers_are_accepted_once_in_order,
    states_are_those_without_crashes,
    outputs_are_equal_under_their_identity,
    effects_come_exactly_once,
    nothing_is_missed_after_a_restart,
    kernel_is_in_one_place,
    numbers_are_known_after_a_restart,
    operations_end_as_they_should,
    decisions_follow_from_their_inputs,
)


def problems(found: Evidence) -> list[str]:
    """Return what is wrong, each problem with the name of the check that found it."""
    return [f"{check.__name__}: {problem}" for check in CHECKS for problem in check(found)]
