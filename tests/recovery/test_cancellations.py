"""Programs that are cancelled while they await the engine, by anyio and by asyncio itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import ringflow
from tests.engine.kernels import Add, adder, code, expected_state
from tests.engine.story import close_gate, open_gate, open_gate_once_closing, send_all, state_of
from tests.recovery.crashes import events_of

pytestmark = pytest.mark.anyio
Request = Callable[[ringflow.Engine], Coroutine[Any, Any, object]]

OPERATIONS: dict[str, Request] = {
    "migrate": lambda engine: engine.migrate("adder", to="host:1"),
    "reload": lambda engine: engine.reload("adder", code("adder_double")),
    "checkpoint": lambda engine: engine.checkpoint("adder"),
    "stop": lambda engine: engine.stop("adder"),
    "rollback": lambda engine: engine.rollback("adder"),
    "value": lambda engine: engine.kernel("adder").checkpoint(),
}


def _nothing() -> None:
    pass


async def _cancel_with_anyio(
    call: Awaitable[object], ready: anyio.Event, then: Callable[[], None] = _nothing
) -> None:
    """Cancel once ``ready``; ``then`` is called before the cancellation can have come out."""
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await call

        tasks.start_soon(run)
        await ready.wait()
        tasks.cancel_scope.cancel()
        then()


async def _cancel_with_asyncio(
    call: Coroutine[Any, Any, object], ready: anyio.Event, then: Callable[[], None]
) -> None:
    """What ``asyncio.wait_for`` does when its time is up."""
    task = asyncio.ensure_future(call)
    await ready.wait()
    task.cancel()
    then()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("cancelled_by", ["anyio", "asyncio"])
async def test_a_cancelled_request_is_over_and_the_kernel_works_on(
    folder: Path, anyio_backend: str, name: str, cancelled_by: str
) -> None:
    """When the cancellation comes out nothing is half-done: the kernel is free, on its device."""
    if anyio_backend == "trio":
        cancelled_by = "anyio"
    async with ringflow.open_engine(folder, devices=["host:0", "host:1"]) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, [1, 2, 3])
        await close_gate(engine, kernel)  # the kernel obeys no command before the gate opens
        async with told(engine, "kernel.quiesce_started.v1", "kernel.hold_started.v1") as ready:
            cancel = _cancel_with_anyio if cancelled_by == "anyio" else _cancel_with_asyncio
            await cancel(OPERATIONS[name](engine), ready, partial(open_gate, engine))
            assert not engine.is_busy("adder")
            assert engine.health()["running_operations"] == 0
        (status,) = engine.kernels()
        assert (status.state, status.device, status.version_id) == ("running", "host:0", "adder_v1")
        assert all(one.state in ("cancelled", "rolled_back") for one in engine.operations())
        await (await kernel.send(Add(4))).done()
        assert (await state_of(kernel))[1:3] == (10, 4)
        await engine.migrate("adder", to="host:1")
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        assert (await state_of(engine.kernel("adder")))[1:3] == (10, 4)


@asynccontextmanager
async def told(engine: ringflow.Engine, *names: str) -> AsyncIterator[anyio.Event]:
    """Yield an event that is set once one of these events of the journal is durable."""
    seen = anyio.Event()

    async def watch(records: Any) -> None:
        async for record in records:
            if any(event.wire_name in names for event in record.events):
                seen.set()
                return

    async with engine._core.journal.subscribe() as records, anyio.create_task_group() as tasks:
        tasks.start_soon(watch, records)
        yield seen
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("cancelled_by", ["anyio", "asyncio"])
async def test_after_its_commit_point_an_operation_completes(
    folder: Path, anyio_backend: str, cancelled_by: str
) -> None:
    """The cancellation waits for it; the kernel is on the target."""
    if anyio_backend == "trio":
        cancelled_by = "anyio"
    async with ringflow.open_engine(folder, devices=["host:0", "host:1"]) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, [1, 2, 3])
        async with told(engine, "migration.rerouted.v1") as rerouted:
            call = engine.migrate("adder", to="host:1")
            if cancelled_by == "anyio":
                await _cancel_with_anyio(call, rerouted)
            else:
                task = asyncio.ensure_future(call)
                await rerouted.wait()
                task.cancel()
                await asyncio.wait([task])
        (operation,) = engine.operations()
        assert operation.state == "completed"
        assert engine.kernels()[0].device == "host:1"
        assert (await state_of(kernel))[:3] == expected_state([1, 2, 3])


@pytest.mark.parametrize("cancelled_by", ["anyio", "asyncio"])
async def test_a_cancelled_launch_leaves_no_memory_and_no_half_kernel(
    folder: Path, anyio_backend: str, cancelled_by: str
) -> None:
    """Whether it was cut off in the compiler or at its first fsync."""
    if anyio_backend == "trio":
        cancelled_by = "anyio"
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        (device,) = engine.devices()
        free_bytes = device.free_bytes
        async with told(engine, "kernel.launch_requested.v1") as requested:
            call = engine.launch(adder())
            if cancelled_by == "anyio":
                await _cancel_with_anyio(call, requested)
            else:
                task = asyncio.ensure_future(call)
                await requested.wait()
                task.cancel()
                await asyncio.wait([task])
        (status,) = engine.kernels()
        assert status.state in ("failed", "running")
        if status.state == "failed":
            assert device.free_bytes == free_bytes
            assert len(await events_of(engine, "kernel.launch_failed.v1")) == 1


@pytest.mark.parametrize("cancelled_by", ["anyio", "asyncio"])
async def test_a_restore_is_never_torn(folder: Path, anyio_backend: str, cancelled_by: str) -> None:
    """Once the kernel rests for it, it is done to its end, also under asyncio's cancellation."""
    if anyio_backend == "trio":
        cancelled_by = "anyio"
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, [1, 2])
        await state_of(kernel)
        saved = await kernel.checkpoint()
        await (await kernel.send(Add(3))).done()
        async with told(engine, "kernel.quiesced.v1") as quiesced:
            call = kernel.restore(saved)
            if cancelled_by == "anyio":
                await _cancel_with_anyio(call, quiesced)
            else:
                task = asyncio.ensure_future(call)
                await quiesced.wait()
                task.cancel()
                await asyncio.wait([task])
        assert not engine.is_busy("adder")
        assert engine.kernels()[0].state == "running"
        await send_all(kernel, [4])
        assert (await state_of(kernel))[:3] == expected_state([1, 2, 4])


