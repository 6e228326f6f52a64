"""Blocking work as a seam: async code hands it to worker threads, or takes turns in a simulation.

- Every blocking call of async code goes through ``in_thread``; none makes threads of its own but
  the journal's writer and the pump, which ask ``turns_taken`` what to do instead.
- Who takes turns does the work in its own task, in the order that a ``Turns`` decides.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Final, Protocol, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

T = TypeVar("T")


class Turns(Protocol):
    """Decides, instead of threads, when each piece of blocking work is done."""

    async def turn(self, what: str) -> None:
        """Wait until it is the calling task's turn; ``what`` says for what, in a word or two."""

    async def pause(self, what: str, duration_ns: int, *, over: anyio.Event) -> None:
        """Wait for a turn that comes so much later, or until somebody sets ``over``."""


_TURNS: Final[ContextVar[Turns | None]] = ContextVar("turns", default=None)


def turns_taken() -> Turns | None:
    """Return who decides when work is done in this context; None where threads do it."""
    return _TURNS.get()


def context_taking_turns(turns: Turns) -> Context:
    """Return a context, otherwise empty, whose tasks have their blocking work done by turns."""
    context = Context()
    context.run(_TURNS.set, turns)
    return context


async def in_thread(
    work: Callable[[], T], *, limiter: anyio.CapacityLimiter | None = None, what: str = "work"
) -> T:
    """Run blocking work in a worker thread; once it has begun a cancellation waits for its end.

    Args:
        limiter: bounds how many run at once; anyio's own by default.
        what: names the work where it takes turns.
    """
    turns = _TURNS.get()
    if turns is None:
        return await anyio.to_thread.run_sync(work, limiter=limiter)
    await anyio.lowlevel.checkpoint_if_cancelled()
    await turns.turn(f"begin {what}")  # as with threads: waiting for one can be cancelled
    try:  # and once it is begun it runs to its end
        return work()
    finally:
        with anyio.CancelScope(shield=True):  # others may go on before its caller hears of it
            await turns.turn(f"end {what}")
