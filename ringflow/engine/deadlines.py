"""Deadlines of many short waits, kept by one task: a timer for each costs more than such a wait."""

from __future__ import annotations

from typing import Final, Protocol, final

import anyio

from ringflow.clock import NS_PER_S, Clock, within

_NEVER_NS: Final = 2**63


class Wait(Protocol):
    """A wait with a deadline, by the clock's monotonic time."""

    @property
    def deadline_ns(self) -> int: ...
    def expire(self) -> None:
        """The deadline has passed; must be short and must not raise."""


@final
class Deadlines:
    """Waits that are to end at their deadlines, in the event loop of ``run``."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waits: dict[Wait, None] = {}
        self._next_ns = _NEVER_NS  # when to look again: no wait ends before
        self._nearer = anyio.Event()

    def after(self, duration_s: float) -> int:
        """Return the deadline that comes in ``duration_s``; infinity is allowed."""
        return self._clock.monotonic_ns() + int(min(duration_s * NS_PER_S, _NEVER_NS))

    def watch(self, wait: Wait) -> None:
        """Have ``wait`` expire at its deadline, unless it is forgotten before."""
        self._waits[wait] = None
        if wait.deadline_ns < self._next_ns:
            self._next_ns = wait.deadline_ns
            self._nearer.set()

    def forget(self, wait: Wait) -> None:
        """Watch it no longer; nothing to do for one that has expired."""
        self._waits.pop(wait, None)

    async def run(self) -> None:
        """Serve until it is cancelled; as a task."""
        while True:
            self._nearer = anyio.Event()
            await within(self._clock, self._pause_s(), self._nearer.wait)
            now_ns = self._clock.monotonic_ns()
            for wait in [one for one in self._waits if one.deadline_ns <= now_ns]:
                del self._waits[wait]
                wait.expire()
            self._next_ns = min((one.deadline_ns for one in self._waits), default=_NEVER_NS)

    def _pause_s(self) -> float | None:
        if self._next_ns >= _NEVER_NS:
            return None
        return max(0, self._next_ns - self._clock.monotonic_ns()) / NS_PER_S
