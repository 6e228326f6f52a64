"""Forks: what a kernel was after a message, as a kernel of its own."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

import ringflow
from ringflow.simulate.files import CrashingFiles
from tests.engine.kernels import Add, Total, Trap, adder, code, expected_state
from tests.engine.story import cells_of, send_all, state_of
from tests.recovery.crashes import crash, engine_on, events_of

pytestmark = pytest.mark.anyio


async def apply(kernel: ringflow.KernelHandle, values: list[int]) -> None:
    for value in values:
        receipt = await kernel.send(Add(value))
    await receipt.done()


async def total_of(kernel: ringflow.KernelHandle) -> int:
    return int((await kernel.call(Total(), timeout_s=60)).array("uint64")[0])


@pytest.mark.parametrize("at", [0, 3, 5, 7, 10])
async def test_a_fork_has_the_state_after_its_message(engine: ringflow.Engine, at: int) -> None:
    """Before, at and after a checkpoint; the source is not touched and both go their own ways."""
    kernel = await engine.launch(adder(), device="host:0")
    await apply(kernel, [1, 2, 3, 4, 5])
    await engine.checkpoint("adder")
    await apply(kernel, [6, 7, 8, 9, 10])
    fork = await engine.fork("adder", at_sequence=at, device="host:1", actor="ops")
    assert fork.id == f"adder.at-{at}"
    await apply(fork, [100])
    assert (await state_of(fork))[:3] == expected_state([*range(1, at + 1), 100])
    assert (await state_of(kernel))[:3] == expected_state(list(range(1, 11)))
    (told,) = await events_of(engine, "kernel.forked.v1")
    assert (told.kernel_id, told.source, told.at_sequence) == (fork.id, "adder", at)
    (launched, *_) = engine.recovery_points(fork.id)
    assert (launched.replay_from, launched.barrier) == (1, True)


async def test_a_fork_with_other_code_begins_where_the_old_code_ended() -> None:
    """The messages up to there were the old code's; a restart needs nothing of the source."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await apply(kernel, [1, 2, 3])
        fork = await engine.fork(
            "adder", at_sequence=2, code=code("adder_double"), kernel_id="what-if"
        )
        cells = await cells_of(fork)
        await apply(fork, [10])
        assert await total_of(fork) == 23
        assert await total_of(kernel) == 6
        await engine.stop("adder")
        after = crash(files)
    async with engine_on(after) as engine:
        fork = engine.kernel("what-if")
        assert await total_of(fork) == 23
        assert len(cells) == 4096 * 4
        assert engine.kernels()[1].version_id == "adder_double"


async def test_a_fork_of_a_halted_kernel_shows_what_was_before_the_poison(folder: Path) -> None:
    """Also without the skipped message after it was resumed."""
    limits = ringflow.EngineLimits(traps_in_a_row=1)
    async with ringflow.open_engine(folder, devices=["host:0"], limits=limits) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await apply(kernel, [1, 2])
        receipt = await kernel.send(Trap())
        with anyio.fail_after(60), pytest.raises(ringflow.KernelStalledError):
            await receipt.done()
        before = await engine.fork("adder", at_sequence=2)
        assert await total_of(before) == 3
        with pytest.raises(ringflow.KernelTrappedError, match="message 3"):
            await engine.fork("adder", at_sequence=3, kernel_id="poisoned")
        await engine.resume("adder", "skip")
        await apply(kernel, [4])
        later = await engine.fork("adder", kernel_id="later")
        assert (await state_of(later))[:3] == expected_state([1, 2, 4])


async def test_a_fork_never_applies_messages_by_code_that_did_not(engine: ringflow.Engine) -> None:
    """After a reload, a restore and a rollback: what no kept point leads to is refused."""
    kernel = await engine.launch(adder(), device="host:0")
    await apply(kernel, [1, 2])
    await engine.reload("adder", code("adder_double"), probation_messages=0)
    await apply(kernel, [10, 20])
    before = await engine.fork("adder", at_sequence=1, kernel_id="before")
    assert await total_of(before) == 1
    after = await engine.fork("adder", at_sequence=3, kernel_id="after")
    assert await total_of(after) == 23
    saved = await kernel.checkpoint()
    await apply(kernel, [30])
    await kernel.restore(saved)
    await apply(kernel, [1])
    restored = await engine.fork("adder", kernel_id="restored")
    assert await total_of(restored) == await total_of(kernel) == 65
    point = next(one for one in engine.recovery_points("adder") if one.reason == "reload")
    operation = point.checkpoint.partition("@")[2]
    await engine.retire_checkpoint("adder", operation)
    with pytest.raises(ringflow.UsageError, match="change of code or state"):
        await engine.fork("adder", at_sequence=3, kernel_id="other")
    assert [status.kernel_id for status in engine.kernels()].count("other") == 0


async def test_a_fork_of_what_is_not_there_is_refused(engine: ringflow.Engine) -> None:
    """A later message, another kernel, a used id, messages that were never journaled."""
    kernel = await engine.launch(adder(), device="host:0")
    await apply(kernel, [1])
    with pytest.raises(ringflow.UsageError, match=r"up to 1, .* at 2"):
        await engine.fork("adder", at_sequence=2)
    with pytest.raises(ringflow.UnknownKernelError):
        await engine.fork("nobody")
    with pytest.raises(ringflow.DuplicateKernelError):
        await engine.fork("adder", kernel_id="adder")
    volatile = await engine.launch(adder("volatile", durability="volatile"), device="host:0")
    await send_all(volatile, [1, 2])
    await state_of(volatile)
    with pytest.raises(ringflow.UsageError, match="does not have all messages"):
        await engine.fork("volatile", at_sequence=2)
    point = await engine.checkpoint("volatile")
    fork = await engine.fork("volatile", at_sequence=point.applied_sequence)
    assert await total_of(fork) == 3
