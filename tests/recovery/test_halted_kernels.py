"""Poison messages: a kernel halts, others run, and a person retries, skips or rolls back."""

from __future__ import annotations

import re
import threading
from functools import partial
from pathlib import Path

import anyio
import pytest

import ringflow
from ringflow.device.resident import ResidentKernel
from ringflow.simulate.files import CrashingFiles
from ringflow.workers import in_thread
from tests.engine.kernels import Add, Total, Trap, adder, code, expected_state
from tests.engine.story import Recorder, send_all, state_of
from tests.recovery.crashes import crash, engine_on, events_of

pytestmark = pytest.mark.anyio

ONCE = ringflow.EngineLimits(traps_in_a_row=1)


async def halt(kernel: ringflow.KernelHandle) -> ringflow.Receipt:
    """Send the message that traps, and one more that waits behind it; wait for the halt."""
    async with kernel.held():  # so that both are accepted before the first one traps
        receipt = await kernel.send(Trap())
        await kernel.send(Add(1000))
    with anyio.fail_after(60), pytest.raises(ringflow.KernelStalledError):
        await receipt.done()
    return receipt


async def until_halted(engine: ringflow.Engine) -> None:
    """Wait until the first kernel is halted and nobody works on it any more."""

    def halted() -> bool:
        (status, *_) = engine.kernels()
        return status.state == "halted" and not engine.is_busy(status.kernel_id)

    with anyio.fail_after(60):
        await engine._core.rested.until(halted)


async def test_the_halt_names_the_message_the_reason_and_the_attempts(
    engine: ringflow.Engine,
) -> None:
    """Three tries, each from the recovery point; the event has it all."""
    kernel = await engine.launch(adder(), device="host:0")
    await send_all(kernel, range(10))
    await halt(kernel)
    (halted,) = await events_of(engine, "kernel.halted.v1")
    assert (halted.message_sequence, halted.attempts, halted.applied_sequence) == (11, 3, 10)
    assert "message 11 trapped the kernel 3 times in a row" in halted.reason
    assert len(await events_of(engine, "kernel.trapped.v1")) == 3
    (status,) = engine.kernels()
    assert (status.state, status.applied_sequence) == ("halted", 10)
    assert engine.health()["halted"]["adder"] == halted.reason


async def test_who_waits_for_a_reply_hears_of_the_halt_and_of_the_ways_out(
    engine: ringflow.Engine,
) -> None:
    kernel = await engine.launch(adder(), device="host:0")
    with pytest.raises(ringflow.KernelStateError) as told:
        await kernel.call(Trap(), timeout_s=60)
    assert re.fullmatch(
        r"kernel 'adder' is halted \(message 1 trapped the kernel 3 times in a row: trap in .*\); "
        r"this request needs it running; the message stays accepted; "
        r"engine\.resume\(\) or engine\.rollback\(\) bring it back",
        str(told.value),
    )


async def test_a_kernel_that_is_rebuilt_says_so(engine: ringflow.Engine) -> None:
    """No operation holds it that one could wait for, or cancel."""
    kernel = await engine.launch(adder(), device="host:0")
    with engine._core.lease("adder", "recovery"):  # as after a trap
        with pytest.raises(ringflow.KernelBusyError) as told:
            await engine.rollback("adder")
        assert "busy: it is rebuilt from its recovery point" in str(told.value)
        assert "cancel" not in str(told.value)
    async with kernel.held():
        with pytest.raises(ringflow.KernelBusyError, match=r"busy: held\(\) is at work on it; ask"):
            await engine.rollback("adder")


async def test_a_skipped_message_is_never_applied_and_its_sender_hears_it(
    engine: ringflow.Engine,
) -> None:
    """What waited behind it is applied; receipts from before the halt go on to work."""
    kernel = await engine.launch(adder(), device="host:0")
    await send_all(kernel, range(10))
    receipt = await halt(kernel)
    behind = engine._core.runtimes["adder"].inbox.last_sequence
    await engine.resume("adder", "skip", actor="ops", reason="known poison")
    with pytest.raises(ringflow.MessageSkippedError, match="message 11 of kernel 'adder'"):
        await receipt.done()
    assert (await state_of(kernel))[:3] == expected_state([*range(10), 1000])
    assert behind == 12
    (skipped,) = await events_of(engine, "messages.skipped.v1")
    assert (skipped.first_sequence, skipped.last_sequence) == (11, 11)
    assert (skipped.actor, skipped.reason) == ("ops", "known poison")
    await send_all(kernel, [7])
    assert (await state_of(kernel))[:3] == expected_state([*range(10), 1000, 7])


