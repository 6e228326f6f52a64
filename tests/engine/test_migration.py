"""Live migration: under load, and with every step failing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

import ringflow
from ringflow.engine.runtime import KernelRuntime
from tests.engine.doubles import FaultyDevice
from tests.engine.kernels import Add, Spin, Total, adder, expected_state
from tests.engine.story import (
    Producer,
    Recorder,
    cancel_in_its_wait,
    cells_of,
    close_gate,
    open_gate,
    send_all,
    state_of,
)

pytestmark = pytest.mark.anyio


async def test_a_kernel_moves_while_messages_flow(engine: ringflow.Engine) -> None:
    """No message and no reply is lost, doubled or reordered, there and back."""
    kernel = await engine.launch(adder(), device="host:0")
    recorder, producer = Recorder(kernel), Producer(kernel)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        await recorder.started.wait()
        tasks.start_soon(producer.run)
        await producer.until(50)
        there = await engine.migrate("adder", to="host:1", actor="ops", reason="driver update")
        await producer.until(150)
        back = await engine.migrate("adder", to="host:0")
        await producer.until(200)
        last = await producer.stop()
        await recorder.until(last)
        tasks.cancel_scope.cancel()
    assert [reply.sequence for reply in recorder.replies] == list(range(1, last + 1))
    assert (await state_of(kernel))[:3] == expected_state(producer.values)
    assert (there.source_device, there.target_device) == ("host:0", "host:1")
    assert (back.source_device, back.target_device) == ("host:1", "host:0")
    assert there.state_bytes == 4 * 8 + 4096 * 4
    assert there.pause_s > 0
    assert engine.kernels()[0].device == "host:0"


async def test_the_source_gives_its_memory_back(engine: ringflow.Engine) -> None:
    """After the migration only the target holds the state."""
    before = [device.free_bytes for device in engine.devices()]
    await engine.launch(adder(), device="host:0")
    used = before[0] - engine.devices()[0].free_bytes
    await engine.migrate("adder", to="host:1")
    after = [device.free_bytes for device in engine.devices()]
    assert after == [before[0], before[1] - used]


async def test_a_migration_teaches_the_next_ones_estimate(engine: ringflow.Engine) -> None:
    """Only what was measured is said: nothing of the way back, nor of a device that isn't there."""
    await engine.launch(adder(), device="host:0")
    assert engine.estimate_transfer("adder", to="host:1") is None
    there = await engine.migrate("adder", to="host:1")
    assert engine.estimate_transfer("adder", to="host:0") is None
    back = await engine.migrate("adder", to="host:0")
    estimate = engine.estimate_transfer("adder", to="host:1")
    assert estimate is not None
    assert estimate.path == there.path == back.path == "host"
    assert 0 < estimate.transfer_s(there.state_bytes) <= there.transfer_s
    with pytest.raises(ringflow.UnknownDeviceError):
        engine.estimate_transfer("adder", to="host:7")


async def test_messages_park_in_the_pause_and_keep_their_order(engine: ringflow.Engine) -> None:
    """A message holds the quiesce up; what is sent meanwhile comes after it."""
    kernel = await engine.launch(adder(), device="host:0")
    await close_gate(engine, kernel)
    operation = engine.start_migration("adder", to="host:1")
    async for event in operation.events():
        if event.wire_name == "migration.target_prepared.v1":
            break
    last = await send_all(kernel, range(40))
    open_gate(engine)
    result = await operation.result()
    reply = await kernel.call(Total(), timeout_s=30)
    assert reply.sequence == last + 1
    assert result.parked_count == 40
    assert (await state_of(kernel))[:3] == expected_state(list(range(40)))


