"""Operations: a machine, the task that runs it, and the handle that its user holds.

- Each step: perform the state's effect, decide on its outcome, record, evolve; nothing between.
- Every step has a deadline; a cancellation before the commit point is a failed step.
- Answers wait for the durable mark of the last record.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar, final

import anyio
import attrs

from ringflow.clock import within
from ringflow.engine.core import Core
from ringflow.engine.state import Operation as OperationState
from ringflow.engine.waiting import Condition
from ringflow.errors import OperationCancelledError, OperationFailedError, RingflowError
from ringflow.events.codec import Event
from ringflow.journal.api import Append
from ringflow.statemachines import hot_reload, migration, snapshot
from ringflow.statemachines.effects import (
    Effect,
    OperationInput,
    QuiesceKernel,
    Restarted,
    ResumeOldCode,
    ResumeSource,
    StepFailure,
    WatchProbation,
)

R = TypeVar("R")


@attrs.frozen
class Outcome:
    """What an effect led to: the machine's event, and facts for the same record."""

    event: Event
    facts: tuple[Event, ...] = ()


class Performer(Protocol):
    """Performs one operation's effects on devices and storage."""

    async def perform(self, effect: Effect) -> Outcome:
        """Do what the effect says; what it raises becomes a ``StepFailure``."""

    async def finish(self, state: OperationState) -> None:
        """Called once the last record is durable."""

    async def abandon(self) -> None:
        """Called instead when the journal failed: give back what the kernel does not run on."""


def decide(state: OperationState, given: Event | OperationInput) -> tuple[Event, ...]:
    """Let the operation's own machine decide."""
    match state:
        case migration.Migration():
            return migration.decide(state, given)
        case hot_reload.Reload():
            return hot_reload.decide(state, given)
        case snapshot.Snapshot():
            return snapshot.decide(state, given)


def effect_of(state: OperationState) -> Effect | None:
    match state:
        case migration.Migration():
            return migration.effect_of(state)
        case hot_reload.Reload():
            return hot_reload.effect_of(state)
        case snapshot.Snapshot():
            return snapshot.effect_of(state)


@final
class OperationEvents:
    """An operation's events; leaving the loop early needs no care."""

    def __init__(self, operation: Operation[Any]) -> None:
        self._operation = operation
        self._index = 0

    def __aiter__(self) -> OperationEvents:
        return self

    async def __anext__(self) -> Event:
        event = await self._operation.event_at(self._index)
        if event is None:
            raise StopAsyncIteration
        self._index += 1
        return event


_SUCCESS: Final = ("completed", "saved")


@final
class Operation(Generic[R]):
    """A running or ended operation; made by the engine's ``start_...`` methods.

    Attributes:
        step_ns: monotonic nanoseconds that each performed step took.
    """

    def __init__(self, core: Core, operation_id: str, result: Callable[[Operation[R]], R]) -> None:
        self.id = operation_id
        self.step_ns: dict[str, int] = {}
        self.core = core
        self._make_result = result
        self._events: list[Event] = []
        self._changed = Condition()
        self._done = anyio.Event()
        self._cancel_requested = False
        self._scope: anyio.CancelScope | None = None
        self._lost = ""

    def __repr__(self) -> str:
        kind, state = type(self.state).__name__, self.state.state.value
        return f"Operation(id={self.id!r}, kernel_id={self.kernel_id!r}, {kind}, {state=})"

    @property
    def kernel_id(self) -> str:
        return self.state.kernel_id

    @property
    def state(self) -> OperationState:
        """The operation as its events tell it so far."""
        return self.core.state.operations[self.id]

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def events(self) -> OperationEvents:
        """Iterate over the operation's durable events from the first on, until it has ended."""
        return OperationEvents(self)

    async def event_at(self, index: int) -> Event | None:
        """Return a durable event by its place, waiting for it; None if there will be none."""
        self.core.check_thread()
        await self._changed.until(lambda: self._has_more(index))
        return self._events[index] if index < len(self._events) else None

    def _has_more(self, index: int) -> bool:
        return len(self._events) > index or self.done

    async def cancel(self) -> bool:
        """Ask it to end before its commit point and wait; return whether it was cancelled."""
        self.core.check_thread()
        self._cancel_requested = True
        if self._scope is not None and self.state.may_cancel:
            self._scope.cancel()
        await self._done.wait()
        return bool(self.state.state.value == "cancelled")

    async def result(self) -> R:
        """Wait for the end and return the result.

        Raises:
            OperationCancelledError: it was cancelled before its commit point.
            OperationFailedError: it was rolled back or failed; ``state`` says which.
        """
        self.core.check_thread()
        await self._done.wait()
        if self._lost:
            raise OperationFailedError(self.id, "interrupted", self._lost)
        ended = self.state.state.value
        if ended == "cancelled":
            raise OperationCancelledError(f"operation {self.id!r} was cancelled; nothing changed")
        if ended not in _SUCCESS:
            raise OperationFailedError(self.id, ended, self.state.failure)
        return self._make_result(self)

    def end(self) -> None:
        """Mark a handle of an operation that ended before the handle was made."""
        self._done.set()

    def published(self, events: tuple[Event, ...]) -> None:
        """Take events that have become durable; the engine calls it."""
        self._events.extend(events)
        self._changed.notify()


