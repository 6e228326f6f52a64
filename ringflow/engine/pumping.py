"""From the pump into the event loop: native reports come in batches.

- ``PumpListener``: devices that ring wake the event loop itself, which then looks; no thread lies
  between a kernel's answer and its reader.
- ``PumpThread``: for devices that have to be moved or watched. One thread stays in the native wait
  and has the loop call back, once a batch. The queue between the two is bounded; at the bound the
  thread waits, the rings fill, and new messages wait for credits.
- ``PumpByTurns``: where work is done by turns, in a simulation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import anyio
import anyio.lowlevel
import anyio.to_thread

from ringflow.device.api import Device, stepping_of
from ringflow.device.pump import Pump, PumpReport
from ringflow.journal.thread import Bell, LoopCaller
from ringflow.workers import Turns, turns_taken

_WAIT_S: Final = 5.0
_BATCHES_MAX: Final = 256

# By turns: kernels that go on without news make time pass faster and faster, so that a deadline on
# a stalled one takes a few dozen looks; whoever wants something of one begins it anew.
_LOOK_NS: Final = 10_000
_PATIENCE: Final = 256
_DOUBLINGS_MAX: Final = 30

OnReport = Callable[[PumpReport], None]


class PumpServer(Protocol):
    """Brings a pump's reports to ``on_report``, in the event loop, until ``close``."""

    async def run(self) -> None:
        """Serve until ``close``; as a task. Raises what ``on_report`` raised."""

    def close(self) -> None:
        """Make ``run`` return; what the loop has not taken in yet is dropped."""


def pump_server(pump: Pump, devices: Sequence[Device], on_report: OnReport) -> PumpServer:
    """Return what serves a pump for kernels on these devices."""
    if (turns := turns_taken()) is not None:
        return PumpByTurns(pump, on_report, turns)
    if any(stepping_of(device) is not None or not device.rings for device in devices):
        return PumpThread(pump, on_report)
    return PumpListener(pump, on_report)


class PumpListener:
    """``PumpServer`` for devices that ring when a kernel has news."""

    def __init__(self, pump: Pump, on_report: OnReport) -> None:
        self._pump = pump
        self._on_report = on_report
        self._called = anyio.Event()
        self._closed = self._copying = False
        self._failure: Exception | None = None

    def close(self) -> None:
        self._closed = True
        self._called.set()

    async def run(self) -> None:
        with self._pump.listening() as listener, anyio.CancelScope(shield=True):
            await self._serve(listener.event)
        if self._failure is not None:
            raise self._failure

    async def _serve(self, event: int) -> None:
        loop: Any = anyio.lowlevel.current_token().native_token
        if hasattr(loop, "add_reader"):  # asyncio: a task for each look would take twice as long
            loop.add_reader(event, self._ready, event, loop.call_soon)
            try:
                self._turn(loop.call_soon)
                await self._copy_when_called()
            finally:
                loop.remove_reader(event)
            return
        async with anyio.create_task_group() as tasks:  # trio

            async def watch() -> None:
                while True:
                    self._turn(call_soon)
                    await anyio.wait_readable(event)
                    os.eventfd_read(event)

            call_soon = loop.run_sync_soon
            tasks.start_soon(watch)
            await self._copy_when_called()
            tasks.cancel_scope.cancel()

    def _ready(self, event: int, call_soon: Callable[..., object]) -> None:
        os.eventfd_read(event)
        self._turn(call_soon)

    def _turn(self, call_soon: Callable[..., object]) -> None:
        """Take in what there is; what it has woken runs before the next turn."""
        if self._copying or self._pump.copies_much:
            self._called.set()
        elif not self._closed and self._take(self._pump.look()):
            call_soon(self._turn, call_soon)

    async def _copy_when_called(self) -> None:
        """Until the close: when there are large arrays, look in a thread."""
        own = anyio.CapacityLimiter(1)
        while not self._closed:
            await self._called.wait()
            self._called = anyio.Event()
            self._copying = True
            while not self._closed and self._take(
                await anyio.to_thread.run_sync(self._pump.look, limiter=own)
            ):
                pass
            self._copying = False

    def _take(self, reports: list[PumpReport]) -> bool:
        """Take reports in; False: there are none. The first error is the last report."""
        try:
            for report in reports:
                if self._closed:
                    break
                self._on_report(report)
        except Exception as error:  # raised by ``run``, which somebody awaits
            self._failure = error
            self.close()
        return bool(reports)


class PumpThread:
    """``PumpServer`` for devices that are moved by the pump, or never ring."""

    def __init__(self, pump: Pump, on_report: OnReport) -> None:
        self._pump = pump
        self._on_report = on_report
        self._given = self._taken = 0  # batches: the thread counts the one, the loop the other
        self._room = Bell()
        self._closed = False
        self._failure: Exception | None = None

    def close(self) -> None:
        self._closed = True
        self._room.ring()
        self._pump.wake()

    async def run(self) -> None:
        soon = LoopCaller()
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


class PumpByTurns:
    """``PumpServer`` of a simulation: a look each turn, as long as a kernel goes on."""

    def __init__(self, pump: Pump, on_report: OnReport, turns: Turns) -> None:
        self._pump = pump
        self._on_report = on_report
        self._turns = turns
        self._roused = anyio.Event()
        self._long_pause: anyio.Event | None = None
        self._closed = False

    def close(self) -> None:
        self._closed = True
        self._rouse()

    def _rouse(self) -> None:
        self._roused.set()
        if self._long_pause is not None:
            self._long_pause.set()
            self._long_pause = None

    async def run(self) -> None:
        self._pump.call_on_wake(self._rouse)
        quiet = 0
        with anyio.CancelScope(shield=True):  # it ends by ``close``, which always comes
            while not self._closed:
                doublings = max(0, min(quiet - _PATIENCE, _DOUBLINGS_MAX))
                if await self._cut_short(_LOOK_NS << doublings):
                    quiet = _PATIENCE
                    continue
                self._roused = anyio.Event()
                reports, moved = self._pump.move()
                quiet = 0 if reports else quiet + 1
                for report in reports:
                    if not self._closed:
                        self._on_report(report)
                if not moved and not reports and not self._closed:
                    await self._roused.wait()
                    quiet = 0

    async def _cut_short(self, duration_ns: int) -> bool:
        """Wait for the next look; whether a kernel was roused in what has become a long wait."""
        is_long, over = duration_ns > _LOOK_NS, anyio.Event()
        self._long_pause = over if is_long else None
        await self._turns.pause("look", duration_ns, over=over)
        cut_short = is_long and self._long_pause is None
        self._long_pause = None
        return cut_short
