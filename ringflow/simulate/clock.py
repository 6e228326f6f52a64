"""The clock of a simulated world: time passes when the world says so, at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final

import anyio
import anyio.lowlevel

from ringflow.clock import NS_PER_S
from ringflow.simulate.agenda import Agenda

BEGIN_NS: Final = 1_700_000_000 * NS_PER_S  # the wall time at which a world begins


@final
class SimulatedClock:
    """``Clock`` whose waits are items of an agenda."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda
        self._wall_ns = BEGIN_NS

    def now_ns(self) -> int:
        return self._wall_ns + self._agenda.now_ns

    def monotonic_ns(self) -> int:
        return self._agenda.now_ns

    def step_wall(self, step_s: float) -> None:
        """Step the wall clock alone, also backwards, as an administrator or NTP does."""
        self._wall_ns += round(step_s * NS_PER_S)

    async def sleep(self, duration_s: float) -> None:
        await self.sleep_until(self._agenda.now_ns + round(max(0.0, duration_s) * NS_PER_S))

    async def sleep_until(self, deadline_ns: int) -> None:
        if deadline_ns <= self._agenda.now_ns:
            await anyio.lowlevel.checkpoint()
            return
        due = anyio.Event()
        item = self._agenda.add(deadline_ns, "sleep", due.set, is_time=True)
        try:
            await due.wait()
        finally:
            item.cancel()

    @contextmanager
    def timeout(self, duration_s: float | None) -> Iterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            if duration_s is None:
                yield scope
                return
            due_ns = self._agenda.now_ns + round(max(0.0, duration_s) * NS_PER_S)
            item = self._agenda.add(due_ns, "deadline", scope.cancel, is_time=True)
            try:
                yield scope
            finally:
                item.cancel()