async def run_operation(operation: Operation[Any], performer: Performer, last: Append) -> None:
    """Drive an operation to its end; called as a task of the engine's."""
    core = operation.core
    try:
        while (effect := effect_of(operation.state)) is not None:
            if effect.durable_first:
                await core.journal.until_durable(last)
            outcome = await _attempt(operation, performer, effect)
            if isinstance(outcome, Outcome):
                events = (*outcome.facts, *decide(operation.state, outcome.event))
            else:
                events = decide(operation.state, outcome)
            last = record(operation, events)
        await core.journal.until_durable(last)
        await performer.finish(operation.state)
    except RingflowError as error:  # the journal failed, or the engine is closing
        operation._lost = str(error)
    finally:
        if not operation.state.is_terminal and not operation._lost:
            operation._lost = "the engine was closed"
        if operation._lost:
            with anyio.CancelScope(shield=True), contextlib.suppress(RingflowError):
                await performer.abandon()
        operation._done.set()
        operation._changed.notify()


def record(operation: Operation[Any], events: tuple[Event, ...]) -> Append:
    """Record an operation's events; its own subscribers get them once they are durable."""
    return operation.core.record(
        f"operation/{operation.id}", events, then=lambda: operation.published(events)
    )


async def _attempt(
    operation: Operation[Any], performer: Performer, effect: Effect
) -> Outcome | StepFailure:
    """Perform one effect within its deadline; return its outcome or its failure."""
    core, outcome = operation.core, None
    if operation._cancel_requested and operation.state.may_cancel:
        return StepFailure(step=effect.step, reason="cancelled", cancelled=True)
    started_ns = core.clock.monotonic_ns()

    async def perform() -> None:
        nonlocal outcome
        outcome = await performer.perform(effect)

    timeout_s = _deadline_s(core, effect)
    try:
        with anyio.CancelScope() as scope:
            operation._scope = scope
            in_time = await within(core.clock, timeout_s, perform)
    except RingflowError as error:
        return StepFailure(step=effect.step, reason=str(error))
    except Exception as error:  # whatever went wrong, the kernel must get back to work
        return StepFailure(step=effect.step, reason=f"{type(error).__name__}: {error}")
    finally:
        operation._scope = None
        operation.step_ns[effect.step] = core.clock.monotonic_ns() - started_ns
    if scope.cancelled_caught:
        return StepFailure(step=effect.step, reason="cancelled", cancelled=True)
    if not in_time or outcome is None:
        return StepFailure(step=effect.step, reason=f"not done within {timeout_s} s")
    return outcome


def _deadline_s(core: Core, effect: Effect) -> float | None:
    """Return a step's deadline: its own time and, where it waits on purpose, that as well."""
    match effect:
        case QuiesceKernel() | ResumeSource() | ResumeOldCode():
            return (
                None  # it waits for its sequence, then has deadlines of its own, also to withdraw
            )
        case WatchProbation(timeout_ns=timeout_ns):
            return core.limits.step_timeout_s + timeout_ns / 1e9
        case _:
            return core.limits.step_timeout_s


def restart_events(state: OperationState) -> tuple[Event, ...]:
    """Return what a new engine records about an operation that its journal left unfinished."""
    return decide(state, Restarted())
