"""When outputs may be seen: at once, after a probation, or once a recovery point covers them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

import ringflow
from ringflow.events.messages import MessagesLost
from ringflow.simulate.files import CrashingFiles
from tests.engine.doubles import FaultyDevice
from tests.engine.kernels import Add, Total, adder, code, expected_state
from tests.engine.story import (
    Recorder,
    close_gate,
    open_gate_once_closing,
    send_all,
    state_of,
)

pytestmark = pytest.mark.anyio

FOLDER = Path("/engine")


async def done(kernel: ringflow.KernelHandle, values: list[int]) -> None:
    """Send values and wait until the kernel has finished them."""
    for value in values:
        receipt = await kernel.send(Add(value))
    await receipt.done()


async def test_outputs_of_a_checkpoint_kernel_wait_for_their_recovery_point(
    engine: ringflow.Engine,
) -> None:
    """Nobody sees what a crash could contradict; the checkpoint lets it go, in order."""
    kernel = await engine.launch(adder(replay="checkpoint"), device="host:0")
    recorder = Recorder(kernel)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        await recorder.started.wait()
        await done(kernel, [1, 2, 3])
        assert recorder.replies == []
        await engine.checkpoint("adder")
        await recorder.until(3)
        await done(kernel, [4])
        assert len(recorder.replies) == 3
        tasks.cancel_scope.cancel()


async def test_outputs_go_at_once_where_the_spec_asks_for_it(engine: ringflow.Engine) -> None:
    """``release="at_once"`` is the user's own choice."""
    kernel = await engine.launch(adder(replay="checkpoint", release="at_once"), device="host:0")
    reply = await kernel.call(Total(), timeout_s=30)
    assert reply.sequence == 1


async def test_unseen_outputs_of_a_checkpoint_kernel_are_made_anew_after_a_crash() -> None:
    """Each comes once, after the restart's own recovery point."""
    files = CrashingFiles()
    async with ringflow.open_engine(FOLDER, devices=["host:0"], files=files) as engine:
        kernel = await engine.launch(adder(replay="checkpoint"), device="host:0")
        async with kernel.replies(consumer="recorder"):
            pass
        await done(kernel, [1, 2, 3])
        after = files.after_crash()
        files.crash_before_step(0)
    async with ringflow.open_engine(FOLDER, devices=["host:0"], files=after) as engine:
        kernel = engine.kernel("adder")
        recorder = Recorder(kernel)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recorder.run)
            await recorder.started.wait()
            await done(kernel, [4])
            assert recorder.replies == []
            await engine.checkpoint("adder")
            await recorder.until(4)
            tasks.cancel_scope.cancel()
    digests = [expected_state([1, 2, 3, 4][:count])[0] for count in range(1, 5)]
    assert [int(reply.array("uint64")[0]) for reply in recorder.replies] == digests


async def test_a_consumer_that_comes_on_probation_gets_the_old_codes_replies_too(
    engine: ringflow.Engine,
) -> None:
    """Its position is what may have been seen, not what is held."""
    kernel = await engine.launch(adder(), device="host:0")
    operation = await engine.start_reload(
        "adder", code("adder_double"), probation_messages=1000, probation_timeout_s=600
    )
    async for event in operation.events():
        if event.wire_name == "reload.restored.v1":
            break
    await done(kernel, [5, 6])
    recorder = Recorder(kernel, "late")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        await recorder.started.wait()
        assert await operation.cancel()
        await recorder.until(2)
        tasks.cancel_scope.cancel()
    assert [reply.sequence for reply in recorder.replies] == [1, 2]