async def test_a_request_after_the_end_is_refused(folder: Path) -> None:
    """With the engine's own error, whatever is asked for."""
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        await engine.launch(adder(), device="host:0")
    for call in (
        engine.launch(adder("other")),
        engine.stop("adder"),
        engine.resume("adder"),
        engine.rollback("adder"),
        engine.fork("adder"),
        engine.retire_checkpoint("adder", "x"),
        engine.kernel("adder").checkpoint(),
    ):
        with pytest.raises(ringflow.EngineClosedError):
            await call


async def test_leaving_the_block_ends_what_is_under_way(folder: Path) -> None:
    """A rollback that waits for its kernel is cancelled, and its caller is told."""
    failures: list[BaseException] = []

    async def roll_back(engine: ringflow.Engine) -> None:
        try:
            await engine.rollback("adder", undo_messages=True)
        except ringflow.RingflowError as error:
            failures.append(error)

    async with (
        anyio.create_task_group() as tasks,
        ringflow.open_engine(folder, devices=["host:0"]) as engine,
    ):
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, [1, 2])
        await close_gate(engine, kernel)
        async with told(engine, "kernel.quiesce_started.v1") as resting:
            tasks.start_soon(roll_back, engine)
            await resting.wait()
        tasks.start_soon(open_gate_once_closing, engine)
    assert [type(error) for error in failures] == [ringflow.EngineClosedError]
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        assert (await state_of(engine.kernel("adder")))[:3] == expected_state([1, 2])
