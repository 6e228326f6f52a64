"""The pump's thread: native reports come in batches, straight into the event loop.

- One thread stays in the native wait and has the loop call back, once a batch; a thread call per
  batch would cost two slow wake-ups, a pipe a task switch.
- The queue between thread and event loop is bounded; at the bound the thread waits, the rings fill,
  and new messages wait for credits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import anyio
import anyio.to_thread

from ringflow.device.pump import Pump, PumpReport
from ringflow.journal.thread import Bell, LoopCaller, loop_caller

_WAIT_S: Final = 5.0
_BATCHES_MAX: Final = 256


class PumpThread:
    """Brings a pump's reports to ``on_report``, in the event loop, until ``close``."""

    def __init__(self, pump: Pump, on_report: Callable[[PumpReport], None]) -> None:
        self._pump = pump
        self._on_report = on_report
        self._given = self._taken = 0  # batches: the thread counts the one, the loop the other
        self._room = Bell()
        self._closed = False
        self._failure: Exception | None = None

    def close(self) -> None:
        """Make ``run`` return; what the loop has not taken in yet is dropped."""
        self._closed = True
        self._room.ring()
        self._pump.wake()

    async def run(self) -> None:
        """Serve until ``close``; as a task. Raises what ``on_report`` raised."""
        soon = loop_caller()
        with anyio.CancelScope(shield=True):  # it ends by ``close``, which always comes
            await anyio.to_thread.run_sync(self._serve, soon, limiter=anyio.CapacityLimiter(1))
        if self._failure is not None:
            raise self._failure

    def _serve(self, soon: LoopCaller) -> None:
        while not self._closed:
            reports = self._pump.wait(_WAIT_S)
            if reports:
                self._await_room()
                self._given += 1
                soon(partial(self._take, reports))

    def _await_room(self) -> None:
        while self._given - self._taken >= _BATCHES_MAX and not self._closed:
            self._room.wait()

    def _take(self, reports: list[PumpReport]) -> None:
        """Take a batch in, in the event loop; the first error is the last batch."""
        self._taken += 1
        self._room.ring()
        if self._closed:
            return
        try:
            for report in reports:
                self._on_report(report)
        except Exception as error:  # raised by ``run``, which somebody awaits
            self._failure = error
            self.close()
