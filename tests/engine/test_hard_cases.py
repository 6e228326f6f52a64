"""Cancellations, traps and ends at the wrong moment: no kernel is left dead, no folder shut."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import numpy as np
import pytest

import ringflow
from ringflow.engine import forking
from ringflow.engine.restoring import rebuild_at
from ringflow.files import SystemFiles
from ringflow.journal.api import Append
from ringflow.journal.writer import JournalWriter
from ringflow.simulate.files import CrashingFiles
from tests.engine.doubles import FaultyDevice
from tests.engine.kernels import Add, Total, Trap, adder, code, expected_state
from tests.engine.story import cancel_in_its_wait, close_gate, open_gate, send_all, state_of

pytestmark = pytest.mark.anyio


async def total_of(kernel: ringflow.KernelHandle) -> int:
    return int((await kernel.call(Total(), timeout_s=60)).array("uint64")[0])


async def until_state(operation: Any, wire_name: str) -> None:
    async for event in operation.events():
        if event.wire_name == wire_name:
            return


async def test_a_migration_cancelled_while_it_waits_for_the_grid(folder: Path) -> None:
    """The next operation works, and the folder opens again."""
    async with ringflow.open_engine(folder, devices=["host:0", "host:1"]) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await close_gate(engine, kernel)
        operation = engine.start_migration("adder", to="host:1")
        await until_state(operation, "migration.target_prepared.v1")
        await cancel_in_its_wait(engine, operation)
        assert engine.kernels()[0].state == "running"
        await engine.checkpoint("adder")
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        assert engine.kernels()[0].state == "running"


async def test_leaving_the_block_while_somebody_holds_a_kernel(folder: Path) -> None:
    """The hold ends with the engine, and the folder opens again."""
    ready, go = anyio.Event(), anyio.Event()

    async def hold(kernel: ringflow.KernelHandle) -> None:
        async with kernel.held():
            ready.set()
            await go.wait()

    async with anyio.create_task_group() as tasks:
        async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
            kernel = await engine.launch(adder(), device="host:0")
            tasks.start_soon(hold, kernel)
            await ready.wait()
        go.set()
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        assert engine.kernels()[0].state == "running"


async def test_a_trap_under_a_lease_is_recovered_when_it_ends(engine: ringflow.Engine) -> None:
    """The hold comes before the trap or after it; the message halts the kernel in the end."""
    kernel = await engine.launch(adder(), device="host:0")
    receipt = await kernel.send(Trap())
    with contextlib.suppress(ringflow.RingflowError):
        async with kernel.held():
            pass
    with anyio.fail_after(30), pytest.raises(ringflow.KernelStalledError, match="3 times"):
        await receipt.done()


async def test_a_trap_ends_a_reload_that_waits_for_its_sequence(engine: ringflow.Engine) -> None:
    """It does not wait for ever."""
    kernel = await engine.launch(adder(), device="host:0")
    operation = await engine.start_reload("adder", code("adder_double"), at_sequence=10)
    await until_state(operation, "reload.validated.v1")
    await kernel.send(Trap())
    with anyio.fail_after(30), pytest.raises(ringflow.OperationFailedError, match="trap"):
        await operation.result()


async def pass_deadlines(clock: ringflow.ManualClock) -> None:
    """Let time pass for whoever waits for it, until this is cancelled."""
    while True:
        await anyio.lowlevel.checkpoint()
        clock.advance(1.0)


async def test_new_code_that_stalls_on_probation_rolls_back(folder: Path) -> None:
    """The old code goes on with every message, and other operations work."""
    hang = "while (((volatile unsigned long long*)state)[3] != 77ull) { }"
    source = code().text.replace("case Add::id:", f"case Add::id: {hang}", 1)
    new = ringflow.KernelCodeSource.from_cuda(source, "adder", version_id="hang")
    clock = ringflow.ManualClock()
    async with ringflow.open_engine(folder, devices=["host:0", "host:1"], clock=clock) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, [1])
        await close_gate(engine, kernel)
        operation = await engine.start_reload("adder", new, probation_messages=5)
        await until_state(operation, "reload.validated.v1")
        await send_all(kernel, [2])
        open_gate(engine)
        await until_state(operation, "reload.restored.v1")
        resident = engine._core.runtimes["adder"].instance.resident
        with anyio.fail_after(60):
            while resident.taken_sequence < 3:  # from here on it hangs
                await anyio.lowlevel.checkpoint()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pass_deadlines, clock)
                with pytest.raises(ringflow.OperationFailedError) as raised:
                    await operation.result()
                tasks.cancel_scope.cancel()
        assert raised.value.state == "rolled_back"
        assert await total_of(kernel) == 3
        assert (await engine.migrate("adder", to="host:1")).target_device == "host:1"


async def test_an_engine_without_a_device_gives_no_kernel_up(folder: Path) -> None:
    """It says why nothing runs; with the device the kernel is there again."""
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        await send_all(await engine.launch(adder(), device="host:0"), [1, 2])
    async with ringflow.open_engine(folder, devices=[]) as engine:
        (status,) = engine.kernels()
        assert status.state == "not_restarted"
        assert "no device" in status.reason
        assert not engine.health()["ok"]
        with pytest.raises(ringflow.KernelStateError, match="not restarted"):
            await engine.kernel("adder").send(Add(1))
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        assert await total_of(engine.kernel("adder")) == 3


async def test_an_engine_whose_journal_failed_is_not_well() -> None:
    """Who hears that a request's outcome is unknown hears of the failure in the health, too."""
    files = CrashingFiles()
    async with ringflow.open_engine(Path("/engine"), devices=["host:0"], files=files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        assert engine.health()["ok"]
        files.crash_before_step(0)
        with pytest.raises(ringflow.OutcomeUnknownError):
            await kernel.send(Add(1))
        health = engine.health()
        assert (health["ok"], health["closed"]) == (False, "its journal failed")


async def test_checkpoints_that_come_back_are_used_and_not_deleted(folder: Path) -> None:
    """A kernel whose files are all gone waits for their copies."""
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        await send_all(await engine.launch(adder(), device="host:0"), [1, 2])
    saved = {path: path.read_bytes() for path in (folder / "checkpoints").glob("*.rkcp")}
    for path in saved:
        path.unlink()
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        assert "no usable recovery point" in engine.kernels()[0].reason
    for path, content in saved.items():
        path.write_bytes(content)
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        assert await total_of(engine.kernel("adder")) == 3


TICKER = """
#include <ringflow.cuh>
#include <ringflow_messages.cuh>
extern "C" __global__ void ticker(ringflow::control* control, unsigned long long* state) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.step()) {
        while (self.poll(m)) {
            if (self.leader()) { state[1] += 3; self.reply(m, state[1]); }
            self.sync();
        }
        if (self.leader() && state[0] < state[1] && self.emit(9, state[0])) state[0] += 1;
    }
}
"""


async def test_unsolicited_outputs_are_numbered_on_over_a_migration(folder: Path) -> None:
    """None is taken for one that was seen already, the very first one included."""
    spec = ringflow.KernelSpec(
        kernel_id="ticker",
        kernel_type="ticker",
        code=ringflow.KernelCodeSource.from_cuda(TICKER, "ticker"),
        messages=[Add],
        block=(32, 1, 1),
        replay="checkpoint",
        release="at_once",
        regions=[
            ringflow.Region(
                "state", dtype="uint64", shape=(2,), initial=np.array([0, 3], np.uint64)
            )
        ],
    )
    async with ringflow.open_engine(folder, devices=["host:0", "host:1"]) as engine:
        kernel = await engine.launch(spec, device="host:0")
        seen: list[int] = []
        async with kernel.replies(consumer="all") as replies:
            first = engine._core.runtimes["ticker"].outputs
            with anyio.fail_after(60):
                while first.next_index(0) < 1:
                    await anyio.lowlevel.checkpoint()
            await kernel.send(Add(1))
            await engine.migrate("ticker", to="host:1")
            await kernel.send(Add(1))
            async for reply in replies:
                if reply.type == 9:
                    seen.append(int(reply.array("uint64")[0]))
                    if seen[-1] == 8:
                        break
        assert seen == list(range(seen[0], 9))
        assert seen[0] <= 3


async def test_a_convert_kernel_that_spoils_the_old_state_is_undone(
    engine: ringflow.Engine,
) -> None:
    """The way back is then the recovery point and the messages, not the old regions."""
    source = (
        code().text
        + """
extern "C" __global__ void spoil(unsigned long long* old_state, float* old_cells,
                                 unsigned long long* state, float* cells) {
    if (threadIdx.x == 0 && blockIdx.x == 0) { old_state[1] += 1000; __trap(); }
}
"""
    )
    kernel = await engine.launch(adder(), device="host:0")
    await send_all(kernel, [1, 2])
    new = ringflow.KernelCodeSource.from_cuda(source, "adder", version_id="spoiler")
    with pytest.raises(ringflow.OperationFailedError, match="trap"):
        await engine.reload("adder", new, convert="spoil")
    assert (await state_of(kernel))[:3] == expected_state([1, 2])


async def test_a_call_to_a_kernel_that_halts_says_so(folder: Path) -> None:
    """It does not claim that the message was finished."""
    limits = ringflow.EngineLimits(traps_in_a_row=1)
    async with ringflow.open_engine(folder, devices=["host:0"], limits=limits) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        with pytest.raises(ringflow.KernelStateError, match="trapped the kernel"):
            await kernel.call(Trap(), timeout_s=30)


class Undeletable(SystemFiles):
    """Checkpoints cannot be deleted."""

    def delete(self, path: Path) -> None:
        if path.name.endswith(".rkcp"):
            raise PermissionError(13, "injected", str(path))
        super().delete(path)


async def test_a_checkpoint_that_cannot_be_deleted_fails_nothing(folder: Path) -> None:
    """The new one is durable and told so; the old file is an orphan."""
    limits = ringflow.EngineLimits(recovery_points_kept=1)
    async with ringflow.open_engine(
        folder, devices=["host:0"], limits=limits, files=Undeletable()
    ) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await (await kernel.send(Add(1))).done()
        assert (await engine.checkpoint("adder")).applied_sequence == 1
        await engine.stop("adder")


async def test_memory_that_cannot_be_freed_keeps_nobody_from_work(folder: Path) -> None:
    """A failed migration's target is left behind, the source works on."""
    source, target = FaultyDevice("host:0"), FaultyDevice("host:1")
    devices: list[Any] = [source, target]
    async with ringflow.open_engine(folder, devices=devices) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        source.fails_in, target.fails_in = "copy_to_peer", "free"
        with pytest.raises(ringflow.OperationFailedError, match="copy_to_peer"):
            await engine.migrate("adder", to="host:1")
        await send_all(kernel, [5])
        assert await total_of(kernel) == 5


async def test_a_reload_that_fails_on_both_ways_keeps_no_messages(folder: Path) -> None:
    """The kernel is rebuilt, and what it finishes from then on is forgotten."""
    device: Any = FaultyDevice("host:0")
    async with ringflow.open_engine(folder, devices=[device]) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, [1])
        operation = await engine.start_reload(
            "adder", code("adder_double"), probation_messages=1000, probation_timeout_s=600
        )
        await until_state(operation, "reload.restored.v1")
        await (await kernel.send(Add(2))).done()
        device.fails_in = "launch"
        await operation.cancel()
        with pytest.raises(ringflow.OperationFailedError, match="injected in launch"):
            await operation.result()
        assert await total_of(kernel) == 3
        await (await kernel.send(Add(3))).done()
        assert len(engine._core.runtimes["adder"].inbox) == 0
    device.close()


