"""A GPU that is lost, on the stand-in: its kernels go on elsewhere, and the journal says why."""

from __future__ import annotations

import anyio
import pytest

import ringflow
from ringflow.device.cuda import launches
from ringflow.engine.migrating import MigrationPerformer
from ringflow.engine.operations import Outcome
from ringflow.engine.replay import replay_records
from ringflow.errors import DeviceLostError
from tests.cuda.standin import Fault, Standin
from tests.engine.kernels import Add, Total, Trap, adder, code, expected_state
from tests.engine.story import Producer, Recorder, send_all, state_of
from tests.recovery.crashes import events_of

pytestmark = pytest.mark.anyio


async def until_on(engine: ringflow.Engine, kernel_id: str, device: str) -> None:
    """Wait until a kernel works on a device, and nobody works on it any more."""

    def there() -> bool:
        status = next(one for one in engine.kernels() if one.kernel_id == kernel_id)
        return (status.device, status.state) == (device, "running") and not engine.is_busy(
            kernel_id
        )

    with anyio.fail_after(60):
        await engine._core.rested.until(there)


async def test_its_kernels_go_on_from_their_recovery_points_and_messages(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """On the other GPU; no message is lost, and no reply comes twice."""
    kernel = await engine.launch(adder(), device="cuda:0")
    await engine.launch(adder("idle"), device="cuda:0")
    recorder, producer = Recorder(kernel), Producer(kernel)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        await recorder.started.wait()
        tasks.start_soon(producer.run)
        await producer.until(20)
        gpus.kill(0)
        await until_on(engine, "adder", "cuda:1")
        await until_on(engine, "idle", "cuda:1")
        await producer.until(len(producer.values) + 20)
        last = await producer.stop()
        await recorder.until(last)
        tasks.cancel_scope.cancel()
    assert [reply.sequence for reply in recorder.replies] == list(range(1, last + 1))
    assert (await state_of(kernel))[:3] == expected_state(producer.values)
    (lost,) = await events_of(engine, "device.lost.v1")
    assert (lost.device, sorted(lost.kernels)) == ("cuda:0", ["adder", "idle"])
    assert "719" in lost.reason
    moved = await events_of(engine, "kernel.device_lost.v1")
    assert {(one.kernel_id, one.device) for one in moved} == {
        ("adder", "cuda:0"),
        ("idle", "cuda:0"),
    }
    assert set(engine.health()["lost_devices"]) == {"cuda:0"}
    assert not engine.health()["ok"]


async def test_kernels_of_a_gpu_that_fell_off_the_bus_go_on_elsewhere(
    engine: ringflow.Engine, gpus: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers 999 to everything, for ever."""
    monkeypatch.setattr(launches, "UNANSWERED_S", 0.1)
    kernel = await engine.launch(adder(), device="cuda:0")
    await send_all(kernel, range(10))
    gpus.kill(0, 999)
    await until_on(engine, "adder", "cuda:1")
    await send_all(kernel, range(10, 20))
    assert (await state_of(kernel))[:3] == expected_state(list(range(20)))
    (lost,) = await events_of(engine, "device.lost.v1")
    assert "CUDA_ERROR_UNKNOWN" in lost.reason


async def test_nothing_goes_to_it_any_more(engine: ringflow.Engine, gpus: Standin) -> None:
    """Launches and migrations there are refused and change nothing; others are placed elsewhere."""
    await engine.launch(adder(), device="cuda:0")
    gpus.kill(0)
    await until_on(engine, "adder", "cuda:1")
    with pytest.raises(DeviceLostError, match="cuda:0"):
        await engine.launch(adder("other"), device="cuda:0")
    with pytest.raises(DeviceLostError, match="cuda:0"):
        await engine.migrate("adder", to="cuda:0")
    await engine.launch(adder("other"))
    assert {status.device for status in engine.kernels()} <= {"cuda:1", "host:0"}


async def test_a_message_that_traps_is_blamed_and_no_other_kernel(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """It takes each GPU along, then halts its kernel on the host; the others work on."""
    poisoned = await engine.launch(adder("poisoned"), device="cuda:0")
    good = await engine.launch(adder("good"), device="cuda:0")
    await send_all(good, range(10))
    receipt = await poisoned.send(Trap())
    with pytest.raises(ringflow.KernelStalledError):
        await receipt.done()
    (halted,) = await events_of(engine, "kernel.halted.v1")
    assert (halted.kernel_id, halted.message_sequence, halted.attempts) == ("poisoned", 1, 3)
    trapped = await events_of(engine, "kernel.trapped.v1")
    assert {one.kernel_id for one in trapped} == {"poisoned"}
    assert {one.device for one in await events_of(engine, "device.lost.v1")} == {
        "cuda:0",
        "cuda:1",
    }
    await send_all(good, range(10, 20))
    assert (await state_of(good))[:3] == expected_state(list(range(20)))


@pytest.mark.parametrize(
    "call", ["cuModuleLoadData", "cuMemcpyHtoDAsync", "cuLaunchCooperativeKernel"]
)
async def test_a_target_that_is_lost_leaves_the_kernel_on_its_source(
    engine: ringflow.Engine, gpus: Standin, call: str
) -> None:
    """Before the commit point the migration is rolled back, whatever has found the loss."""
    kernel = await engine.launch(adder(), device="cuda:0")
    await send_all(kernel, range(10))
    gpus.arm(Fault(call, code=700, ordinal=1))
    with pytest.raises(ringflow.OperationFailedError, match="700"):
        await engine.migrate("adder", to="cuda:1")
    await send_all(kernel, range(10, 20))
    assert (await state_of(kernel))[:3] == expected_state(list(range(20)))
    assert engine.kernels()[0].device == "cuda:0"
    assert set(engine.health()["lost_devices"]) == {"cuda:1"}


async def test_a_source_that_is_lost_in_a_migration_is_left(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """The kernel is rebuilt where there is room, with all messages."""
    kernel = await engine.launch(adder(), device="cuda:0")
    await send_all(kernel, range(10))
    gpus.arm(Fault("cuMemcpyPeerAsync", code=719, ordinal=0))
    with pytest.raises(ringflow.OperationFailedError):
        await engine.migrate("adder", to="cuda:1")
    await until_on(engine, "adder", "cuda:1")
    assert (await state_of(kernel))[:3] == expected_state(list(range(10)))


async def test_a_lost_reload_rolls_back_to_the_old_code_elsewhere(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """The GPU goes on probation, by no doing of the new code."""
    kernel = await engine.launch(adder(), device="cuda:0")
    await send_all(kernel, range(10))
    operation = await engine.start_reload("adder", code("adder_double"), probation_messages=50)
    async for event in operation.events():
        if event.wire_name == "reload.restored.v1":
            break
    await send_all(kernel, range(10, 20))
    gpus.kill(0)
    with pytest.raises(ringflow.OperationFailedError) as raised:
        await operation.result()
    assert raised.value.state == "rolled_back"
    assert (await state_of(kernel))[:3] == expected_state(list(range(20)))
    assert engine.kernels()[0].version_id == "adder_v1"
    assert engine.kernels()[0].device == "cuda:1"


async def test_the_last_device_that_is_lost_halts_its_kernels(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """The decision is a person's; nothing durable is lost."""
    kernel = await engine.launch(adder(), device="cuda:0")
    await send_all(kernel, range(10))
    gpus.kill(1)
    host = engine._core.devices.pop("host:0")  # as if it had never been there
    try:
        gpus.kill(0)
        with anyio.fail_after(60):
            await engine._core.rested.until(lambda: engine.kernels()[0].state == "halted")
        assert "no other device is left" in engine.kernels()[0].reason
    finally:
        engine._core.devices["host:0"] = host
    await engine.resume("adder", "retry")
    assert (await state_of(kernel))[:3] == expected_state(list(range(10)))


async def test_a_target_that_is_lost_past_the_commit_point_is_left_as_well(
    engine: ringflow.Engine, gpus: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration completes, the kernel works elsewhere, and the journal replays."""
    opens = MigrationPerformer._open_gate

    def lost(self: MigrationPerformer, ids: dict[str, str]) -> Outcome:
        opens(self, ids)
        gpus.kill(1)
        raise DeviceLostError("cuda:1", "the test says so")

    monkeypatch.setattr(MigrationPerformer, "_open_gate", lost)
    kernel = await engine.launch(adder(), device="cuda:0")
    await send_all(kernel, range(10))
    await engine.migrate("adder", to="cuda:1")
    assert engine.kernels()[0].device == "cuda:0"
    assert (await state_of(kernel))[:3] == expected_state(list(range(10)))
    (lost_there,) = await events_of(engine, "kernel.device_lost.v1")
    assert lost_there.device == "cuda:1"
    assert replay_records(engine._core.journal.records()).difference is None


async def test_the_journal_of_a_loss_replays(engine: ringflow.Engine, gpus: Standin) -> None:
    """What was decided about it follows from what is recorded."""
    kernel = await engine.launch(adder(), device="cuda:0")
    await send_all(kernel, range(5))
    gpus.kill(0)
    await until_on(engine, "adder", "cuda:1")
    await kernel.call(Total(), timeout_s=60)
    await engine.migrate("adder", to="host:0")
    await kernel.send(Add(5))
    assert await events_of(engine, "device.lost.v1")
    assert replay_records(engine._core.journal.records()).difference is None
