"""The pump's thread: native reports come in batches and wake the event loop once a batch.

- One thread stays in the native wait; a thread call per batch would cost two slow wake-ups.
- The queue between thread and event loop is bounded; at the bound the thread waits, the rings fill,
  and new messages wait for credits.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import anyio
import anyio.to_thread

from ringflow.device.pump import Pump, PumpReport

_WAIT_S: Final = 5.0
_BATCHES_MAX: Final = 256


class PumpThread:
    """Brings a pump's reports to ``on_report``, in the event loop, until ``close``."""

    def __init__(self, pump: Pump, on_report: Callable[[PumpReport], None]) -> None:
        self._pump = pump
        self._on_report = on_report
        self._batches: deque[list[PumpReport]] = deque()
        self._room = threading.Semaphore(_BATCHES_MAX)
        self._closed = False

    @property
    def waiting_batches(self) -> int:
        return len(self._batches)

    def close(self) -> None:
        """Make ``run`` return; what the pump has not reported yet is dropped."""
        self._closed = True
        self._room.release()
        self._pump.wake()

    async def run(self) -> None:
        """Serve until ``close``; as a task."""
        ready, wake = os.pipe()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._run_thread, wake)
                while not self._closed:
                    await anyio.wait_readable(ready)
                    os.read(ready, 4096)
                    self._take()
        finally:
            os.close(ready)
            os.close(wake)

    async def _run_thread(self, wake: int) -> None:
        with anyio.CancelScope(shield=True):  # it ends by ``close``, which always comes
            await anyio.to_thread.run_sync(self._pump_on, wake, limiter=anyio.CapacityLimiter(1))

    def _pump_on(self, wake: int) -> None:
        while not self._closed:
            reports = self._pump.wait(_WAIT_S)
            if reports:
                self._room.acquire()
                self._batches.append(reports)
                os.write(wake, b"\0")
        os.write(wake, b"\0")

    def _take(self) -> None:
        while self._batches:
            for report in self._batches.popleft():
                self._on_report(report)
            self._room.release()
