"""Replay of decisions: every event of a journal is an input, or must follow from one. Pure.

- The state before a record is the fold of the records before it, as in the engine.
- An archived journal begins with its base record's state, which is taken as told. Which epoch wrote
  an operation's last record before it is unknown: of that epoch both ways to go on are accepted.
- The first difference ends it: what comes later follows from another state.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from ringflow.engine import replay_rules as rules
from ringflow.engine.operations import decide
from ringflow.engine.replay_rules import Finding
from ringflow.engine.state import EngineState
from ringflow.engine.state_codec import decode_state
from ringflow.errors import UsageError
from ringflow.events import lifecycle as life_events
from ringflow.events import messages as message_events
from ringflow.events.codec import Event
from ringflow.journal.foundation import Foundation
from ringflow.journal.record import Record
from ringflow.routing import OutputId
from ringflow.statemachines.effects import Restarted


@attrs.frozen(kw_only=True)
class Difference:
    """Where a journal and the recomputed decisions part.

    Attributes:
        sequence, stream, epoch: the record's.
        reason: the rule, in words.
        recorded: the events in the journal.
        expected: what the engine decides; empty where it refuses.
    """

    sequence: int
    stream: str
    epoch: int
    reason: str
    recorded: tuple[Event, ...]
    expected: tuple[Event, ...]


@attrs.frozen(kw_only=True)
class ReplayReport:
    """What was replayed; ``difference`` is None where everything followed.

    Attributes:
        records: whole records, the differing one not counted.
        decisions: those of operations, recomputed by their machines.
        begun_at: the sequence of the base record that stands for what was archived, 0 for none.
    """

    records: int
    decisions: int
    operations: int
    epochs: int
    difference: Difference | None
    begun_at: int = 0


class Replay:
    """Takes records in order and holds each against the state that the ones before it make.

    Args:
        base: the base record of an archived journal; its first record follows.
    Raises:
        CorruptError: the base record's state can't be read.
    """

    def __init__(self, base: Foundation | None = None) -> None:
        self.state = decode_state(base.state) if base else EngineState()
        self.begun_at = base.place.sequence if base else 0
        self.records = 0
        self.decisions = 0
        self._epochs: dict[str, int] = {}  # of the last record, by kernel and operation id
        self._epoch = self._base_epoch = base.place.epoch if base else 0
        self._routes: dict[rules.RouteKey, OutputId] = {
            (edge.source, edge.number, edge.target): edge.mark
            for edge in self.state.routing.edges.values()
        }

    def take(self, record: Record) -> Difference | None:
        """Check one record and fold it in; after a difference nothing more can be taken."""
        finding = self._check(record)
        if finding is not None:
            return Difference(
                sequence=record.sequence,
                stream=record.stream,
                epoch=record.epoch,
                reason=finding.reason,
                recorded=finding.recorded,
                expected=finding.expected,
            )
        self.records += 1
        self._epoch = record.epoch
        self._epochs[record.stream] = record.epoch
        return None

    def report(self, difference: Difference | None) -> ReplayReport:
        return ReplayReport(
            records=self.records,
            decisions=self.decisions,
            operations=len(self.state.operations),
            epochs=self._epoch - self._base_epoch,
            difference=difference,
            begun_at=self.begun_at,
        )

    def _check(self, record: Record) -> Finding | None:
        kind, _, name = record.stream.partition("/")
        if kind == "operation" and (found := self._check_operation(name, record)) is not None:
            return found
        if (found := rules.check_routes(self._routes, record.events)) is not None:
            return found
        for event in record.events:
            if (found := self._check_event(event, record)) is not None:
                return found
            try:
                self.state.apply(event)
            except (UsageError, KeyError) as error:
                return Finding(f"it can't follow: {error}", (event,))
        return None

    def _check_operation(self, operation_id: str, record: Record) -> Finding | None:
        operation = self.state.operations.get(operation_id)
        if operation is None:
            return rules.check_request(self.state, record.events[0])
        self.decisions += 1
        last_epoch = self._epochs.get(record.stream)
        restarted = self._epochs.get(record.stream, self._base_epoch) < record.epoch
        found = rules.check_decision(self.state, operation, record.events, restarted=restarted)
        if found is None or restarted or last_epoch is not None:
            return found
        other = rules.check_decision(self.state, operation, record.events, restarted=True)
        return other and found

    def _check_event(self, event: Event, record: Record) -> Finding | None:
        kernel_id = getattr(event, "kernel_id", "")
        marks, life = self.state.marks.get(kernel_id), self.state.kernels.get(kernel_id)
        if isinstance(event, life_events.KernelLaunchRequested):
            return None if life is None else Finding("the kernel's id was used before", (event,))
        if marks is None or life is None:
            return None
        if isinstance(event, message_events.EVENT_TYPES):
            return self._check_restarted(kernel_id, event, record) or rules.check_messages(
                marks, event
            )
        if isinstance(event, life_events.EVENT_TYPES):
            last_epoch = self._epochs.get(f"kernel/{kernel_id}", self._base_epoch or record.epoch)
            restarted = last_epoch < record.epoch
            return rules.check_life(life, marks, event, restarted=restarted)
        return None

    def _check_restarted(self, kernel_id: str, event: Event, record: Record) -> Finding | None:
        """A restart ends a kernel's unfinished operation before it takes messages."""
        operation_id = self.state.leases.get(kernel_id)
        if operation_id is None:
            return None
        if self._epochs.get(f"operation/{operation_id}", self._base_epoch) == record.epoch:
            return None
        expected = decide(self.state.operations[operation_id], Restarted())
        why = f"the restart must end operation {operation_id!r} before the kernel goes on"
        return Finding(why, (event,), expected)


def replay_records(records: Iterable[Record], base: Foundation | None = None) -> ReplayReport:
    """Recompute the decisions of a journal up to the first difference.

    Args:
        records: from the journal's first on, or from the first behind ``base``; ``read_history``
            gives both, verified.
    Raises:
        CorruptError: the base record's state can't be read.
    """
    replay, difference = Replay(base), None
    for record in records:
        difference = replay.take(record)
        if difference is not None:
            break
    return replay.report(difference)