@pytest.mark.parametrize(
    ("device", "fault", "reason"),
    [
        ("target", "load", "PrepareTarget"),
        ("target", "allocate", "PrepareTarget"),
        ("source", "digest_blocks", "DigestSource"),
        ("source", "copy_to_peer", "TransferState"),
        ("target", "digest_blocks", "RestoreTarget"),
        ("target", "spoil", "differs from the source's in cells"),
        ("target", "launch", "RestoreTarget"),
    ],
)
async def test_each_failing_step_leaves_the_kernel_on_the_source(
    folder: Path, device: str, fault: str, reason: str
) -> None:
    """It works as before: same state, no message lost, the target's memory given back."""
    source, target = FaultyDevice("host:0"), FaultyDevice("host:1")
    devices: list[Any] = [source, target]
    async with ringflow.open_engine(folder, devices=devices) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, range(20))
        free = target.free_bytes
        {"source": source, "target": target}[device].fails_in = fault
        operation = engine.start_migration("adder", to="host:1")
        await send_all(kernel, range(20, 40))
        with pytest.raises(ringflow.OperationFailedError, match=reason) as raised:
            await operation.result()
        assert raised.value.state == "rolled_back"
        assert engine.kernels()[0].device == "host:0"
        assert target.free_bytes == free
        await send_all(kernel, range(40, 50))
        await kernel.call(Total(), timeout_s=30)
        assert (await state_of(kernel))[:3] == expected_state(list(range(50)))
        assert (await engine.migrate("adder", to="host:1")).target_device == "host:1"
    source.close()
    target.close()


async def test_a_cancelled_migration_leaves_the_kernel_at_work(engine: ringflow.Engine) -> None:
    """Cancelling before the commit point ends with the source running."""
    kernel = await engine.launch(adder(), device="host:0")
    await close_gate(engine, kernel)
    operation = engine.start_migration("adder", to="host:1")
    async for event in operation.events():
        if event.wire_name == "migration.target_prepared.v1":
            break
    await cancel_in_its_wait(engine, operation)
    with pytest.raises(ringflow.OperationCancelledError):
        await operation.result()
    assert engine.kernels()[0].device == "host:0"
    await kernel.send(Add(5))
    assert int((await kernel.call(Total(), timeout_s=60)).array("uint64")[0]) == 5


async def test_one_operation_at_a_time(engine: ringflow.Engine) -> None:
    """The second request is refused and names the first."""
    kernel = await engine.launch(adder(), device="host:0")
    await kernel.send(Spin(500))
    operation = engine.start_migration("adder", to="host:1")
    with pytest.raises(ringflow.KernelBusyError, match=operation.id):
        engine.start_migration("adder", to="host:1")
    with pytest.raises(ringflow.KernelBusyError):
        await engine.checkpoint("adder")
    await operation.result()
    assert len(await cells_of(kernel)) == 4096 * 4


async def test_the_events_of_a_migration_tell_its_steps(engine: ringflow.Engine) -> None:
    """In the order of the table, each once, all durable."""
    await engine.launch(adder(), device="host:0")
    operation = engine.start_migration("adder", to="host:1", actor="ops", reason="test")
    names = [event.wire_name.split(".")[1] async for event in operation.events()]
    steps = [name for name in names if not name.startswith(("quiesce", "resumed"))]
    assert steps == [
        *("requested", "preparation_started", "target_prepared", "source_quiesced"),
        *("checkpointed", "state_transferred", "target_restored", "rerouted"),
        *("gate_opened", "completed"),
    ]


async def test_a_gate_that_does_not_open_leads_to_the_recovery_point(
    engine: ringflow.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal says by then that the kernel is on the target: it is rebuilt there."""
    kernel = await engine.launch(adder(), device="host:0")
    before = engine.devices()[0].free_bytes
    await send_all(kernel, range(20))
    attach, broken = KernelRuntime.attach, [True]

    def attach_later(runtime: KernelRuntime) -> None:
        if runtime.instance.device.name == "host:1" and broken:
            broken.clear()
            raise ringflow.LimitExceededError("the number of kernels", 2, 1, "wait")
        attach(runtime)

    monkeypatch.setattr(KernelRuntime, "attach", attach_later)
    result = await engine.migrate("adder", to="host:1")
    assert not broken
    assert result.target_device == "host:1"
    last = await send_all(kernel, range(20, 30))
    assert (await kernel.call(Total(), timeout_s=30)).sequence == last + 1
    assert (await state_of(kernel))[:3] == expected_state(list(range(30)))
    assert engine.kernels()[0].device == "host:1"
    assert engine.devices()[0].free_bytes > before


async def test_memory_that_the_source_does_not_give_back_is_told(folder: Path) -> None:
    """A failed free after the commit point is no failed migration; the result says why."""
    source = FaultyDevice("host:0")
    devices: list[Any] = [source, FaultyDevice("host:1")]
    async with ringflow.open_engine(folder, devices=devices) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        source.fails_in = "free"
        result = await engine.migrate("adder", to="host:1")
        assert "injected in free" in result.retire_failure
        await send_all(kernel, [5])
        assert engine.kernels()[0].device == "host:1"
