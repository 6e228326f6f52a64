"""Restarts: after an orderly end, after a crash, with damaged checkpoints, after traps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

import ringflow
from ringflow.files import OpenFile
from ringflow.simulate.files import CrashingFiles
from tests.engine.child import run_and_kill
from tests.engine.kernels import Add, Total, Trap, adder, code, expected_state
from tests.engine.story import Recorder, send_all, state_of

pytestmark = pytest.mark.anyio

FOLDER = Path("/engine")


@asynccontextmanager
async def engine_on(
    files: CrashingFiles, devices: Sequence[str] = ("host:0", "host:1")
) -> AsyncIterator[ringflow.Engine]:
    """Open an engine on a double; its end after a crash is expected to fail."""
    async with ringflow.open_engine(FOLDER, devices=devices, files=files) as engine:
        yield engine


async def crash(files: CrashingFiles) -> CrashingFiles:
    """Switch the power off now; return what the next boot finds."""
    after = files.after_crash()
    files.crash_before_step(0)
    return after


async def test_a_kernel_goes_on_where_an_orderly_end_left_it(folder: Path) -> None:
    """State, code and consumer positions are all there, and nothing is sent again."""
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, range(50))
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        kernel = engine.kernel("adder")
        assert engine.epoch == 2
        assert (await state_of(kernel))[:3] == expected_state(list(range(50)))
        await send_all(kernel, range(50, 60))
        assert (await state_of(kernel))[:3] == expected_state(list(range(60)))


async def test_a_crash_loses_nothing_that_was_acknowledged() -> None:
    """What ``send`` returned for is applied after the restart, once, in order."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, range(80))
        after = await crash(files)
    async with engine_on(after) as engine:
        kernel = engine.kernel("adder")
        assert int((await kernel.call(Total(), timeout_s=30)).array("uint64")[0]) == sum(range(80))
        assert (await state_of(kernel))[:3] == expected_state(list(range(80)))


class LyingFiles(CrashingFiles):
    """A double whose files do not reach the disk when ``datasync`` says so."""

    lies = False

    def append(self, path: Path) -> OpenFile:  # type: ignore[override]
        return _Lying(super().append(path), self)

    def create(self, path: Path) -> OpenFile:  # type: ignore[override]
        return _Lying(super().create(path), self)


class _Lying:
    def __init__(self, file: OpenFile, files: LyingFiles) -> None:
        self._file, self._files = file, files

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._file.write(data)

    def reserve(self, size_bytes: int) -> None:
        self._file.reserve(size_bytes)

    def trim(self) -> None:
        self._file.trim()

    def datasync(self) -> None:
        if not self._files.lies:
            self._file.datasync()

    def close(self) -> None:
        self._file.close()


async def test_a_skipped_fsync_is_found() -> None:
    """The test above can fail: without the fsync acknowledged messages are gone."""
    files = LyingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        files.lies = True
        await send_all(kernel, range(80))
        after = await crash(files)
    async with engine_on(after) as engine:
        state = await state_of(engine.kernel("adder"))
        assert state[2] < 80


async def test_a_consumer_gets_each_reply_after_a_crash_with_the_same_bytes() -> None:
    """What it acknowledged stays away; the rest comes with its old identity."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        first = Recorder(kernel)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.run)
            await first.started.wait()
            await send_all(kernel, range(30))
            await first.until(30)
            await engine.checkpoint("adder")
            tasks.cancel_scope.cancel()
        await send_all(kernel, range(30, 60))
        after = await crash(files)
    async with engine_on(after) as engine:
        kernel = engine.kernel("adder")
        again = Recorder(kernel)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(again.run)
            await again.until(60)
            tasks.cancel_scope.cancel()
        assert kernel.spec.kernel_id == "adder"
    payloads = {reply.sequence: reply.payload for reply in first.replies}
    for reply in again.replies:
        assert payloads.setdefault(reply.sequence, reply.payload) == reply.payload
    expected = [expected_state(list(range(count)))[0] for count in range(1, 61)]
    assert [int.from_bytes(payloads[n], "little") for n in range(1, 61)] == expected
    assert again.replies[0].sequence <= 31


async def test_unread_replies_survive_a_checkpoint_and_a_crash() -> None:
    """The outbox is part of the checkpoint: replies from before it are not made again."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        async with kernel.replies(consumer="late"):
            pass
        await send_all(kernel, range(10))
        await engine.checkpoint("adder")
        after = await crash(files)
    async with engine_on(after) as engine:
        late = Recorder(engine.kernel("adder"), "late")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(late.run)
            await late.until(10)
            tasks.cancel_scope.cancel()
    assert [reply.sequence for reply in late.replies] == list(range(1, 11))


