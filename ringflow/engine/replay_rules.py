"""What must be in a record, given the state before it: each event is an input or follows from one.

- An outcome, a failure, a request and a time are inputs: they are taken from the record as told.
- What the machines' ``decide`` makes of an input must be what the record holds, event by event.
- An operation of an earlier epoch has one input left: the restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeGuard

import attrs

from ringflow.engine.operations import decide
from ringflow.engine.state import EngineState, MessageMarks, Operation, begin_operation
from ringflow.errors import UsageError
from ringflow.events import lifecycle as life_events
from ringflow.events import messages as message_events
from ringflow.events import migration as m
from ringflow.events import reload as r
from ringflow.events import routing as e
from ringflow.events import snapshot as s
from ringflow.events.codec import Event
from ringflow.routing import OutputId
from ringflow.statemachines import migration
from ringflow.statemachines.effects import OperationInput, Restarted, StepFailure
from ringflow.statemachines.lifecycle import KernelLife, LifecycleState
from ringflow.statemachines.snapshot import Snapshot

RouteKey = tuple[str, int, str]  # (source, number of the route, target)


@attrs.frozen
class Finding:
    """A rule that a record breaks.

    Attributes:
        recorded: the events that break it.
        expected: what should stand in their place; empty where nothing fits.
    """

    reason: str
    recorded: tuple[Event, ...]
    expected: tuple[Event, ...] = ()


def input_of(operation: Operation, event: Event) -> Event | OperationInput:
    """Return the input that a live engine had when it recorded ``event`` first."""
    ids = {"operation_id": operation.operation_id, "kernel_id": operation.kernel_id}
    match event:
        case m.MigrationStepFailed() | r.ReloadStepFailed():
            return StepFailure(step=event.step, reason=event.reason, cancelled=event.cancelled)
        case m.MigrationFailed() | r.ReloadFailed():
            step, _, reason = event.reason.partition(": ")
            return StepFailure(step=step, reason=reason)
        case s.SnapshotFailed():
            return StepFailure(step=event.step, reason=event.reason)
        case s.SnapshotCancelled():
            return StepFailure(step="", reason="", cancelled=True)
        case m.MigrationCancelled():
            return m.MigrationRolledBack(**ids)
        case r.ReloadCancelled():
            sequence = getattr(operation, "applied_sequence", 0)
            return r.ReloadRolledBack(**ids, applied_sequence=sequence)
        case _:
            return event


def check_decision(
    state: EngineState, operation: Operation, events: Sequence[Event], *, restarted: bool
) -> Finding | None:
    """Compare an operation's record with what its machine decides.

    Args:
        restarted: the operation's last record is of an earlier epoch.
    """
    own = tuple(one for one in events if _operation_id(one) == operation.operation_id)
    facts = tuple(one for one in events if one not in own)
    if operation.is_terminal:
        return Finding(f"the operation has ended ({operation.state.value})", tuple(events))
    if not own:
        return Finding("the record holds no event of its operation", tuple(events))
    given = Restarted() if restarted else input_of(operation, own[0])
    expected = decide(operation, given)
    if own != expected:
        what = "the restart" if restarted else _input_name(given)
        why = f"in state {operation.state.value!r} {what} leads to something else"
        return Finding(why, own, expected)
    return _check_facts(state, operation, own[0], facts)


def _operation_id(event: Event) -> str:
    found: str = getattr(event, "operation_id", "")
    return found


def _input_name(given: Event | OperationInput) -> str:
    if isinstance(given, StepFailure):
        return f"the failure of {given.step or 'a step'}"
    return f"the outcome {getattr(given, 'wire_name', '')!r}"


def _check_facts(
    state: EngineState, operation: Operation, event: Event, facts: tuple[Event, ...]
) -> Finding | None:
    """What an outcome brings along must fit it: the kernel's place, the recovery point."""
    life = state.kernels[operation.kernel_id]
    expected: tuple[Event, ...]
    match event:
        case m.MigrationGateOpened() | r.ReloadRestored():
            assert not isinstance(operation, Snapshot)
            return _check_resumed(life, operation.applied_sequence, facts)
        case r.ReloadCompleted():
            return _check_point(
                facts,
                checkpoint=f"{life.kernel_id}@{operation.operation_id}",
                spec_digest=event.spec_digest,
                version_id=event.version_id,
                barrier=True,
            )
        case s.SnapshotSaved():
            assert isinstance(operation, Snapshot)
            if event.checkpoint != operation.checkpoint:
                right = _changed(event, checkpoint=operation.checkpoint)
                return Finding("another checkpoint was asked for", (event,), (right,))
            return _check_point(
                facts,
                checkpoint=operation.checkpoint,
                replay_from=operation.applied_sequence + 1,
                version_id=life.version_id,
                barrier=False,
            )
        case m.MigrationCompleted() if facts:
            return _check_point(
                facts, checkpoint=f"{life.kernel_id}@{operation.operation_id}", barrier=False
            )
        case m.MigrationRolledBack() | m.MigrationCancelled() | s.SnapshotFailed():
            return None  # how the kernel got back to work is an input
        case r.ReloadRolledBack() | r.ReloadCancelled() | s.SnapshotCancelled():
            return None
        case _:
            expected = ()
    if facts != expected:
        return Finding(f"{event.wire_name!r} comes with other facts", facts, expected)
    return None


