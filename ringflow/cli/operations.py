"""Operations as a journal tells them: who asked, which states they went through, how they ended.

- Works on plain events and the machines' tables; an event that no table knows changes no state.
- Pure: records in, values out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

import attrs

from ringflow.journal.record import RawRecord
from ringflow.statemachines.diagrams import DRAWINGS

STREAM: Final = "operation/"


@attrs.frozen
class Step:
    """A state that an operation was in, and for how long (ns since 1970); the last has no end."""

    state: str
    began_ns: int
    ended_ns: int | None
    first_sequence: int


@attrs.define
class OperationStory:
    """An operation's events and steps, oldest first.

    Attributes:
        kind: ``"migration"``, ``"reload"`` or ``"snapshot"``.
        facts: the fields of all its events by name; a later event's value wins.
    """

    id: str
    kind: str
    kernel_id: str
    began_ns: int
    epoch: int
    steps: list[Step] = attrs.field(factory=list)
    events: list[Mapping[str, Any]] = attrs.field(factory=list)
    facts: dict[str, Any] = attrs.field(factory=dict)

    @property
    def state(self) -> str:
        return self.steps[-1].state

    @property
    def is_over(self) -> bool:
        return not _rows(self.kind).get(self.state)

    @property
    def ended_ns(self) -> int | None:
        return self.steps[-1].began_ns if self.is_over else None

    def find(self, name: str) -> Mapping[str, Any] | None:
        """Return the event of a short name, e.g. ``"gate_opened"``; None if there is none."""
        return next((one for one in self.events if _short(str(one["type"])) == name), None)

    def take(self, record: RawRecord, event: Mapping[str, Any]) -> None:
        """Fold one event of the operation's stream."""
        self.events.append(event)
        self.facts.update({key: value for key, value in event.items() if key != "type"})
        state = _rows(self.kind).get(self.state, {}).get(str(event["type"]))
        if state is not None and state != self.state:
            last = self.steps[-1]
            self.steps[-1] = attrs.evolve(last, ended_ns=record.at_ns)
            self.steps.append(Step(state, record.at_ns, None, record.sequence))


def _short(wire_name: str) -> str:
    return wire_name.rsplit(".", 1)[0].split(".", 1)[-1]


@cache
def _rows(kind: str) -> dict[str, dict[str, str]]:
    return {
        state.value: {event.wire_name: target.value for event, target in row.items()}
        for state, row in DRAWINGS[kind].transitions.items()
    }


class OperationStories:
    """All operations of a journal, by id in the order of their requests."""

    def __init__(self) -> None:
        self.by_id: dict[str, OperationStory] = {}

    def take(self, record: RawRecord) -> None:
        """Fold one record; those of other streams change nothing."""
        if not record.stream.startswith(STREAM):
            return
        for event in record.events:
            kind, _, name = str(event.get("type", "")).partition(".")
            operation_id = str(event.get("operation_id", ""))
            if name.startswith("requested.") and kind in DRAWINGS:
                story = self.by_id[operation_id] = OperationStory(
                    operation_id, kind, str(event["kernel_id"]), record.at_ns, record.epoch
                )
                first = next(iter(_rows(kind)))
                story.steps.append(Step(first, record.at_ns, None, record.sequence))
                story.events.append(event)
                story.facts.update({key: value for key, value in event.items() if key != "type"})
            elif operation_id in self.by_id and kind in DRAWINGS:
                self.by_id[operation_id].take(record, event)


def operations_of(records: Iterable[RawRecord]) -> dict[str, OperationStory]:
    """Return the operations of a journal by id, oldest request first."""
    stories = OperationStories()
    for record in records:
        stories.take(record)
    return stories.by_id
