"""The four machines as values, so that one suite can take every table as its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import attrs

from ringflow.errors import IllegalTransitionError
from ringflow.events import lifecycle as lifecycle_events
from ringflow.events import migration as migration_events
from ringflow.events import reload as reload_events
from ringflow.events import snapshot as snapshot_events
from ringflow.events.codec import Event
from ringflow.statemachines import hot_reload, lifecycle, migration, snapshot
from ringflow.statemachines.effects import Effect, OperationInput
from ringflow.statemachines.table import RestartRule, Table
from tests.events.samples import sample

DIGESTS = {"region": "digest"}  # those of the sample events


@attrs.frozen(kw_only=True)
class Machine:
    """A state machine: its table, its functions, and the events that it may see.

    Attributes:
        facts: events that it takes in every state without a transition.
        decide, effect_of: None for the lifecycle, which the engine drives directly.
    """

    name: str
    states: type[Enum]
    transitions: Table[Any]
    restart: Mapping[Any, RestartRule]
    request: type[Event]
    events: tuple[type[Event], ...]
    facts: tuple[type[Event], ...] = ()
    begin: Callable[[Any], Any]
    evolve: Callable[[Any, Event], Any]
    decide: Callable[[Any, Event | OperationInput], tuple[Event, ...]] | None = None
    effect_of: Callable[[Any], Effect | None] | None = None

    @property
    def first(self) -> Any:
        """The machine's value right after its request."""
        return self.begin(sample(self.request, digests=DIGESTS))

    @property
    def terminal(self) -> set[Enum]:
        return {state for state in self.states if not self.transitions[state]}

    def at(self, state: Enum) -> Any:
        """Return the value in ``state`` that a shortest path of sample events leads to."""
        paths = {self.first.state: self.first}
        queue = list(paths)
        for reached in queue:
            for event, target in self.transitions[reached].items():
                if target not in paths:
                    paths[target] = self.evolve(paths[reached], sample(event))
                    queue.append(target)
        return paths[state]

    def after(self, value: Any, given: Event | OperationInput) -> Any:
        """Decide on an outcome and fold the events, as the engine does."""
        assert self.decide is not None
        for event in self.decide(value, given):
            value = self.evolve(value, event)
        return value


MACHINES = (
    Machine(
        name="migration",
        states=migration.MigrationState,
        transitions=migration.TRANSITIONS,
        restart=migration.RESTART,
        request=migration_events.MigrationRequested,
        events=migration_events.EVENT_TYPES,
        begin=migration.begin,
        evolve=migration.evolve,
        decide=migration.decide,
        effect_of=migration.effect_of,
    ),
    Machine(
        name="reload",
        states=hot_reload.ReloadState,
        transitions=hot_reload.TRANSITIONS,
        restart=hot_reload.RESTART,
        request=reload_events.ReloadRequested,
        events=reload_events.EVENT_TYPES,
        begin=hot_reload.begin,
        evolve=hot_reload.evolve,
        decide=hot_reload.decide,
        effect_of=hot_reload.effect_of,
    ),
    Machine(
        name="snapshot",
        states=snapshot.SnapshotState,
        transitions=snapshot.TRANSITIONS,
        restart=snapshot.RESTART,
        request=snapshot_events.SnapshotRequested,
        events=snapshot_events.EVENT_TYPES,
        begin=snapshot.begin,
        evolve=snapshot.evolve,
        decide=snapshot.decide,
        effect_of=snapshot.effect_of,
    ),
    Machine(
        name="lifecycle",
        states=lifecycle.LifecycleState,
        transitions=lifecycle.TRANSITIONS,
        restart=lifecycle.RESTART,
        request=lifecycle_events.KernelLaunchRequested,
        events=(*lifecycle_events.EVENT_TYPES, migration_events.MigrationRerouted),
        facts=(
            lifecycle_events.RecoveryPointCommitted,
            lifecycle_events.CheckpointRetired,
            lifecycle_events.RecoveryFellBack,
            lifecycle_events.KernelRolledBack,
            lifecycle_events.KernelForked,
            migration_events.MigrationRerouted,
        ),
        begin=lifecycle.begin,
        evolve=lifecycle.evolve,
    ),
)
OPERATIONS = tuple(machine for machine in MACHINES if machine.decide is not None)
CASES = [(machine, state) for machine in MACHINES for state in machine.states]
OPERATION_CASES = [(machine, state) for machine, state in CASES if machine in OPERATIONS]


def case_id(value: object) -> str:
    return value.name if isinstance(value, Machine) else getattr(value, "value", str(value))


def illegal(machine: Machine, value: Any, event: Event) -> bool:
    """Whether ``event`` is refused in the value's state."""
    try:
        machine.evolve(value, event)
    except IllegalTransitionError:
        return True
    return False
