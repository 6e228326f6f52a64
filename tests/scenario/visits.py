"""Which rows of the machines' tables a journal visits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ringflow.engine.state import EngineState
from ringflow.events.codec import Event
from ringflow.statemachines import hot_reload, lifecycle, migration, snapshot

Row = tuple[str, str, str]
"""Machine, state before the event, the event's wire name."""

TABLES: Final[Mapping[str, Mapping[Any, Mapping[type[Any], Any]]]] = {
    "lifecycle": lifecycle.TRANSITIONS,
    "migration": migration.TRANSITIONS,
    "reload": hot_reload.TRANSITIONS,
    "snapshot": snapshot.TRANSITIONS,
}
_MACHINES: Final = {
    migration.Migration: "migration",
    hot_reload.Reload: "reload",
    snapshot.Snapshot: "snapshot",
}


def rows() -> set[Row]:
    """Return all rows of all tables."""
    return {
        (machine, state.value, kind.wire_name)
        for machine, table in TABLES.items()
        for state, transitions in table.items()
        for kind in transitions
    }


def visited(events: Iterable[Event]) -> set[Row]:
    """Return the rows that a journal's events take, in the states in which they came."""
    state, found = EngineState(), set()
    for event in events:
        operation = state.operations.get(getattr(event, "operation_id", ""))
        life = state.kernels.get(getattr(event, "kernel_id", ""))
        if operation is not None:
            found.add((_MACHINES[type(operation)], operation.state.value, event.wire_name))
        elif life is not None:
            found.add(("lifecycle", life.state.value, event.wire_name))
        state.apply(event)
    return found & rows()