async def test_a_volatile_kernels_consumer_hears_it_after_a_crash() -> None:
    """Sequences begin anew after the state, and the journal says that messages were lost."""
    files = CrashingFiles()
    spec = adder(durability="volatile")
    async with ringflow.open_engine(FOLDER, devices=["host:0"], files=files) as engine:
        kernel = await engine.launch(spec, device="host:0")
        recorder = Recorder(kernel)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recorder.run)
            await recorder.started.wait()
            await done(kernel, [1, 2, 3])
            await recorder.until(3)
            tasks.cancel_scope.cancel()
        await engine.checkpoint("adder", name="later")
        await engine.launch(adder("witness"), device="host:0")
        after = files.after_crash()
        files.crash_before_step(0)
    for path in list(after.snapshot()):
        if path.name == "adder@later.rkcp":
            after.delete(path)
    async with ringflow.open_engine(FOLDER, devices=["host:0"], files=after) as engine:
        kernel = engine.kernel("adder")
        again = Recorder(kernel)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(again.run)
            await again.started.wait()
            await done(kernel, [7])
            await again.until(1)
            tasks.cancel_scope.cancel()
        assert (await state_of(kernel))[1] == 7
    written = b"".join(data for path, data in after.snapshot().items() if "journal" in path.parts)
    assert b"messages.lost.v1" in written


async def test_a_failed_restore_goes_back_to_the_state_before(folder: Path) -> None:
    """The kernel works on, every message in its state, and the error says what happened."""
    device: Any = FaultyDevice("host:0")
    async with ringflow.open_engine(folder, devices=[device]) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await done(kernel, [1, 2])
        checkpoint = await kernel.checkpoint()
        await done(kernel, [3])
        device.fails_in = "copy_in"
        with pytest.raises(ringflow.DeviceError, match="injected in copy_in"):
            await kernel.restore(checkpoint)
        await done(kernel, [4])
        assert (await state_of(kernel))[:3] == expected_state([1, 2, 3, 4])
        await kernel.restore(checkpoint)
        await send_all(kernel, [9])
        assert (await state_of(kernel))[:3] == expected_state([1, 2, 9])
    device.close()


@pytest.mark.parametrize("step", ["acknowledge", "forget"])
async def test_what_the_journal_refuses_leaves_a_consumer_as_it_was(
    engine: ringflow.Engine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Outputs that are not acknowledged in the journal stay in the next checkpoints."""
    kernel = await engine.launch(adder(), device="host:0")
    core: Any = engine._core
    async with kernel.replies(consumer="reader") as replies:
        await done(kernel, [1])
        reply = await anext(replies)
        queue = core.runtimes["adder"].outputs.consumers["reader"]

        def refuse(*given: Any, **named: Any) -> Any:
            raise ringflow.LimitExceededError("records", 1, 1, "wait")

        async def attempt() -> None:
            if step == "acknowledge":
                await reply.ack()
            else:
                queue.has_reader = False
                await kernel.forget_consumer("reader")

        with monkeypatch.context() as patched:
            patched.setattr(type(core), "record", refuse)
            with pytest.raises(ringflow.LimitExceededError):
                await attempt()
        assert core.runtimes["adder"].outputs.consumers["reader"] is queue
        assert len(queue.outputs) == 1
        await reply.ack()
        assert core.state.marks["adder"].consumers["reader"] == (reply.sequence, reply.index)


async def test_what_an_orderly_close_loses_of_a_volatile_kernel_is_journaled(
    folder: Path,
) -> None:
    """Messages that wait then are nowhere afterwards, and a second close has nothing to say."""
    async with (
        anyio.create_task_group() as tasks,
        ringflow.open_engine(folder, devices=["host:0"]) as engine,
    ):
        kernel = await engine.launch(adder(durability="volatile"), device="host:0")
        await close_gate(engine, kernel)
        for value in range(40):
            await kernel.send(Add(value))
        tasks.start_soon(open_gate_once_closing, engine)
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        applied = engine.kernels()[0].applied_sequence
        await done(engine.kernel("adder"), [1])
        assert (await state_of(engine.kernel("adder")))[2] == 1
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        records = tuple(engine._core.journal.records(types=[MessagesLost.wire_name]))
    lost = [event for one in records for event in one.events if isinstance(event, MessagesLost)]
    assert [(one.first_sequence, one.last_sequence) for one in lost] == [(applied + 1, 41)]