@pytest.mark.parametrize(
    ("event", "placed"),
    [
        ("migration.requested.v1", "host:0"),
        ("migration.target_prepared.v1", "host:0"),
        ("migration.rerouted.v1", "host:1"),
        ("migration.completed.v1", "host:1"),
    ],
)
async def test_a_crash_within_a_migration_leaves_the_kernel_in_one_place(
    event: str, placed: str
) -> None:
    """Before ``rerouted`` on the source, from it on on the target, with every message."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, range(30))
        operation = engine.start_migration("adder", to="host:1")
        async for seen in operation.events():
            if seen.wire_name == event:
                after = await crash(files)
                break
    async with engine_on(after) as engine:
        kernel = engine.kernel("adder")
        (status,) = engine.operations()
        if event == "migration.target_prepared.v1":
            placed = "host:1" if status.state == "completed" else "host:0"
        assert engine.kernels()[0].device == placed
        assert status.state == ("completed" if placed == "host:1" else "rolled_back")
        await send_all(kernel, [1000])
        await kernel.call(Total(), timeout_s=30)
        assert (await state_of(kernel))[:3] == expected_state([*range(30), 1000])


async def test_a_crash_on_probation_goes_back_to_the_old_code() -> None:
    """Every message since the swap is applied by the old code."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, range(10))
        operation = await engine.start_reload(
            "adder", code("adder_double"), probation_messages=1000, probation_timeout_s=600
        )
        async for seen in operation.events():
            if seen.wire_name == "reload.restored.v1":
                break
        await send_all(kernel, range(10, 20))
        after = await crash(files)
    async with engine_on(after) as engine:
        (status,) = engine.operations()
        assert status.state == "rolled_back"
        reply = await engine.kernel("adder").call(Total(), timeout_s=30)
        assert int(reply.array("uint64")[0]) == sum(range(20))
        assert engine.kernels()[0].version_id == "adder_v1"


async def test_a_crash_after_a_reload_keeps_the_new_code() -> None:
    """Its recovery point came with its completion."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, [1, 2])
        await kernel.call(Total(), timeout_s=30)  # what is not handled is the new code's
        await engine.reload("adder", code("adder_double"), probation_messages=0)
        await send_all(kernel, [10])
        after = await crash(files)
    async with engine_on(after) as engine:
        reply = await engine.kernel("adder").call(Total(), timeout_s=30)
        assert int(reply.array("uint64")[0]) == 23


async def test_a_checkpoint_without_its_event_is_deleted() -> None:
    """It is an orphan of a crash between the file and the record."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        await engine.launch(adder(), device="host:0")
    (kept, *_) = [path for path in files.snapshot() if path.suffix == ".rkcp"]
    orphan = kept.with_name("adder@snapshot-orphan.rkcp")
    files.poke(orphan, files.snapshot()[kept])
    async with engine_on(files):
        assert orphan not in files.snapshot()
        assert any(path.suffix == ".rkcp" for path in files.snapshot())


async def test_a_reload_leaves_replayed_messages_to_the_old_code() -> None:
    """What was answered before the crash keeps its answer, also if a reload comes at once."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, range(40))
        await kernel.call(Total(), timeout_s=30)
        after = await crash(files)
    async with engine_on(after) as engine:
        with pytest.raises(ringflow.UsageError, match="message 41"):
            await engine.start_reload("adder", code("adder_double"), at_sequence=20)
        operation = await engine.start_reload("adder", code("adder_double"), probation_messages=0)
        assert (await operation.result()).at_sequence == 42
        reply = await engine.kernel("adder").call(Total(), timeout_s=30)
        assert int(reply.array("uint64")[0]) == sum(range(40))


async def test_a_damaged_checkpoint_falls_back_to_the_one_before() -> None:
    """And says so; with more messages to apply the state is the same."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, range(10))
        await engine.checkpoint("adder", name="good")
        await send_all(kernel, range(10, 20))
        await engine.checkpoint("adder", name="bad")
        await send_all(kernel, range(20, 30))
        after = await crash(files)
    path = next(path for path in after.snapshot() if path.name == "adder@bad.rkcp")
    content = bytearray(after.snapshot()[path])
    content[len(content) // 2] ^= 1
    after.poke(path, bytes(content))
    async with engine_on(after) as engine:
        kernel = engine.kernel("adder")
        await kernel.call(Total(), timeout_s=30)
        assert (await state_of(kernel))[:3] == expected_state(list(range(30)))


async def test_a_kernel_without_its_device_is_placed_where_there_is_room() -> None:
    """An engine that is opened with fewer devices still runs every kernel."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(), device="host:1")
        await send_all(kernel, range(10))
    async with engine_on(files, devices=["host:0"]) as engine:
        assert engine.kernels()[0].device == "host:0"
        assert (await state_of(engine.kernel("adder")))[2] == 10


async def test_a_poison_message_halts_its_kernel_and_no_other(engine: ringflow.Engine) -> None:
    """It is tried three times from the recovery point, then a person must decide."""
    poisoned = await engine.launch(adder("poisoned"), device="host:0")
    healthy = await engine.launch(adder("healthy"), device="host:0")
    await send_all(poisoned, range(10))
    receipt = await poisoned.send(Trap())
    with anyio.fail_after(60), pytest.raises(ringflow.KernelStalledError, match="3 times"):
        await receipt.done()
    assert "message 11 trapped the kernel 3 times in a row" in engine.kernels()[0].reason
    with pytest.raises(ringflow.KernelStateError, match="halted"):
        await poisoned.send(Add(1))
    assert not engine.health()["ok"]
    await send_all(healthy, [7])
    assert int((await healthy.call(Total(), timeout_s=30)).array("uint64")[0]) == 7


async def test_sigkill_within_any_moment_of_a_busy_engine(folder: Path) -> None:
    """A child process works and dies; what it acknowledged on its pipe is applied."""
    for _ in range(2):
        acknowledged = await run_and_kill(folder)
    async with ringflow.open_engine(folder, devices=["host:0", "host:1"]) as engine:
        kernel = engine.kernel("adder")
        await kernel.call(Total(), timeout_s=60)
        count = (await state_of(kernel))[2]
        assert count >= acknowledged
        values = [number * 7 for number in range(1, count + 1)]
        assert (await state_of(kernel))[:3] == expected_state(values)
