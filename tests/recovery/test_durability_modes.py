"""What each durability and replay mode announces, bounds and commits."""

from __future__ import annotations

from pathlib import Path

import anyio
import numpy as np
import pytest

import ringflow
from ringflow.device.abi import KernelState
from ringflow.engine.archiving import archive_folder
from ringflow.engine.runtime import KernelRuntime
from ringflow.simulate.files import CrashingFiles
from tests.engine.kernels import Add, Spin, adder, code, expected_state
from tests.engine.story import Recorder, state_of
from tests.recovery.crashes import FOLDER, crash, engine_on, events_of

pytestmark = pytest.mark.anyio

LONER = """
#include <ringflow.cuh>
extern "C" __global__ void loner(ringflow::control* control) {
    ringflow::kernel self(control);
    ringflow::message m;
    BODY
}
"""
STEPS = "while (self.step()) while (self.poll(m)) {}"
EMITS_ONCE = """
    if (self.leader() && control->base_sequence == 0) self.emit(9, 1);
    while (self.receive(m)) {}
"""


async def apply(kernel: ringflow.KernelHandle, values: list[int]) -> None:
    for value in values:
        receipt = await kernel.send(Add(value))
    await receipt.done()


async def until_saved(engine: ringflow.Engine, count: int) -> list[int]:
    """Wait until so many snapshots are saved; return their last applied messages."""
    seen: list[int] = []

    def saved() -> bool:
        seen[:] = [
            point.applied_sequence
            for point in engine.recovery_points("adder")
            if point.reason == "snapshot"
        ]
        return len(seen) >= count and not engine.health()["running_operations"]

    with anyio.fail_after(60):
        await engine._core.rested.until(saved)
    return seen


@pytest.mark.parametrize("durability", ["async", "volatile"])
async def test_a_crash_announces_that_messages_may_be_lost(durability: str) -> None:
    """With the first sequence that is given again; an orderly end announces nothing."""
    files = CrashingFiles()
    spec = adder(durability=durability)
    async with engine_on(files) as engine:
        kernel = await engine.launch(spec, device="host:0")
        await apply(kernel, [1, 2])
        await engine.checkpoint("adder")
        await apply(kernel, [3])
        await events_of(engine, "messages.accepted.v1")
        after = crash(files)
    async with engine_on(after) as engine:
        kernel = engine.kernel("adder")
        (lost,) = await events_of(engine, "messages.lost.v1")
        kept = [1, 2] if durability == "volatile" else [1, 2, 3]
        assert (lost.first_sequence, lost.last_sequence) == (len(kept) + 1, 0)
        receipt = await kernel.send(Add(9))
        assert receipt.sequence == lost.first_sequence
        await receipt.done()
        assert (await state_of(kernel))[:3] == expected_state([*kept, 9])
    async with engine_on(after) as engine:
        assert len(await events_of(engine, "messages.lost.v1")) == 1


@pytest.mark.parametrize("durability", ["async", "volatile"])
async def test_archiving_after_a_crash_does_not_pass_for_an_orderly_end(durability: str) -> None:
    """The journal is closed in order then, the engine was not: what may be lost is announced."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(durability=durability), device="host:0")
        await apply(kernel, [1])
        await engine.checkpoint("adder")
        await apply(kernel, [2])
        after = crash(files)
    await archive_folder(FOLDER, target=None, delete=True, files=after)
    async with engine_on(after) as engine:
        assert len(await events_of(engine, "messages.lost.v1")) == 1


async def test_a_migration_of_a_checkpoint_kernel_commits_a_recovery_point() -> None:
    """A crash right after it goes back to what was migrated, and held replies are let go."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(replay="checkpoint"), device="host:0")
        recorder = Recorder(kernel)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recorder.run)
            await recorder.started.wait()
            await apply(kernel, [1, 2])
            assert recorder.replies == []
            result = await engine.migrate("adder", to="host:1")
            await recorder.until(2)
            tasks.cancel_scope.cancel()
        (_, point) = engine.recovery_points("adder")
        assert (point.reason, point.applied_sequence) == ("migration", 2)
        assert point.checkpoint == f"adder@{result.operation_id}"
        after = crash(files)
    async with engine_on(after) as engine:
        (status,) = engine.kernels()
        assert (status.device, status.applied_sequence) == ("host:1", 2)
        async with engine.kernel("adder").held() as state:
            assert tuple(state["state"].numpy()[:3]) == expected_state([1, 2])


