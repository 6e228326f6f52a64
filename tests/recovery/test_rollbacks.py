"""Rollbacks by a person: to a checkpoint, to the code before a reload, with or without messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

import ringflow
from ringflow.simulate.files import CrashingFiles
from tests.engine.doubles import FaultyDevice
from tests.engine.kernels import Add, Total, Trap, adder, code, expected_state
from tests.engine.story import Recorder, send_all, state_of
from tests.recovery.crashes import crash, engine_on, events_of

pytestmark = pytest.mark.anyio


async def apply(kernel: ringflow.KernelHandle, values: list[int]) -> None:
    """Send values and wait until the kernel has applied them."""
    for value in values:
        receipt = await kernel.send(Add(value))
    await receipt.done()


async def total_of(kernel: ringflow.KernelHandle) -> int:
    return int((await kernel.call(Total(), timeout_s=60)).array("uint64")[0])


async def test_undone_messages_are_gone_for_good() -> None:
    """State and every later restart are those of a kernel that never got them."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await apply(kernel, [1, 2])
        await engine.checkpoint("adder", name="good")
        await apply(kernel, [100, 200])
        result = await engine.rollback(
            "adder", to="good", undo_messages=True, actor="ops", reason="bad feed"
        )
        assert (result.checkpoint, result.undone_count) == ("adder@good", 2)
        await apply(kernel, [3])
        assert (await state_of(kernel))[:3] == expected_state([1, 2, 3])
        (told,) = await events_of(engine, "kernel.rolled_back.v1")
        assert (told.actor, told.reason, told.was_applied) == ("ops", "bad feed", 4)
        after = crash(files)
    async with engine_on(after) as engine:
        kernel = engine.kernel("adder")
        assert (await state_of(kernel))[:3] == expected_state([1, 2, 3])
        await engine.migrate("adder", to="host:1")
        await apply(kernel, [4])
        assert (await state_of(kernel))[:3] == expected_state([1, 2, 3, 4])


async def test_a_rollback_without_undoing_loses_nothing_and_repeats_no_reply(
    engine: ringflow.Engine,
) -> None:
    """The messages since are applied again; who has seen a reply does not see it twice."""
    kernel = await engine.launch(adder(), device="host:0")
    recorder = Recorder(kernel)  # it checks that nothing comes twice
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        await recorder.started.wait()
        await apply(kernel, [1, 2])
        await engine.checkpoint("adder")
        await apply(kernel, [3, 4])
        await recorder.until(4)
        result = await engine.rollback("adder")
        assert (result.applied_sequence, result.undone_count) == (2, 0)
        await apply(kernel, [5])
        await recorder.until(5)
        tasks.cancel_scope.cancel()
    assert (await state_of(kernel))[:3] == expected_state([1, 2, 3, 4, 5])
    assert [reply.sequence for reply in recorder.replies] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("undo", [False, True])
async def test_the_code_from_before_a_reload_comes_back(undo: bool) -> None:
    """Long after its probation; it applies the messages since, or they are undone."""
    files = CrashingFiles()
    limits = ringflow.EngineLimits(recovery_points_kept=1)
    async with engine_on(files, limits=limits) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await apply(kernel, [1, 2])
        await engine.reload("adder", code("adder_double"), probation_messages=0)
        await apply(kernel, [10])
        for _ in range(3):  # retention keeps the way back
            await engine.checkpoint("adder")
        assert await total_of(kernel) == 23
        result = await engine.rollback("adder", before_reload=True, undo_messages=undo)
        assert result.version_id == "adder_v1"
        with pytest.raises(ringflow.UsageError, match="from before a reload"):
            await engine.rollback("adder", before_reload=True)
        expected = 0 if undo else 13
        assert await total_of(kernel) == expected
        await apply(kernel, [5])
        after = crash(files)
    async with engine_on(after) as engine:
        assert await total_of(engine.kernel("adder")) == expected + 5
        assert engine.kernels()[0].version_id == "adder_v1"


async def test_bad_code_that_halts_its_kernel_is_rolled_back(folder: Path) -> None:
    """The message was good: the old code applies it."""
    limits = ringflow.EngineLimits(traps_in_a_row=1)
    source = code().text.replace("case Add::id:", "case Add::id: __trap();", 1)
    bad = ringflow.KernelCodeSource.from_cuda(source, "adder", version_id="bad")
    async with ringflow.open_engine(folder, devices=["host:0"], limits=limits) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await apply(kernel, [1, 2])
        await engine.reload("adder", bad, probation_messages=0)
        receipt = await kernel.send(Add(3))
        with anyio.fail_after(60), pytest.raises(ringflow.KernelStalledError):
            await receipt.done()
        await engine.rollback("adder", before_reload=True, actor="ops")
        await receipt.done()
        assert (await state_of(kernel))[:3] == expected_state([1, 2, 3])