def _check_resumed(life: KernelLife, applied: int, facts: tuple[Event, ...]) -> Finding | None:
    """The kernel works again where it is to be: from there on, or from an older recovery point."""
    device = life.device
    if len(facts) == 2 and isinstance(facts[0], life_events.KernelDeviceLost):
        lost, facts = facts[0], facts[1:]  # where it was to work is lost: anywhere else is right
        if lost.device == device:
            device = getattr(facts[0], "device", "")
    if len(facts) == 1 and isinstance(facts[0], life_events.KernelResumed):
        applied = min(applied, facts[0].applied_sequence)
    resumed = life_events.KernelResumed(
        kernel_id=life.kernel_id, device=device, applied_sequence=applied
    )
    if facts != (resumed,):
        return Finding("the kernel resumes elsewhere", facts, (resumed,))
    return None


def _check_point(facts: tuple[Event, ...], **wanted: object) -> Finding | None:
    """Exactly one recovery point, and it says what is ``wanted``."""
    if len(facts) != 1 or not isinstance(facts[0], life_events.RecoveryPointCommitted):
        return Finding("it commits exactly one recovery point", facts)
    expected = _changed(facts[0], **wanted)
    if expected != facts[0]:
        return Finding("the recovery point is not that of its operation", facts, (expected,))
    return None


def check_request(state: EngineState, event: Event) -> Finding | None:
    """A request is taken only for a kernel that is there and free, and tells it as it is."""
    operation = begin_operation(event)
    if operation is None:
        return Finding("an operation begins with its request", (event,))
    life = state.kernels.get(operation.kernel_id)
    if life is None or life.is_terminal:
        return Finding(f"no kernel {operation.kernel_id!r} is there to work on", (event,))
    try:
        state.check_free(operation.kernel_id)
        if isinstance(event, m.MigrationRequested):
            migration.request(**_fields(event))
    except UsageError as error:
        return Finding(f"the request must be refused: {error}", (event,))
    told: Event = event
    if isinstance(event, m.MigrationRequested):
        told = _changed(event, source=life.device)
    elif isinstance(event, r.ReloadRequested):
        told = _changed(event, old_version=life.version_id)
    if told != event:
        return Finding("the request tells another kernel than there is", (event,), (told,))
    return None


def _changed(event: Any, **changes: object) -> Event:
    changed: Event = attrs.evolve(event, **changes)
    return changed


def _fields(event: Any) -> dict[str, Any]:
    return attrs.asdict(event, recurse=False)


