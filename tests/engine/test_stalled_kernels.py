"""Kernels that stay in a message: every operation has one deadline, and nobody waits behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import ringflow
from ringflow.clock import ManualClock
from ringflow.device.abi import Command
from ringflow.engine.runtime import ANSWER_S
from tests.engine.kernels import Add, Total, Wait, adder, code, expected_state
from tests.engine.story import close_gate, open_gate, send_all, state_of

pytestmark = pytest.mark.anyio

STEP_S = 30.0
"""What ``EngineLimits`` gives a step."""


class NotingClock:
    """A clock that a test moves, and that notes the waits that came to nothing."""

    def __init__(self) -> None:
        self._clock = ManualClock()
        self.now_ns, self.monotonic_ns = self._clock.now_ns, self._clock.monotonic_ns
        self.sleep, self.sleep_until = self._clock.sleep, self._clock.sleep_until
        self.advance = self._clock.advance
        self.expired_s: list[float] = []

    @contextmanager
    def timeout(self, duration_s: float | None) -> Iterator[anyio.CancelScope]:
        with self._clock.timeout(duration_s) as scope:
            yield scope
        if duration_s is not None and scope.cancelled_caught:
            self.expired_s.append(duration_s)

    async def run(self) -> None:
        """Let time pass for whoever waits for it, until this is cancelled."""
        while True:
            await anyio.lowlevel.checkpoint()
            self.advance(0.5)

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Let time pass for the block."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.run)
            yield
            tasks.cancel_scope.cancel()


@pytest.fixture
def clock() -> NotingClock:
    return NotingClock()


@pytest.fixture
async def engine(
    folder: Path, clock: NotingClock, anyio_backend: str
) -> AsyncIterator[ringflow.Engine]:
    async with anyio.create_task_group() as tasks:
        async with ringflow.open_engine(
            folder, devices=["host:0", "host:1"], clock=clock
        ) as opened:
            yield opened
            for kernel_id in opened._core.runtimes:
                open_gate(opened, kernel_id)
            tasks.start_soon(clock.run)  # after a failure kernels may still be stuck
        tasks.cancel_scope.cancel()


async def stuck(engine: ringflow.Engine, kernel_id: str = "adder") -> ringflow.KernelHandle:
    """Launch a kernel and have it stay in its second message."""
    kernel = await engine.launch(adder(kernel_id), device="host:0")
    await (await kernel.send(Add(1))).done()
    await close_gate(engine, kernel)
    return kernel


async def until(reached: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not reached():
            await anyio.lowlevel.checkpoint()


def told(engine: ringflow.Engine, command: Command) -> Callable[[], bool]:
    resident = engine._core.runtimes["adder"].instance.resident
    return lambda: resident._command is command


async def test_health_names_a_kernel_that_is_in_one_message_for_too_long(
    engine: ringflow.Engine, clock: NotingClock
) -> None:
    """From the deadline of a step on, and until it gets on."""
    kernel = await stuck(engine)
    await engine.launch(adder("idle"), device="host:0")
    clock.advance(STEP_S - 1)
    assert engine.health()["ok"]
    clock.advance(3)
    health = engine.health()
    assert not health["ok"]
    assert health["stalled"] == {"adder": STEP_S + 2}
    open_gate(engine)
    await kernel.call(Total(), timeout_s=60)
    assert engine.health()["ok"]
    assert engine.health()["stalled"] == {}


async def test_a_message_behind_others_is_in_progress_from_when_it_is_looked_at(
    engine: ringflow.Engine, clock: NotingClock
) -> None:
    """Nobody is told when it was begun, and the ones before may have taken all the time."""
    kernel = await stuck(engine)
    await send_all(kernel, range(3))
    await kernel.send(Wait())
    runtime = engine._core.runtimes["adder"]
    source = runtime.instance.resident
    open_gate(engine)
    await until(lambda: source.taken_sequence >= 6)
    clock.advance(2 * STEP_S)
    await until(lambda: engine.health()["ok"])


async def test_a_stop_of_a_kernel_that_does_not_answer_halts_it_at_its_deadline(
    engine: ringflow.Engine, clock: NotingClock
) -> None:
    """Counted from the beginning of the message; the kernel was left quiescing, after three."""
    kernel = await stuck(engine)
    await send_all(kernel, [5])
    clock.advance(20)
    async with clock.passing():
        with pytest.raises(ringflow.KernelStalledError, match="It is halted now"):
            await engine.stop("adder")
    assert clock.expired_s == [STEP_S - 20, ANSWER_S]
    (status,) = engine.kernels()
    assert status.state == "halted"
    assert "has not obeyed RETURN within 30.0 s of message 2" in status.reason
    await engine.resume("adder", "skip")
    assert (await state_of(kernel))[:3] == expected_state([1, 5])


async def test_a_kernel_that_is_halted_so_can_be_stopped(
    engine: ringflow.Engine, clock: NotingClock
) -> None:
    """It keeps its recovery points, and gives its memory back."""
    free_bytes = engine.devices()[0].free_bytes
    await stuck(engine)
    clock.advance(2 * STEP_S)
    async with clock.passing():
        with pytest.raises(ringflow.KernelStalledError):
            await engine.stop("adder")
    assert clock.expired_s == [ANSWER_S, ANSWER_S]
    await engine.stop("adder")
    assert engine.kernels()[0].state == "stopped"
    assert engine.devices()[0].free_bytes == free_bytes


@pytest.mark.parametrize("asks", ["migrate", "reload", "rollback", "checkpoint", "hold"])
async def test_an_operation_on_a_kernel_that_does_not_answer_ends_at_its_deadline(
    engine: ringflow.Engine, clock: NotingClock, asks: str
) -> None:
    """The kernel is left as it was, in its message, and works on when that is done."""
    kernel = await stuck(engine)

    async def hold() -> None:
        async with kernel.held():
            pass

    ways: dict[str, Callable[[], Any]] = {
        "migrate": lambda: engine.migrate("adder", to="host:1"),
        "reload": lambda: engine.reload("adder", code("adder_double")),
        "rollback": lambda: engine.rollback("adder"),
        "checkpoint": lambda: engine.checkpoint("adder"),
        "hold": hold,
    }
    clock.advance(20)
    resident = engine._core.runtimes["adder"].instance.resident

    async def pass_once_asked() -> None:
        await until(lambda: resident._command is not Command.RUN)
        await clock.run()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pass_once_asked)
        with pytest.raises(ringflow.RingflowError, match="has not obeyed"):
            await ways[asks]()
        tasks.cancel_scope.cancel()
    assert clock.expired_s[0] == STEP_S - 20
    assert clock.expired_s[1:] in ([], [ANSWER_S])
    assert engine.kernels()[0].state == "running"
    open_gate(engine)
    assert (await state_of(kernel))[:3] == expected_state([1])


async def test_leaving_the_block_waits_once_for_kernels_that_do_not_answer(
    folder: Path, clock: NotingClock
) -> None:
    """Whoever had its time already gets a moment; the next opening has every message."""
    async with anyio.create_task_group() as tasks:

        async def pass_once_closing(engine: ringflow.Engine) -> None:
            await until(lambda: engine._core.closing)
            await clock.run()

        async with ringflow.open_engine(folder, devices=["host:0"], clock=clock) as engine:
            await stuck(engine)
            await stuck(engine, "other")
            clock.advance(STEP_S - 10)
            tasks.start_soon(pass_once_closing, engine)
        tasks.cancel_scope.cancel()
    assert clock.expired_s[0] == 10
    assert sum(clock.expired_s) <= 10 + 3 * ANSWER_S
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        for kernel_id in ("adder", "other"):
            kernel = engine.kernel(kernel_id)
            open_gate(engine, kernel_id)
            assert int((await kernel.call(Total(), timeout_s=60)).array("uint64")[0]) == 1


async def test_a_cancelled_operation_gives_up_a_moment_later(
    engine: ringflow.Engine, clock: NotingClock
) -> None:
    """It waited for an answer to the withdrawal as long as for the kernel itself."""
    kernel = await stuck(engine)
    operation = engine.start_migration("adder", to="host:1")
    await until(told(engine, Command.RETURN))
    async with clock.passing():
        assert await operation.cancel()
    assert clock.expired_s == [ANSWER_S]
    assert engine.kernels()[0].state == "running"
    open_gate(engine)
    assert (await state_of(kernel))[:3] == expected_state([1])


async def test_a_restore_can_be_cancelled_while_it_waits_for_the_kernel(
    engine: ringflow.Engine, clock: NotingClock
) -> None:
    """Nothing is written before the kernel rests."""
    kernel = await engine.launch(adder(), device="host:0")
    checkpoint = await kernel.checkpoint()
    await send_all(kernel, [1])
    await close_gate(engine, kernel)
    scope = anyio.CancelScope()

    async def restore() -> None:
        with scope:
            await kernel.restore(checkpoint)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(restore)
        await until(told(engine, Command.RETURN))
        async with clock.passing():
            scope.cancel()
            await until(lambda: not engine._core.busy)
    assert clock.expired_s == [ANSWER_S]
    open_gate(engine)
    assert (await state_of(kernel))[:3] == expected_state([1])


async def test_code_that_hangs_on_probation_is_taken_off_when_that_is_over(
    engine: ringflow.Engine, clock: NotingClock
) -> None:
    """The grid is aborted: neither the end of its message nor its return is waited for."""
    hang = "while (((volatile unsigned long long*)state)[3] != 77ull) { }"
    source = code().text.replace("case Add::id:", f"case Add::id: {hang}", 1)
    new = ringflow.KernelCodeSource.from_cuda(source, "adder", version_id="hang")
    kernel = await engine.launch(adder(), device="host:0")
    await (await kernel.send(Add(1))).done()
    operation = await engine.start_reload("adder", new, at_sequence=2, probation_timeout_s=2)
    await send_all(kernel, [2])
    old = engine._core.runtimes["adder"].instance
    await until(lambda: engine._core.runtimes["adder"].instance is not old)
    hung = engine._core.runtimes["adder"].instance
    await until(lambda: hung.resident.taken_sequence == 2)
    async with clock.passing():
        with pytest.raises(ringflow.OperationFailedError, match="has not obeyed HOLD") as raised:
            await operation.result()
    assert raised.value.state == "rolled_back"
    assert clock.expired_s == [2.0, ANSWER_S]
    assert (await state_of(kernel))[:3] == expected_state([1, 2])


async def test_a_grid_that_returns_after_all_is_launched_again(
    engine: ringflow.Engine, clock: NotingClock
) -> None:
    """It had seen the RETURN before that was withdrawn, and takes long for its end."""
    tail = "    while (*(volatile unsigned long long*)&state[3] == 0) __nanosleep(10000);\n}\n"
    text = code().text.rstrip()
    assert text.endswith("}\n}")
    slow = ringflow.KernelCodeSource.from_cuda(text[:-1] + tail, "adder", version_id="slow")
    kernel = await engine.launch(adder(code=slow), device="host:0")
    await send_all(kernel, [1, 2])
    async with clock.passing():
        with pytest.raises(ringflow.OperationFailedError, match="RETURN") as raised:
            await engine.migrate("adder", to="host:1")
    assert raised.value.state == "rolled_back"
    receipt = await kernel.send(Add(3))
    open_gate(engine)
    with anyio.fail_after(20):
        await receipt.done()
    assert (await state_of(kernel))[:3] == expected_state([1, 2, 3])
    assert (await engine.migrate("adder", to="host:1")).target_device == "host:1"
