"""Kernels whose grids return for a moment while a GPU loads code: the engine on the stand-in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain, repeat
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import ringflow
from ringflow.device.abi import Command
from ringflow.device.cuda import device
from ringflow.device.parking import lot_of
from ringflow.engine.replay import replay_records
from tests.cuda.standin import Standin
from tests.engine.kernels import Total, adder, code, expected_state, leaving
from tests.engine.story import Producer, Recorder, close_gate, open_gate, send_all, state_of
from tests.recovery.crashes import events_of

pytestmark = pytest.mark.anyio

BESIDE = {"loads_while_running": True}


async def pauses(engine: ringflow.Engine, count: int) -> list[Any]:
    """Return the journaled pauses, once there are so many: each is told a moment after its end."""
    with anyio.fail_after(20):
        while len(found := await events_of(engine, "device.kernels_parked.v1")) < count:
            pass
    return found


async def test_a_reload_parks_the_gpus_kernels_and_says_so(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """Those of the other GPU work on; nobody's messages are lost, doubled or reordered."""
    kernel = await engine.launch(adder(), device="cuda:0")
    await engine.launch(adder("beside"), device="cuda:0")
    await engine.launch(adder("elsewhere"), device="cuda:1")
    beside = engine.kernel("beside")
    recorder, producer = Recorder(beside), Producer(beside)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        await recorder.started.wait()
        tasks.start_soon(producer.run)
        await producer.until(20)
        await engine.reload("adder", code("adder_double"), probation_messages=0)
        await producer.until(len(producer.values) + 20)
        last = await producer.stop()
        await recorder.until(last)
        tasks.cancel_scope.cancel()
    assert [reply.sequence for reply in recorder.replies] == list(range(1, last + 1))
    assert (await state_of(beside))[:3] == expected_state(producer.values)
    await send_all(kernel, range(5))
    assert (await state_of(kernel))[1] == 2 * sum(range(5))
    parked = await pauses(engine, 2)
    assert [(one.device, one.purpose, one.kernels) for one in parked] == [
        ("cuda:0", "load", ("adder",)),
        ("cuda:0", "load", ("adder", "beside")),
    ]
    assert all(one.pause_ns > 0 and not one.failure for one in parked)
    assert replay_records(engine._core.journal.records()).difference is None


