"""The pump's thread against a pump that is made of a queue."""

from __future__ import annotations

from queue import SimpleQueue
from typing import cast

import anyio
import attrs
import pytest

from ringflow.device.abi import KernelFault, KernelState
from ringflow.device.api import LaunchStatus
from ringflow.device.pump import Pump, PumpReport
from ringflow.engine.pumping import PumpThread

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