async def test_a_fall_back_never_goes_to_before_a_rollback() -> None:
    """Where its own file is gone the kernel waits for a copy, rather than be what was undone."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await apply(kernel, [1, 2])
        await engine.checkpoint("adder", name="good")
        await apply(kernel, [3])
        await engine.rollback("adder", to="good", undo_messages=True)
        after = crash(files)
    path = next(path for path in after.snapshot() if "@rollback" in path.name)
    whole = after.snapshot()[path]
    after.poke(path, whole[:-1])
    async with engine_on(after) as engine:
        assert "no usable recovery point" in engine.kernels()[0].reason
    after.poke(path, whole)
    async with engine_on(after) as engine:
        assert (await state_of(engine.kernel("adder")))[:3] == expected_state([1, 2])


@pytest.mark.parametrize("call", ["allocate", "load", "copy_in"])
async def test_a_rollback_that_cannot_be_prepared_changes_nothing(folder: Path, call: str) -> None:
    """The kernel works on, with every message."""
    device = FaultyDevice("host:0")
    devices: list[Any] = [device]
    async with ringflow.open_engine(folder, devices=devices) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await apply(kernel, [1, 2])
        await engine.checkpoint("adder", name="good")
        await apply(kernel, [3])
        device.fails_in = call
        with pytest.raises(ringflow.DeviceError, match="injected"):
            await engine.rollback("adder", to="good", undo_messages=True)
        await apply(kernel, [4])
        assert (await state_of(kernel))[:3] == expected_state([1, 2, 3, 4])
        assert await events_of(engine, "kernel.rolled_back.v1") == []


async def test_a_rollback_of_a_busy_kernel_keeps_what_was_not_applied_yet(
    engine: ringflow.Engine,
) -> None:
    """Undone is what was applied; what was accepted behind it is applied to the earlier state."""
    kernel = await engine.launch(adder(), device="host:0")
    await apply(kernel, [1])
    await engine.checkpoint("adder", name="one")
    async with anyio.create_task_group() as tasks:
        async with kernel.held():
            await send_all(kernel, range(2, 50))
        tasks.start_soon(lambda: engine.rollback("adder", to="one", undo_messages=True))
    (skipped,) = await events_of(engine, "messages.skipped.v1") or [None]
    undone = skipped.last_sequence if skipped else 1
    left = [1, *range(undone + 1, 50)]
    assert (await state_of(kernel))[:3] == expected_state(left)


async def test_requests_that_make_no_sense_change_nothing(engine: ringflow.Engine) -> None:
    """Each says what there is."""
    kernel = await engine.launch(adder(), device="host:0")
    with pytest.raises(ringflow.UsageError, match=r"no recovery point 'other'; it has adder@"):
        await engine.rollback("adder", to="other")
    with pytest.raises(ringflow.UsageError, match="give one of them"):
        await engine.rollback("adder", to="x", before_reload=True)
    async with kernel.held():
        with pytest.raises(ringflow.KernelBusyError):
            await engine.rollback("adder")
    await engine.stop("adder")
    with pytest.raises(ringflow.KernelStateError):
        await engine.rollback("adder")


async def test_what_a_person_named_is_kept_until_a_person_retires_it(folder: Path) -> None:
    """The limit counts the others; the newest recovery point can't be retired."""
    limits = ringflow.EngineLimits(recovery_points_kept=2)
    async with ringflow.open_engine(folder, devices=["host:0"], limits=limits) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await apply(kernel, [1])
        await engine.checkpoint("adder", name="named")
        for value in range(5):
            await apply(kernel, [value])
            await engine.checkpoint("adder")
        points = engine.recovery_points("adder")
        assert [point.pinned for point in points] == [True, False, False]
        files = {path.stem for path in (folder / "checkpoints").glob("*.rkcp")}
        assert files == {point.checkpoint for point in points}
        newest = points[-1].checkpoint
        with pytest.raises(ringflow.UsageError, match="newest recovery point"):
            await engine.retire_checkpoint("adder", newest)
        await engine.retire_checkpoint("adder", "named", actor="ops", reason="old")
        assert not (folder / "checkpoints" / "adder@named.rkcp").exists()
        retired = (await events_of(engine, "checkpoint.retired.v1"))[-1]
        assert (retired.checkpoint, retired.actor) == ("adder@named", "ops")
        with pytest.raises(ringflow.UsageError, match="no checkpoint 'named'"):
            await engine.retire_checkpoint("adder", "named")


async def test_a_rollback_of_a_volatile_kernel_says_what_is_lost(engine: ringflow.Engine) -> None:
    """Nothing can be applied again; sequences go on."""
    kernel = await engine.launch(adder(durability="volatile"), device="host:0")
    await apply(kernel, [1, 2])
    await engine.checkpoint("adder")
    await apply(kernel, [3])
    await engine.rollback("adder")
    await apply(kernel, [4])
    assert (await state_of(kernel))[:3] == expected_state([1, 2, 4])
    (lost,) = await events_of(engine, "messages.lost.v1")
    assert (lost.first_sequence, lost.last_sequence) == (3, 3)


async def test_a_halted_kernel_is_rolled_back_behind_its_poison(folder: Path) -> None:
    """The poison and what led to it are undone; what waited behind it is applied."""
    limits = ringflow.EngineLimits(traps_in_a_row=1)
    async with ringflow.open_engine(folder, devices=["host:0"], limits=limits) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await apply(kernel, [1, 2])
        await engine.checkpoint("adder", name="good")
        async with kernel.held():
            await send_all(kernel, [50])
            receipt = await kernel.send(Trap())
            await send_all(kernel, [3])
        with anyio.fail_after(60), pytest.raises(ringflow.KernelStalledError):
            await receipt.done()
        result = await engine.rollback("adder", to="good", undo_messages=True)
        assert result.undone_count == 2
        with pytest.raises(ringflow.MessageSkippedError):
            await receipt.done()
        assert (await state_of(kernel))[:3] == expected_state([1, 2, 3])