async def test_a_skip_of_the_last_message_leaves_nothing_waiting(engine: ringflow.Engine) -> None:
    """The kernel is done with everything, so that operations at a sequence do not wait for it."""
    kernel = await engine.launch(adder(), device="host:0")
    await send_all(kernel, [1, 2])
    receipt = await kernel.send(Trap())
    with anyio.fail_after(60), pytest.raises(ringflow.KernelStalledError):
        await receipt.done()
    await engine.resume("adder", "skip")
    operation = await engine.start_reload(
        "adder", code("adder_double"), at_sequence=4, probation_messages=0
    )
    with anyio.fail_after(30):
        assert (await operation.result()).at_sequence == 4
    assert engine.kernels()[0].applied_sequence == 3
    await engine.migrate("adder", to="host:1")
    await (await kernel.send(Add(5))).done()
    assert int((await kernel.call(Total(), timeout_s=30)).array("uint64")[0]) == 13


async def test_what_a_volatile_kernel_takes_while_its_start_fails_is_told_as_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is left of it then; the sequence is given again when it comes back."""
    files = CrashingFiles()
    async with engine_on(files, limits=ONCE) as engine:
        kernel = await engine.launch(adder(durability="volatile"), device="host:0")
        await (await kernel.send(Add(1))).done()
        await engine.checkpoint("adder")
        await halt(kernel)
    reached, let_go = threading.Event(), threading.Event()

    def late(*_: object, **__: object) -> None:
        reached.set()
        assert let_go.wait(60)
        raise ringflow.KernelStalledError("too late", call="await", code="timeout")

    async with engine_on(files, limits=ONCE) as engine:
        told = len(await events_of(engine, "messages.lost.v1"))
        with monkeypatch.context() as patched:
            patched.setattr(ResidentKernel, "relaunch", late)
            async with anyio.create_task_group() as tasks:

                async def resume() -> None:
                    with pytest.raises(ringflow.KernelStalledError, match="too late"):
                        await engine.resume("adder", "skip")

                tasks.start_soon(resume)
                assert await in_thread(partial(reached.wait, 60))
                receipt = await engine.kernel("adder").send(Add(5))
                let_go.set()
        (lost,) = (await events_of(engine, "messages.lost.v1"))[told:]
        assert lost.first_sequence <= receipt.sequence <= lost.last_sequence
        await engine.resume("adder", "retry")
        assert (await engine.kernel("adder").send(Add(6))).sequence == lost.first_sequence
        assert (await state_of(engine.kernel("adder")))[:3] == expected_state([1, 6])
    async with engine_on(files) as engine:
        assert len(await events_of(engine, "messages.lost.v1")) == told + 1


async def test_a_replay_skips_it_too() -> None:
    """After a crash the messages from before the skip are replayed, without it."""
    files = CrashingFiles()
    async with engine_on(files, limits=ONCE) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, range(10))
        await halt(kernel)
        await engine.resume("adder", "skip")
        await send_all(kernel, range(20, 25))
        await (await kernel.send(Add(3))).done()
        after = crash(files)
    async with engine_on(after) as engine:
        kernel = engine.kernel("adder")
        expected = expected_state([*range(10), 1000, *range(20, 25), 3])
        assert (await state_of(kernel))[:3] == expected
        assert len(await events_of(engine, "kernel.halted.v1")) == 1


@pytest.mark.parametrize("ending", ["orderly", "crash"])
@pytest.mark.parametrize("decision", ["skip", "retry", "rollback"])
async def test_a_halt_outlasts_restarts_and_is_resolved_then(ending: str, decision: str) -> None:
    """Nothing runs until the person comes, whenever that is; then everything else is applied."""
    files = CrashingFiles()
    async with engine_on(files, limits=ONCE) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        async with kernel.replies(consumer="recorder"):
            pass
        await send_all(kernel, range(9))
        await (await kernel.send(Add(9))).done()
        await engine.checkpoint("adder", name="ten")
        await halt(kernel)
        assert len(await events_of(engine, "kernel.halted.v1")) == 1
        if ending == "crash":
            files = crash(files)
    for _ in range(2):
        async with engine_on(files, limits=ONCE) as engine:
            (status,) = engine.kernels()
            assert (status.state, status.applied_sequence) == ("halted", 10)
            with pytest.raises(ringflow.KernelStateError, match=r"halted .*engine\.resume"):
                await engine.kernel("adder").send(Add(1))
    async with engine_on(files, limits=ONCE) as engine:
        kernel = engine.kernel("adder")
        if decision == "rollback":
            result = await engine.rollback("adder", undo_messages=True, actor="ops")
            assert (result.applied_sequence, result.undone_count) == (10, 1)
        else:
            await engine.resume("adder", decision, actor="ops")  # type: ignore[arg-type]
        (resolved,) = await events_of(engine, "kernel.halt_resolved.v1")
        assert (resolved.decision, resolved.message_sequence) == (decision, 11)
        assert resolved.actor == "ops"
        if decision == "retry":  # with all its tries again, and the same end
            await until_halted(engine)
            await engine.resume("adder", "skip")
        recorder = Recorder(kernel)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recorder.run)
            assert (await state_of(kernel))[:3] == expected_state([*range(10), 1000])
            await recorder.until(12)
            tasks.cancel_scope.cancel()
        sequences = [reply.sequence for reply in recorder.replies]
        assert sequences[:11] == [*range(1, 11), 12]


async def test_traps_are_counted_across_restarts() -> None:
    """A poison that ends the process each time is tried three times in all."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, [1, 2])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_trapped, engine)
            await kernel.send(Trap())
        assert len(await events_of(engine, "kernel.trapped.v1")) >= 1
        after = crash(files)
    async with engine_on(after) as engine:
        await until_halted(engine)
        (halted,) = await events_of(engine, "kernel.halted.v1")
        assert halted.attempts == 3
        assert len(await events_of(engine, "kernel.trapped.v1")) == 3


