"""Drives an operation's pure machine without an engine: its events are kept in memory.

- Each step: perform the state's effect, decide on its outcome, evolve; nothing between.
- Every step has a deadline, which is a failed step, and so is what the step raises.
- A cancelled caller is a failed step before the commit point; the way back, and all that comes
  after that point, is done to its end before the cancellation goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar, final

import anyio
import attrs

from ringflow.clock import NS_PER_S, Clock, within
from ringflow.errors import RingflowError
from ringflow.events.codec import Event
from ringflow.statemachines.effects import Effect, OperationInput, StepFailure


class OperationState(Protocol):
    """What the driver asks of an operation's state."""

    @property
    def may_cancel(self) -> bool: ...


S = TypeVar("S", bound=OperationState)


@attrs.frozen(kw_only=True)
class Machine(Generic[S]):
    """The functions of a pure machine."""

    decide: Callable[[S, Event | OperationInput], tuple[Event, ...]]
    evolve: Callable[[S, Event], S]
    effect_of: Callable[[S], Effect | None]


@final
class Drive(Generic[S]):
    """One operation on its way.

    Attributes:
        state: the operation as its events tell it so far.
        step_ns: monotonic nanoseconds that each performed step took.
    """

    def __init__(self, machine: Machine[S], state: S, *, clock: Clock) -> None:
        self.state = state
        self.step_ns: dict[str, int] = {}
        self._machine = machine
        self._clock = clock
        self._cancelled: BaseException | None = None

    @property
    def step_s(self) -> dict[str, float]:
        return {step: taken_ns / NS_PER_S for step, taken_ns in self.step_ns.items()}

    async def run(
        self,
        perform: Callable[[Effect], Awaitable[Event]],
        *,
        on_event: Callable[[Event], None],
        timeout_s: Callable[[Effect], float],
    ) -> S:
        """Perform effects until the machine asks for none; return its last state.

        Args:
            perform: does what an effect says and returns what it led to; what it raises fails the
                step. On the way back and after the commit point it is not cancelled.
            on_event: told of each event at once, before the next step.
            timeout_s: the deadline of a step, asked for when the step begins.
        """
        while (effect := self._machine.effect_of(self.state)) is not None:
            outcome = await self._attempt(perform, effect, timeout_s(effect))
            for event in self._machine.decide(self.state, outcome):
                self.state = self._machine.evolve(self.state, event)
                on_event(event)
        if self._cancelled is not None:
            raise self._cancelled
        return self.state

    async def _attempt(
        self, perform: Callable[[Effect], Awaitable[Event]], effect: Effect, timeout_s: float
    ) -> Event | StepFailure:
        outcome: Event | None = None

        async def work() -> None:
            nonlocal outcome
            outcome = await perform(effect)

        started_ns = self._clock.monotonic_ns()
        try:
            with anyio.CancelScope(shield=not self.state.may_cancel):
                await within(self._clock, timeout_s, work)
        except RingflowError as error:
            return StepFailure(step=effect.step, reason=str(error))
        except Exception as error:  # whatever a user's object raises, its kernel must go on
            return StepFailure(step=effect.step, reason=f"{type(error).__name__}: {error}")
        except anyio.get_cancelled_exc_class() as error:
            self._cancelled = error
            if outcome is not None:  # the step was done first; the next one is cancelled
                return outcome
            return StepFailure(step=effect.step, reason="cancelled", cancelled=True)
        finally:
            self.step_ns[effect.step] = self._clock.monotonic_ns() - started_ns
        if outcome is None:
            return StepFailure(step=effect.step, reason=f"not done within {timeout_s:g} s")
        return outcome
