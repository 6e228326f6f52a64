"""What serves a pump, against pumps that are made of queues."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import cast

import anyio
import attrs
import pytest

from ringflow.device.abi import KernelFault, KernelState
from ringflow.device.api import LaunchStatus
from ringflow.device.native import LISTENERS_MAX, Listener, native
from ringflow.device.pump import Pump, PumpReport
from ringflow.engine.pumping import PumpListener, PumpThread
from ringflow.errors import LimitExceededError

pytestmark = pytest.mark.anyio

_REPORT = PumpReport(
    key=1,
    outputs=(),
    done_sequence=0,
    taken_sequence=0,
    generation=0,
    state=KernelState.RUNNING,
    status=LaunchStatus.RUNNING,
    steps=0,
    busy_ns=0,
    fault=KernelFault(0),
)


class _QueuePump:
    """``wait`` returns what was put; ``wake`` makes it return nothing."""

    def __init__(self) -> None:
        self.batches: SimpleQueue[list[PumpReport]] = SimpleQueue()

    def wait(self, timeout_s: float) -> list[PumpReport]:
        return self.batches.get()

    def wake(self) -> None:
        self.batches.put([])


def _report(done_sequence: int) -> PumpReport:
    return attrs.evolve(_REPORT, done_sequence=done_sequence)


async def test_reports_arrive_in_order_also_beyond_the_bound() -> None:
    """More batches than may wait at a time: the thread waits, nothing is lost or reordered."""
    pump, heard, done = _QueuePump(), list[int](), anyio.Event()

    def hear(report: PumpReport) -> None:
        heard.append(report.done_sequence)
        if report.done_sequence == 2000:
            done.set()

    thread = PumpThread(cast(Pump, pump), hear)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(thread.run)
        for number in range(1, 2000, 2):
            pump.batches.put([_report(number), _report(number + 1)])
        with anyio.fail_after(20):
            await done.wait()
        thread.close()
    assert heard == list(range(1, 2001))


async def test_what_a_report_breaks_is_raised_where_it_is_awaited() -> None:
    """An error in the event loop's callback is not lost, and it is the last callback."""
    pump, heard = _QueuePump(), list[int]()

    def hear(report: PumpReport) -> None:
        heard.append(report.done_sequence)
        raise ValueError("broken state")

    thread = PumpThread(cast(Pump, pump), hear)
    for number in (1, 2, 3):
        pump.batches.put([_report(number)])
    with anyio.fail_after(20), pytest.raises(ValueError, match="broken state"):
        await thread.run()
    assert heard == [1]


async def test_nothing_arrives_after_the_close() -> None:
    """What was on its way is dropped, and the thread ends."""
    pump, heard = _QueuePump(), list[int]()
    thread = PumpThread(cast(Pump, pump), lambda report: heard.append(report.done_sequence))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(thread.run)
        pump.batches.put([_report(1)])
        thread.close()
    assert heard == []


class _RingingPump:
    """``look`` returns what was put; after one in vain ``put`` rings once, as workers do."""

    def __init__(self) -> None:
        self.copies_much = False
        self.batches: deque[list[PumpReport]] = deque()
        self._event = os.eventfd(0, os.EFD_NONBLOCK)
        self._armed = False

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        try:
            yield Listener(0, self._event)
        finally:
            os.close(self._event)

    def put(self, reports: list[PumpReport]) -> None:
        self.batches.append(reports)
        if self._armed:
            self._armed = False
            os.eventfd_write(self._event, 1)

    def look(self) -> list[PumpReport]:
        if not self.batches:
            self._armed = True
            return []
        return self.batches.popleft()


async def test_a_listener_takes_all_in_order() -> None:
    """News before the start, while it is awake, and while it sleeps; none is lost."""
    pump, heard, done = _RingingPump(), list[int](), anyio.Event()

    def hear(report: PumpReport) -> None:
        heard.append(report.done_sequence)
        if report.done_sequence == 100:
            pump.put([_report(101)])
        if report.done_sequence in (60, 120, 121):  # kernels with large arrays come and go
            pump.copies_much = not pump.copies_much
        if len(heard) == 200:
            done.set()

    pump.put([_report(1), _report(2)])
    server = PumpListener(cast(Pump, pump), hear)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run)
        with anyio.fail_after(20):
            for number in range(3, 201):
                if number != 101:
                    pump.put([_report(number)])
                await anyio.lowlevel.checkpoint()
            await done.wait()
        server.close()
    assert sorted(heard) == list(range(1, 201))


async def test_what_breaks_a_listener_is_raised_where_it_is_awaited() -> None:
    """An error in the callback is not lost, and it is the last callback."""
    pump, heard = _RingingPump(), list[int]()

    def hear(report: PumpReport) -> None:
        heard.append(report.done_sequence)
        raise ValueError("broken state")

    for number in (1, 2, 3):
        pump.put([_report(number)])
    with anyio.fail_after(20), pytest.raises(ValueError, match="broken state"):
        await PumpListener(cast(Pump, pump), hear).run()
    assert heard == [1]


def test_listeners_are_bounded_and_used_again() -> None:
    """A process that opens and closes engines for ever keeps no descriptor a time."""
    taken: list[Listener] = []

    def take_all() -> None:
        while True:
            taken.append(native().take_listener())

    with pytest.raises(LimitExceededError, match="close one first"):
        take_all()
    assert 0 < len(taken) <= LISTENERS_MAX
    for listener in taken:
        native().give_back_listener(listener)
    again = native().take_listener()
    native().give_back_listener(again)
    assert again in taken