async def _until_trapped(engine: ringflow.Engine) -> None:
    async with engine._core.journal.subscribe() as records:
        async for record in records:
            if any(event.wire_name == "kernel.trapped.v1" for event in record.events):
                return


async def test_only_what_a_message_halted_can_be_skipped(folder: Path) -> None:
    """A request that makes no sense changes nothing."""
    async with ringflow.open_engine(folder, devices=["host:0"], limits=ONCE) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        with pytest.raises(ringflow.KernelStateError, match=r"running.*needs it halted"):
            await engine.resume("adder")
        await halt(kernel)
        with pytest.raises(ringflow.UsageError, match="neither"):
            await engine.resume("adder", "forget")  # type: ignore[arg-type]
        assert engine.kernels()[0].state == "halted"


async def test_a_halted_kernel_can_be_stopped(folder: Path) -> None:
    """Also after a restart; the id is then used up."""
    async with ringflow.open_engine(folder, devices=["host:0"], limits=ONCE) as engine:
        for kernel_id in ("early", "late"):
            kernel = await engine.launch(adder(kernel_id), device="host:0")
            await send_all(kernel, [4])
            await halt(kernel)
        await engine.stop("early", actor="ops")
        assert engine.kernels()[0].state == "stopped"
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        await engine.stop("late", actor="ops")
        assert [status.state for status in engine.kernels()] == ["stopped", "stopped"]
        stopped = await events_of(engine, "kernel.stopped.v1")
        assert [event.applied_sequence for event in stopped] == [1, 1]


async def test_a_skip_holds_where_other_messages_are_volatile() -> None:
    """Sequences that are given again after a crash are not taken for the skipped ones."""
    files = CrashingFiles()
    async with engine_on(files, limits=ONCE) as engine:
        kernel = await engine.launch(adder(durability="volatile"), device="host:0")
        await send_all(kernel, [1, 2])
        await (await kernel.send(Add(3))).done()
        await engine.checkpoint("adder")
        await halt(kernel)
        await engine.resume("adder", "skip")
        assert (await state_of(kernel))[:3] == expected_state([1, 2, 3, 1000])
        after = crash(files)
    async with engine_on(after) as engine:
        kernel = engine.kernel("adder")
        for value in (10, 11, 12):
            receipt = await kernel.send(Add(value))
            await receipt.done()
        assert (await state_of(kernel))[:3] == expected_state([1, 2, 3, 10, 11, 12])