@pytest.mark.parametrize("kernels", [0, 1])
@pytest.mark.parametrize("found_out", ["at once", "by the last record"])
async def test_a_journal_that_fails_as_the_engine_closes_is_found_by_the_next_opening(
    kernels: int, found_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its thread finds out soon or late: the block is left alike, and nothing is lost."""
    files, last = CrashingFiles(), threading.Event()
    async with ringflow.open_engine(Path("/engine"), devices=["host:0"], files=files) as engine:
        if kernels:
            kernel = await engine.launch(adder(), device="host:0")
            await send_all(kernel, range(5))
        journal = cast("JournalWriter", engine._core.journal)
        append, write = journal.append, journal._log.write

        def append_then_tell(stream: str, *given: Any, **options: Any) -> Append:
            appended = append(stream, *given, **options)
            if stream == "engine":
                last.set()
            return appended

        def write_late(batch: Any) -> Any:
            assert last.wait(30)
            return write(batch)

        if found_out == "by the last record":
            monkeypatch.setattr(journal, "append", append_then_tell)
            monkeypatch.setattr(journal._log, "write", write_late)
        after = files.after_crash()
        files.crash_before_step(0)
    assert engine.health()["closed"] == "its journal failed"
    async with ringflow.open_engine(Path("/engine"), devices=["host:0"], files=after) as engine:
        assert [status.state for status in engine.kernels()] == ["running"] * kernels
        if kernels:
            assert (await state_of(engine.kernel("adder")))[:3] == expected_state(list(range(5)))


async def test_a_fork_that_is_cancelled_gives_its_memory_back(
    engine: ringflow.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between the state that it begins with and its own memory."""
    kernel = await engine.launch(adder(), device="host:0")
    await send_all(kernel, [1, 2])
    await engine.checkpoint("adder")
    made: list[Any] = []

    async def cancelled_after(*given: Any) -> Any:
        made.append(await rebuild_at(*given))
        scope.cancel()
        return made[0]

    monkeypatch.setattr(forking, "rebuild_at", cancelled_after)
    with anyio.CancelScope() as scope:
        await forking.fork(
            engine._core,
            "adder",
            at_sequence=None,
            code=None,
            kernel_id="copy",
            device="host:1",
            actor="",
            reason="",
        )
    assert made
    assert not made[0].instance.resident._allocations
