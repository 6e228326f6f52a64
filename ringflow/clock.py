"""Time as a seam: everything that waits or reads a time does it through ``Clock``.

- ``now_ns`` is wall time (nanoseconds since 1970, may step back); ``monotonic_ns`` never does.
- Deadlines are monotonic nanoseconds, durations are seconds.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, final

import anyio
import anyio.lowlevel

NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """Wall time, monotonic time and waiting."""

    def now_ns(self) -> int:
        """Return the wall time in nanoseconds since 1970-01-01 UTC."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds since an arbitrary start; never goes back."""

    async def sleep(self, duration_s: float) -> None:
        """Wait for ``duration_s``; zero and less only yield once."""

    async def sleep_until(self, deadline_ns: int) -> None:
        """Wait until ``monotonic_ns()`` is at least ``deadline_ns``."""

    def timeout(self, duration_s: float | None) -> AbstractContextManager[anyio.CancelScope]:
        """``with clock.timeout(1.0) as scope``: cancel the block then; None: never."""


@final
class SystemClock:
    """``Clock`` on the operating system's clocks."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    async def sleep(self, duration_s: float) -> None:
        await anyio.sleep(max(0.0, duration_s))

    async def sleep_until(self, deadline_ns: int) -> None:
        # A backend's timer may be early by its grain: aim again until the deadline has passed.
        while (left_ns := deadline_ns - self.monotonic_ns()) > 0:  # noqa: ASYNC110 - no event: time
            await anyio.sleep(left_ns / NS_PER_S)
        await anyio.lowlevel.checkpoint()

    def timeout(self, duration_s: float | None) -> AbstractContextManager[anyio.CancelScope]:
        return anyio.move_on_after(duration_s)


@final
class ManualClock:
    """A ``Clock`` that stands still until ``advance`` or ``step_wall`` moves it; for tests."""

    def __init__(self, *, now_ns: int = 1_700_000_000 * NS_PER_S, monotonic_ns: int = 0) -> None:
        self._now_ns = now_ns
        self._monotonic_ns = monotonic_ns
        self._sleepers: list[tuple[int, int, Callable[[], None]]] = []
        self._arrivals = 0

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    @property
    def sleeper_count(self) -> int:
        """How many tasks wait for a later time."""
        return len(self._sleepers)

    def advance(self, duration_s: float) -> None:
        """Move both clocks on and wake, in order of their deadlines, the tasks that are due."""
        assert duration_s >= 0
        step_ns = round(duration_s * NS_PER_S)
        self._now_ns += step_ns
        self._monotonic_ns += step_ns
        while self._sleepers and self._sleepers[0][0] <= self._monotonic_ns:
            heapq.heappop(self._sleepers)[2]()

    def step_wall(self, step_s: float) -> None:
        """Step the wall clock alone, also backwards, as an administrator or NTP does."""
        self._now_ns += round(step_s * NS_PER_S)

    async def sleep(self, duration_s: float) -> None:
        await self.sleep_until(self._monotonic_ns + round(max(0.0, duration_s) * NS_PER_S))

    async def sleep_until(self, deadline_ns: int) -> None:
        if deadline_ns <= self._monotonic_ns:
            await anyio.lowlevel.checkpoint()
            return
        due = anyio.Event()
        with self._at(deadline_ns, due.set):
            await due.wait()

    @contextmanager
    def timeout(self, duration_s: float | None) -> Iterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            if duration_s is None:
                yield scope
                return
            deadline_ns = self._monotonic_ns + round(max(0.0, duration_s) * NS_PER_S)
            with self._at(deadline_ns, scope.cancel):
                yield scope

    @contextmanager
    def _at(self, deadline_ns: int, wake: Callable[[], None]) -> Iterator[None]:
        self._arrivals += 1
        sleeper = (deadline_ns, self._arrivals, wake)
        heapq.heappush(self._sleepers, sleeper)
        try:
            yield
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)


async def within(
    clock: Clock, timeout_s: float | None, work: Callable[[], Awaitable[object]]
) -> bool:
    """Run ``work()`` for at most ``timeout_s`` of the clock; return whether it ended by itself."""
    with clock.timeout(timeout_s) as scope:
        await work()
    return not scope.cancelled_caught
