"""The engine's state as the fold of its journal.

- ``apply`` is the only way in which it changes; it is the same live and on replay.
- One kernel has at most one operation that is not terminal: its lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs

from ringflow.engine.skipped import Ranges, joined
from ringflow.errors import DuplicateKernelError, KernelBusyError, UnknownKernelError
from ringflow.events import engine as engine_events
from ringflow.events import lifecycle as life_events
from ringflow.events import messages as message_events
from ringflow.events import routing as routing_events
from ringflow.events.codec import Event
from ringflow.events.engine import EngineClosed, EngineOpened, JournalRepaired
from ringflow.events.migration import MigrationRequested, MigrationRerouted
from ringflow.events.reload import ReloadRequested
from ringflow.events.snapshot import SnapshotRequested
from ringflow.routing import OutputId, Routing
from ringflow.statemachines import hot_reload, lifecycle, migration, snapshot
from ringflow.statemachines.lifecycle import KernelLife, LifecycleState

Operation = migration.Migration | hot_reload.Reload | snapshot.Snapshot


@attrs.define
class MessageMarks:
    """How far a kernel's messages and outputs have come, by the journal.

    Attributes:
        next_sequence: what the next accepted message is numbered.
        producers: highest number by producer.
        consumers: last acknowledged output by consumer.
        skipped: messages that are never applied, by a person's decision.
        untold: an engine crashed, and what that cost the kernel was not told yet: this is told
            when the kernel comes back, whatever engines ended in order without it before that.
        idle: the kernel has been halted since before the present engine was opened: whatever ends
            that engine costs the kernel nothing.
    """

    next_sequence: int = 1
    producers: dict[str, int] = attrs.field(factory=dict)
    consumers: dict[str, OutputId] = attrs.field(factory=dict)
    skipped: Ranges = ()
    untold: bool = False
    idle: bool = False

    def accept(
        self, first_sequence: int, count: int, producers: Iterable[str], numbers: Iterable[int]
    ) -> None:
        """Take ``MessagesAccepted``; a replay calls this without making the event."""
        self.next_sequence = first_sequence + count
        for producer, number in zip(producers, numbers, strict=True):
            if producer:
                self.producers[producer] = max(number, self.producers.get(producer, 0))

    def apply(self, event: Event) -> None:
        match event:
            case message_events.MessagesAccepted():
                self.accept(event.first_sequence, len(event.types), event.producers, event.numbers)
            case message_events.BulkMessageAccepted():
                self.accept(event.sequence, 1, (event.producer,), (event.number,))
            case message_events.MessagesLost():
                self.untold = False
            case message_events.MessagesSkipped():
                self.skipped = joined(self.skipped, event.first_sequence, event.last_sequence)
            case message_events.ConsumerRegistered():
                self.consumers[event.consumer] = (event.after_sequence, event.after_index)
            case message_events.OutputsAcknowledged():
                if event.consumer in self.consumers:
                    self.consumers[event.consumer] = (event.sequence, event.index)
            case message_events.ConsumerForgotten():
                self.consumers.pop(event.consumer, None)


_MESSAGE_EVENTS: Final = message_events.EVENT_TYPES
_LIFE_EVENTS: Final = life_events.EVENT_TYPES
_REQUESTS: Final = (MigrationRequested, ReloadRequested, SnapshotRequested)
_ROUTING_EVENTS: Final = routing_events.EVENT_TYPES
_ENGINE_EVENTS: Final = engine_events.EVENT_TYPES
_ACCEPTED: Final = (message_events.MessagesAccepted, message_events.BulkMessageAccepted)
_PROGRESS: Final = (life_events.RecoveryPointCommitted, life_events.KernelHalted)
_NEVER_REFUSED: Final = (*_MESSAGE_EVENTS, *_ROUTING_EVENTS)


def begin_operation(event: Event) -> Operation | None:
    """Return the operation that a request starts, None for any other event."""
    match event:
        case MigrationRequested():
            return migration.begin(event)
        case ReloadRequested():
            return hot_reload.begin(event)
        case SnapshotRequested():
            return snapshot.begin(event)
        case _:
            return None


def evolve_operation(operation: Operation, event: Event) -> Operation:
    """Return the operation after one of its events."""
    match operation:
        case migration.Migration():
            return migration.evolve(operation, event)
        case hot_reload.Reload():
            return hot_reload.evolve(operation, event)
        case snapshot.Snapshot():
            return snapshot.evolve(operation, event)


def kind_of(operation: Operation) -> str:
    """Return ``"migration"``, ``"reload"`` or ``"snapshot"``."""
    return type(operation).__name__.lower()


@attrs.define
class EngineState:
    """All kernels and operations of a folder, oldest first.

    Attributes:
        leases: by kernel, the operation that holds it.
        keys: by idempotency key, the operation that was started with it and its body's digest.
        closed: the last engine was closed in order, and nothing was cut from the journal since.
        fruitless: engines in a row, the last one counted, that took no message, committed no
            recovery point, halted no kernel and were not closed; a kernel may have killed them.
        repaired: the folder with the copies of a repair, until an engine has opened after it.
    """

    kernels: dict[str, KernelLife] = attrs.field(factory=dict)
    marks: dict[str, MessageMarks] = attrs.field(factory=dict)
    operations: dict[str, Operation] = attrs.field(factory=dict)
    leases: dict[str, str] = attrs.field(factory=dict)
    keys: dict[str, tuple[str, str]] = attrs.field(factory=dict)
    routing: Routing = attrs.field(factory=Routing)
    closed: bool = True
    repaired: str = ""
    fruitless: int = 0

    def apply(self, event: Event) -> None:
        """Fold one event in; raises ``IllegalTransitionError`` for one that can't have happened."""
        if isinstance(event, _MESSAGE_EVENTS):
            self.marks[event.kernel_id].apply(event)
            if isinstance(event, _ACCEPTED):
                self.fruitless = 0
        elif isinstance(event, _ROUTING_EVENTS):
            self.routing.apply(event)
        elif isinstance(event, _ENGINE_EVENTS):
            self._apply_engine(event)
        elif isinstance(event, life_events.KernelLaunchRequested):
            self.kernels[event.kernel_id] = lifecycle.begin(event)
            self.marks[event.kernel_id] = MessageMarks()
        elif isinstance(event, _LIFE_EVENTS):
            self._evolve_life(event.kernel_id, event)
            if isinstance(event, _PROGRESS):
                self.fruitless = 0
        elif (operation := begin_operation(event)) is not None:
            self.operations[operation.operation_id] = operation
            self.leases[operation.kernel_id] = operation.operation_id
            self._keep_key(event)
        elif (operation_id := getattr(event, "operation_id", None)) is not None:
            self._evolve_operation(operation_id, event)

    def _apply_engine(self, event: Event) -> None:
        if isinstance(event, EngineClosed):
            self.closed = True
            self.fruitless = 0
        elif isinstance(event, EngineOpened):
            self.fruitless += 1
            for kernel_id, marks in self.marks.items():
                marks.untold |= not (self.closed or marks.idle)
                marks.idle = self.kernels[kernel_id].state is LifecycleState.HALTED
            self.closed = False
            self.repaired = ""
        elif isinstance(event, JournalRepaired):
            for marks in self.marks.values():
                marks.idle = False  # the end of its halt may be in what was cut
            self.closed = False
            self.repaired = event.backup

    def check(self, events: Sequence[Event]) -> None:
        """Raise ``IllegalTransitionError`` if ``events`` can't come next; changes nothing."""
        checked = [event for event in events if not isinstance(event, _NEVER_REFUSED)]
        trial = self._part(checked)
        for event in checked:
            trial.apply(event)

    def _part(self, events: Sequence[Event]) -> EngineState:
        """Return a state with the kernels and operations that ``events`` are about: there may be
        hundreds of thousands."""
        part = EngineState()
        for event in events:
            operation = self.operations.get(getattr(event, "operation_id", ""))
            if operation is not None:
                part.operations[operation.operation_id] = operation
            life = self.kernels.get(getattr(event, "kernel_id", ""))
            if life is not None:
                part.kernels[life.kernel_id] = life
        return part

    def _keep_key(self, event: Event) -> None:
        if isinstance(event, _REQUESTS) and event.key:
            self.keys[event.key] = (event.operation_id, event.body_digest)

    def _evolve_life(self, kernel_id: str, event: Event) -> None:
        self.kernels[kernel_id] = lifecycle.evolve(self.kernels[kernel_id], event)
        marks = self.marks.get(kernel_id)
        if marks is None:  # this is a part of a state, which ``check`` tries events on
            return
        if isinstance(event, life_events.KernelResumed):
            marks.untold = False
        if isinstance(event, life_events.HaltResolved):
            marks.idle = False

    def _evolve_operation(self, operation_id: str, event: Event) -> None:
        operation = evolve_operation(self.operations[operation_id], event)
        self.operations[operation_id] = operation
        if isinstance(event, MigrationRerouted):
            self._evolve_life(operation.kernel_id, event)
        if operation.is_terminal:
            self.leases.pop(operation.kernel_id, None)

    def kernel(self, kernel_id: str) -> KernelLife:
        """Return a kernel; raises ``UnknownKernelError``."""
        life = self.kernels.get(kernel_id)
        if life is None:
            raise UnknownKernelError(kernel_id, tuple(self.kernels))
        return life

    def check_new(self, kernel_id: str) -> None:
        """Raise ``DuplicateKernelError`` if the id was ever used."""
        if kernel_id in self.kernels:
            raise DuplicateKernelError(kernel_id)

    def check_free(self, kernel_id: str) -> None:
        """Raise ``KernelBusyError`` while an operation holds the kernel's lease."""
        holder = self.leases.get(kernel_id)
        if holder is not None:
            raise KernelBusyError(kernel_id, holder)

    def unfinished(self) -> tuple[Operation, ...]:
        return tuple(one for one in self.operations.values() if not one.is_terminal)

    def select(self, wanted: Callable[[Operation], bool]) -> tuple[Operation, ...]:
        return tuple(one for one in self.operations.values() if wanted(one))