async def test_checkpoints_after_so_many_messages_bound_the_replay() -> None:
    """A restart replays fewer than that; the files are no more than the limit."""
    files = CrashingFiles()
    spec = adder(checkpoint_every_messages=10)
    async with engine_on(files) as engine:
        kernel = await engine.launch(spec, device="host:0")
        for start in range(0, 50, 10):
            await apply(kernel, list(range(start, start + 10)))
            await until_saved(engine, min(3, start // 10 + 1))
        after = crash(files)
    async with engine_on(after) as engine:
        points = engine.recovery_points("adder")
        assert len(points) <= 4
        assert points[-1].applied_sequence >= 40
        assert (await state_of(engine.kernel("adder")))[:3] == expected_state(list(range(50)))
        assert engine.kernel("adder").spec.checkpoint_every_messages == 10


async def test_checkpoints_after_so_much_time() -> None:
    """Of the engine's clock, and only where something was applied since the last one."""
    clock = ringflow.ManualClock()
    spec = adder(checkpoint_every_s=60.0)
    async with ringflow.open_engine(
        FOLDER, devices=["host:0"], files=CrashingFiles(), clock=clock
    ) as engine:
        kernel = await engine.launch(spec, device="host:0")
        await apply(kernel, [1])
        clock.advance(59.0)
        await apply(kernel, [2])
        assert await events_of(engine, "snapshot.requested.v1") == []
        clock.advance(1.5)
        assert await until_saved(engine, 1) == [2]
        clock.advance(1000.0)
        await anyio.lowlevel.checkpoint()
        assert len(await events_of(engine, "snapshot.requested.v1")) == 1
        await apply(kernel, [3])  # at once: the time has passed, and no step's deadline may
        assert await until_saved(engine, 2) == [2, 3]
        (requested, _) = await events_of(engine, "snapshot.requested.v1")
        assert requested.reason == "periodic"


async def steps_on(runtime: KernelRuntime, body: str) -> None:
    """Wait until a kernel that steps has done so: real time passes beside the manual clock's."""
    before = runtime.steps
    with anyio.fail_after(30):
        while body == STEPS and runtime.steps == before:
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("body", [STEPS, EMITS_ONCE])
async def test_checkpoints_of_what_changes_without_messages(body: str) -> None:
    """Of a kernel that steps again and again; of one whose outputs are held just once."""
    clock = ringflow.ManualClock()
    spec = ringflow.KernelSpec(
        kernel_id="adder",
        kernel_type="loner",
        code=ringflow.KernelCodeSource.from_cuda(LONER.replace("BODY", body), "loner"),
        replay="checkpoint",
        checkpoint_every_s=60.0,
    )
    async with ringflow.open_engine(
        FOLDER, devices=["host:0"], files=CrashingFiles(), clock=clock
    ) as engine:
        await engine.launch(spec, device="host:0")
        runtime = engine._core.runtimes["adder"]
        with anyio.fail_after(30):
            await runtime.changed.until(lambda: runtime.state is KernelState.RUNNING)
            if body == EMITS_ONCE:
                await runtime.changed.until(lambda: runtime.outputs.held_count == 1)
        await steps_on(runtime, body)
        clock.advance(59.0)
        assert await events_of(engine, "snapshot.requested.v1") == []
        clock.advance(1.5)
        assert await until_saved(engine, 1) == [0]
        assert runtime.outputs.held_count == 0
        await steps_on(runtime, body)
        clock.advance(61.0)
        if body == STEPS:
            assert await until_saved(engine, 2) == [0, 0]
        clock.advance(1.0)
        requested = await events_of(engine, "snapshot.requested.v1")
        assert [event.reason for event in requested] == ["periodic"] * (2 if body == STEPS else 1)


async def test_a_checkpoint_that_is_due_waits_for_the_kernels_lease() -> None:
    """It comes when the operation has ended, without another message."""
    async with engine_on(CrashingFiles()) as engine:
        kernel = await engine.launch(adder(checkpoint_every_messages=3), device="host:0")
        operation = await engine.start_reload(
            "adder", code("adder_double"), probation_messages=1000, probation_timeout_s=600
        )
        async for event in operation.events():
            if event.wire_name == "reload.restored.v1":
                break
        await apply(kernel, [1, 2, 3, 4])
        assert await events_of(engine, "snapshot.requested.v1") == []
        await operation.cancel()
        (sequence,) = await until_saved(engine, 1)
        assert 3 <= sequence <= 4


async def test_a_spec_refuses_periods_that_are_none() -> None:
    for bad in ({"checkpoint_every_messages": -1}, {"checkpoint_every_s": -0.5}):
        with pytest.raises(ringflow.SpecError, match="none negative"):
            adder(**bad)


async def test_a_batch_that_is_refused_is_refused_as_a_whole(folder: Path) -> None:
    """With on_full='raise': there is room for all rows, or no part of them was accepted."""
    limits = ringflow.EngineLimits(parked_messages=2000)
    async with ringflow.open_engine(folder, devices=["host:0"], limits=limits) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        async with kernel.held():
            await kernel.send_many(Add, np.arange(500, dtype=np.uint64), on_full="raise")
            with pytest.raises(ringflow.LimitExceededError, match="2001"):
                await kernel.send_many(Add, np.arange(1501, dtype=np.uint64), on_full="raise")
            assert engine.kernels()[0].next_sequence == 501
            await kernel.send_many(Add, np.arange(1500, dtype=np.uint64), on_full="raise")
        receipt = await kernel.send(Spin(1))
        await receipt.done()
        assert receipt.sequence == 2001


async def test_leftovers_of_a_crash_are_deleted_at_the_next_opening() -> None:
    """Temporary files of checkpoints and objects; what others put there stays."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await apply(kernel, [1])
        after = crash(files)
    names = ["checkpoints/adder@x.rkcp.tmp", "objects/" + "a" * 64 + ".tmp"]
    for name in [*names, "checkpoints/notes.txt"]:
        after.poke(FOLDER / name, b"half")
    async with engine_on(after) as engine:
        found = {str(path.relative_to(FOLDER)) for path in after.snapshot()}
        assert not found & set(names)
        assert "checkpoints/notes.txt" in found
        assert (await state_of(engine.kernel("adder")))[2] == 1


@pytest.mark.parametrize("damage", ["flipped", "missing"])
async def test_a_fall_back_is_told(damage: str) -> None:
    """An event names the checkpoint and the reason; the one before and the messages are used."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await apply(kernel, [1, 2])
        await engine.checkpoint("adder", name="good")
        await apply(kernel, [3])
        await engine.checkpoint("adder", name="bad")
        after = crash(files)
    path = FOLDER / "checkpoints" / "adder@bad.rkcp"
    if damage == "missing":
        after.delete(path)
    else:
        content = bytearray(after.snapshot()[path])
        content[len(content) // 2] ^= 1
        after.poke(path, bytes(content))
    async with engine_on(after) as engine:
        (fell,) = await events_of(engine, "kernel.recovery_fell_back.v1")
        assert fell.checkpoint == "adder@bad"
        assert ("no checkpoint" in fell.reason) is (damage == "missing")
        assert (await state_of(engine.kernel("adder")))[:3] == expected_state([1, 2, 3])
        assert [one.checkpoint for one in engine.recovery_points("adder")][-1] == "adder@good"
