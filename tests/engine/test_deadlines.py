"""Deadlines of calls: one task keeps them all."""

from __future__ import annotations

from math import inf
from pathlib import Path

import anyio
import attrs
import pytest

import ringflow
from ringflow.clock import ManualClock
from ringflow.device.pump import Output
from ringflow.engine.deadlines import Deadlines
from ringflow.limits import EngineLimits
from tests.engine.kernels import Total, adder
from tests.engine.story import close_gate, open_gate

pytestmark = pytest.mark.anyio


@attrs.define(eq=False)
class _Wait:
    deadline_ns: int
    heard: list[int]

    def expire(self) -> None:
        self.heard.append(self.deadline_ns)


async def test_each_wait_expires_at_its_own_deadline_and_once() -> None:
    """Whatever the order in which they come; who is forgotten doesn't expire."""
    clock, heard = ManualClock(), list[int]()
    deadlines = Deadlines(clock)
    waits = [_Wait(deadlines.after(after_s), heard) for after_s in (5, 2, 9, 2, 0)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deadlines.run)
        for wait in waits[:2]:
            deadlines.watch(wait)
        await anyio.wait_all_tasks_blocked()
        for wait in waits[2:]:
            deadlines.watch(wait)
        await anyio.wait_all_tasks_blocked()
        assert heard == [0]
        deadlines.forget(waits[1])
        deadlines.forget(waits[1])
        for second in range(1, 12):
            clock.advance(1)
            await anyio.wait_all_tasks_blocked()
            expected = [at * 10**9 for at in (0, 2, 5, 9) if at <= second]
            assert heard == expected
        deadlines.watch(_Wait(deadlines.after(1), heard))
        await anyio.wait_all_tasks_blocked()
        clock.advance(1)
        await anyio.wait_all_tasks_blocked()
        assert heard[-1] == 12 * 10**9
        tasks.cancel_scope.cancel()


async def test_calls_with_many_deadlines_each_end_at_their_own(folder: Path) -> None:
    """A short one that comes after a long one doesn't wait for it."""
    failures: list[float] = []

    async def call(kernel: ringflow.KernelHandle, timeout_s: float) -> None:
        with pytest.raises(TimeoutError, match="stays accepted"):
            await kernel.call(Total(), timeout_s=timeout_s)
        failures.append(timeout_s)

    clock = ManualClock()
    async with ringflow.open_engine(folder, devices=["host:0"], clock=clock) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await close_gate(engine, kernel)
        async with anyio.create_task_group() as tasks:
            for timeout_s in (5.0, 1.0, 3.0, 0.0):
                tasks.start_soon(call, kernel, timeout_s)
            await anyio.wait_all_tasks_blocked()
            for second in range(6):
                assert failures == [one for one in (0.0, 1.0, 3.0, 5.0) if one <= second]
                clock.advance(1)
                await anyio.wait_all_tasks_blocked()
        open_gate(engine)
        assert (await kernel.call(Total(), timeout_s=60)).sequence == 6


async def test_a_call_may_wait_without_an_end(folder: Path) -> None:
    """Infinity is a time like any other."""
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        assert (await kernel.call(Total(), timeout_s=inf)).sequence == 1


async def test_a_reply_that_comes_with_the_deadline_is_not_thrown_away(folder: Path) -> None:
    """Both happen before the caller's task runs again."""
    replies: list[ringflow.Reply] = []

    async def call(kernel: ringflow.KernelHandle) -> None:
        replies.append(await kernel.call(Total(), timeout_s=60))

    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        gate = await close_gate(engine, kernel)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, kernel)
            await anyio.wait_all_tasks_blocked()
            waiter = engine._core.runtimes["adder"].outputs.calls[gate.sequence + 1]
            waiter.expire()
            waiter.resolve(Output(gate.sequence + 1, 0, 2, 0, b"in time"))
        open_gate(engine)
    assert [reply.payload for reply in replies] == [b"in time"]


async def test_a_call_that_finds_no_room_says_that_its_message_was_not_accepted(
    folder: Path,
) -> None:
    """Nothing of it is applied later, unlike a message that only was not answered in time."""
    limits = EngineLimits(parked_messages=1)
    async with ringflow.open_engine(folder, devices=["host:0"], limits=limits) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        receipt = await close_gate(engine, kernel)
        with pytest.raises(TimeoutError, match="not accepted"):
            await kernel.call(Total(), timeout_s=0.05)
        open_gate(engine)
        await receipt.done()
        assert (await kernel.call(Total(), timeout_s=60)).sequence == 2