def check_life(
    life: KernelLife, marks: MessageMarks, event: Event, *, restarted: bool
) -> Finding | None:
    """A kernel's own event: what a restart must do first, and what it says of messages.

    Args:
        restarted: the kernel's last record is of an earlier epoch.
    """
    kernel_id = life.kernel_id
    expected: Event | None = None
    if restarted and life.state is LifecycleState.LAUNCHING:
        expected = life_events.KernelLaunchFailed(kernel_id=kernel_id, reason="the engine ended")
    elif restarted and life.state is LifecycleState.STOPPING:
        applied = life.recovery_points[-1].applied_sequence
        expected = life_events.KernelStopped(kernel_id=kernel_id, applied_sequence=applied)
    if expected is not None and event != expected:
        return Finding(f"a restart ends what was {life.state.value}", (event,), (expected,))
    applied = _applied(event)
    if marks.next_sequence > 1 and applied >= marks.next_sequence:
        accepted = marks.next_sequence - 1
        return Finding(f"message {applied} is applied, {accepted} is the last accepted", (event,))
    match event:
        case life_events.RecoveryPointCommitted(checkpoint=name):
            if any(point.checkpoint == name for point in life.recovery_points):
                return Finding(f"recovery point {name!r} is there already", (event,))
        case life_events.CheckpointRetired(checkpoint=name):
            points = life.recovery_points if life.is_terminal else life.recovery_points[:-1]
            if name not in [point.checkpoint for point in points]:
                return Finding(f"{name!r} is no recovery point, or the newest one", (event,))
    return None


def _applied(event: Event) -> int:
    if isinstance(event, life_events.RecoveryPointCommitted):
        return event.replay_from - 1
    applied: int = getattr(event, "applied_sequence", 0)
    return applied


def check_messages(marks: MessageMarks, event: Event) -> Finding | None:
    """Messages are numbered on without a gap, producers' numbers and positions ascend."""
    match event:
        case message_events.BulkMessageAccepted(producer=producer, number=number):
            numbered = _changed(event, sequence=marks.next_sequence)
            if event != numbered:
                return Finding("messages are numbered on without a gap", (event,), (numbered,))
            if producer and number <= marks.producers.get(producer, 0):
                why = f"producer {producer!r} had sent {marks.producers[producer]} already"
                return Finding(f"{why}, number {number} must be refused", (event,))
        case message_events.MessagesAccepted():
            numbered = _changed(event, first_sequence=marks.next_sequence)
            if event != numbered:
                return Finding("messages are numbered on without a gap", (event,), (numbered,))
            last = dict(marks.producers)
            for producer, number in zip(event.producers, event.numbers, strict=True):
                if producer and number <= last.get(producer, 0):
                    why = f"producer {producer!r} had sent {last[producer]} already"
                    return Finding(f"{why}, number {number} must be refused", (event,))
                last[producer] = number
        case message_events.OutputsAcknowledged(consumer=consumer):
            position = marks.consumers.get(consumer)
            if position is None:
                return Finding(f"nobody knows consumer {consumer!r}", (event,))
            if (event.sequence, event.index) <= position:
                return Finding(f"consumer {consumer!r} is at {position} already", (event,))
    return None


def check_routes(passed: dict[RouteKey, OutputId], events: Sequence[Event]) -> Finding | None:
    """What a route took is a message each, in the same record, in order, and never twice.

    Args:
        passed: the last output that each route's records took, by source, number and target; kept
            up to date here. A mark that is set anew by another event begins anew.
    """
    for event in events:
        match event:
            case e.RouteConnected() | e.RouteMarkSet():
                passed.pop((event.source, event.number, event.target), None)
            case e.RouteTaken():
                taken = list(zip(event.sequences, event.indexes, strict=True))
                key = event.source, event.number, event.target
                order = [passed.get(key, (0, 0)), *taken]
                if any(one >= other for one, other in pairwise(order)):
                    return Finding("a route took an output twice, or out of order", (event,))
                accepted = [one for one in events if _is_accepted(one, event.target)]
                if sum(len(one.types) for one in accepted) != len(taken):
                    said = f"a route took {len(taken)} outputs, kernel {event.target!r} got others"
                    return Finding(said, tuple(events))
                passed[key] = event.through_sequence, event.through_index
    return None


def _is_accepted(event: Event, kernel_id: str) -> TypeGuard[message_events.MessagesAccepted]:
    is_one = isinstance(event, message_events.MessagesAccepted)
    return is_one and getattr(event, "kernel_id", "") == kernel_id