@pytest.mark.parametrize("gpus", [BESIDE], indirect=True)
async def test_a_driver_that_loads_beside_kernels_parks_none(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """They don't pause for it."""
    await engine.launch(adder(), device="cuda:0")
    await engine.launch(adder("beside"), device="cuda:0")
    await engine.reload("adder", code("adder_double"), probation_messages=0)
    assert await events_of(engine, "device.kernels_parked.v1") == []


async def test_a_hold_that_began_before_is_kept(engine: ringflow.Engine, gpus: Standin) -> None:
    """The state that its user looks at is the same afterwards."""
    kernel = await engine.launch(adder(), device="cuda:0")
    await send_all(kernel, range(5))
    with anyio.fail_after(20):  # a hold that no kernel answers takes longer
        async with kernel.held() as state:
            before = state["state"].numpy().tobytes()
            await engine.launch(adder("late"), device="cuda:0")
            assert state["state"].numpy().tobytes() == before
    assert (await state_of(kernel))[:3] == expected_state(list(range(5)))


async def test_a_hold_that_was_asked_for_before_is_got_after(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """The kernel comes to a boundary, returns for the load, and is held when it goes on."""
    kernel = await engine.launch(adder(), device="cuda:0")
    await close_gate(engine, kernel)
    resident = engine._core.runtimes["adder"].instance.resident
    got = anyio.Event()

    async def hold() -> None:
        async with kernel.held():
            got.set()

    async def until(reached: Callable[[], bool]) -> None:
        while not reached():
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(20):  # a hold that no kernel answers takes longer
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            await until(lambda: resident._command is Command.HOLD)
            tasks.start_soon(partial(engine.launch, adder("late"), device="cuda:0"))
            await until(lambda: resident._parked)
            open_gate(engine)
            await got.wait()


async def test_a_kernel_that_leaves_its_loop_while_it_is_to_be_parked_does_not_go_on(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """Its message would count as done; it is tried again, and halts the kernel in the end."""
    kernel = await engine.launch(adder(code=leaving("Wait")), device="cuda:0")
    await send_all(kernel, range(5))
    await close_gate(engine, kernel)
    resident = engine._core.runtimes["adder"].instance.resident
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(engine.launch, adder("late"), device="cuda:0"))
            while not resident._parked:
                await anyio.lowlevel.checkpoint()
            open_gate(engine)
        while (status := engine.kernels()[0]).state != "halted" or engine._core.busy:
            if status.state == "running":
                open_gate(engine)
            await anyio.sleep(0.001)
    assert "returned from its loop by itself while handling message 6" in status.reason
    assert not engine.devices()[0].lost
    await engine.resume("adder", "skip")
    assert (await state_of(kernel))[:3] == expected_state(list(range(5)))


async def test_a_kernel_that_does_not_return_keeps_others_from_loading(
    engine: ringflow.Engine, gpus: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launch fails and changes nothing; both kernels that were there work on."""
    busy = await engine.launch(adder("busy"), device="cuda:0")
    good = await engine.launch(adder("good"), device="cuda:0")
    lot = lot_of(engine.devices()[0])
    assert lot is not None
    receipt = await close_gate(engine, busy)
    with monkeypatch.context() as late:
        late.setattr(lot, "_now_ns", chain((0,), repeat(1 << 40)).__next__)
        with pytest.raises(ringflow.KernelStalledError, match="busy"):
            await engine.launch(adder("late"), device="cuda:0")
    assert [status.kernel_id for status in engine.kernels()] == ["busy", "good"]
    parked = await pauses(engine, 2)
    assert ["busy" in one.failure for one in parked] == [False, True]
    await send_all(good, range(5))
    assert (await state_of(good))[:3] == expected_state(list(range(5)))
    open_gate(engine, "busy")
    await receipt.done()
    await engine.launch(adder("late"), device="cuda:0")
    await busy.call(Total(), timeout_s=60)


async def test_code_is_given_back_when_no_kernel_runs_and_not_before(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """The driver would wait for all kernels of the GPU, for ever."""
    await engine.launch(adder("beside"), device="cuda:0")
    await engine.launch(adder(), device="cuda:0")
    before = len(gpus.calls("cuModuleUnload"))
    await engine.stop("adder")
    assert gpus.live(0) == 1
    assert len(gpus.calls("cuModuleUnload")) == before
    await engine.stop("beside")
    assert gpus.live(0) == 0
    calls = gpus.calls("cuModuleUnload")
    assert len(calls) == before + 2
    assert all(call.live == 0 for call in calls)


async def test_a_grid_that_does_not_fit_is_refused_and_changes_nothing(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """The error says what there is room for; the kernel that is there works on."""
    kernel = await engine.launch(adder(), device="cuda:0")
    free = [device.free_bytes for device in engine.devices()]
    with pytest.raises(ringflow.DeviceError, match="does not fit") as raised:
        await engine.launch(adder("large", grid=(500, 1, 1)), device="cuda:0")
    assert raised.value.code == "does not fit"
    assert [device.free_bytes for device in engine.devices()] == free
    await send_all(kernel, range(5))
    assert (await state_of(kernel))[:3] == expected_state(list(range(5)))
    large = await engine.launch(adder("smaller", grid=(4, 1, 1)), device="cuda:0")
    assert (await state_of(large))[2] == 0


async def test_a_migration_to_a_full_gpu_leaves_the_kernel_where_it_is(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """A grid that fills the target keeps all else out."""
    kernel = await engine.launch(adder(), device="cuda:0")
    full = await engine.launch(adder("full", grid="fill", block=(1024, 1, 1)), device="cuda:1")
    await send_all(kernel, range(5))
    with pytest.raises(ringflow.OperationFailedError, match="does not fit") as raised:
        await engine.migrate("adder", to="cuda:1")
    assert raised.value.state == "rolled_back"
    for one in (kernel, full):
        await send_all(one, range(5, 10))
    assert (await state_of(kernel))[:3] == expected_state(list(range(10)))
    assert (await state_of(full))[:3] == expected_state(list(range(5, 10)))


@pytest.mark.parametrize("gpus", [BESIDE], indirect=True)
async def test_code_that_waits_to_be_given_back_is_bounded(
    engine: ringflow.Engine, gpus: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that never returns is parked for it once in a while, whoever comes and goes."""
    monkeypatch.setattr(device, "UNLOADS_WAITING_MAX", 2)
    beside = await engine.launch(adder("beside"), device="cuda:0")
    before = len(gpus.calls("cuModuleUnload"))
    for number in range(3):
        await engine.launch(adder(f"guest{number}"), device="cuda:0")
        await engine.stop(f"guest{number}")
        await send_all(beside, [number])
    assert len(gpus.calls("cuModuleUnload")) == before + 3
    (parked,) = await pauses(engine, 1)
    assert (parked.purpose, parked.kernels) == ("unload", ("beside",))
    assert (await state_of(beside))[:3] == expected_state([0, 1, 2])
