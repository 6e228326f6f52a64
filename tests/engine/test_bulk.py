"""Arrays and large payloads through an engine: in order, durable, and with the kernel wherever."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

import ringflow
from ringflow.device.bulk import Bulk, MessageArena
from ringflow.engine.references import named_objects, unneeded_objects
from ringflow.engine.rerun import rerun_kernel
from ringflow.journal.reader import read_records
from ringflow.simulate.files import CrashingFiles
from ringflow.storage import ObjectStore
from tests.engine.arrays import (
    MIB,
    Ask,
    Fold,
    Mirror,
    Wait,
    arrays,
    code,
    data_of,
    folded,
    hash_of,
    unlatch,
)

pytestmark = pytest.mark.anyio

FOLDER = Path("/engine")
DURABILITIES = pytest.mark.parametrize("durability", ["durable", "async", "volatile"])


async def send_folds(
    kernel: ringflow.KernelHandle, sizes: list[int], *, first: int = 0
) -> list[tuple[int, bytes]]:
    """Send a Fold with an array of each size; return salts and arrays."""
    sent = [(number, data_of(number, size)) for number, size in enumerate(sizes, first)]
    for salt, data in sent:
        await kernel.send(Fold(salt), data=data)
    return sent


@DURABILITIES
async def test_arrays_are_applied_once_and_in_order(
    engine: ringflow.Engine, durability: str
) -> None:
    """Sizes from nothing to the whole arena, the largest ones copied in threads."""
    kernel = await engine.launch(arrays(durability=durability), device="host:0")
    sizes = [0, 1, 63, 64, 65, MIB, 5, 300_000, 700_000, 7, 1000, MIB - 1, 400_000, 400_000]
    sent = await send_folds(kernel, sizes)
    assert await hash_of(kernel) == folded(sent)


@DURABILITIES
async def test_a_large_payload_is_an_array(engine: ringflow.Engine, durability: str) -> None:
    """Raw bytes beyond a slot's: the kernel sees them like any payload."""
    kernel = await engine.launch(arrays(durability=durability), device="host:0")
    payload = data_of(1, 10_000)
    reply = await kernel.call(2, payload, timeout_s=30)
    assert bytes(reply.data) == bytes(byte ^ 0xFF for byte in payload)


async def test_replies_bring_arrays_and_values(engine: ringflow.Engine) -> None:
    """To a call and to a consumer alike, the same bytes."""
    kernel = await engine.launch(arrays(), device="host:0")
    array = np.arange(MIB // 4, dtype=np.uint32)
    async with kernel.replies(consumer="all") as replies:
        called = await kernel.call(Mirror(), data=array, timeout_s=30)
        consumed = await anext(aiter(replies))
        await consumed.ack()
    assert np.array_equal(called.array("uint32"), ~array)
    assert called.data.readonly
    assert (called.payload, consumed.payload) == ((1).to_bytes(8, "little"),) * 2
    assert called.data == consumed.data


@DURABILITIES
async def test_an_array_may_change_once_it_is_sent(
    engine: ringflow.Engine, durability: str
) -> None:
    """What the kernel gets is what the array was during the send."""
    kernel = await engine.launch(arrays(durability=durability), device="host:0")
    await kernel.send(Wait())
    sent = []
    array = np.zeros(400_000, np.uint8)
    for salt in range(4):
        array[:] = salt + 1
        sent.append((salt, array.tobytes()))
        await kernel.send(Fold(salt), data=array)
    array[:] = 99
    unlatch(engine)
    assert await hash_of(kernel) == folded(sent)


async def test_more_than_the_arena_holds_waits_and_blocks_no_operation(
    engine: ringflow.Engine,
) -> None:
    """A checkpoint, a migration and an ordinary message come through with a full arena."""
    kernel = await engine.launch(arrays(), device="host:0")
    await kernel.send(Wait())
    sent = await send_folds(kernel, [400_000] * 6)
    status = engine.kernels()[0]
    assert status.parked_count >= 3, "two of them fit"
    operation = engine.start_migration("arrays", to="host:1")
    unlatch(engine)
    await operation.result()
    await engine.checkpoint("arrays")
    assert await hash_of(kernel) == folded(sent)


@DURABILITIES
async def test_parked_arrays_move_with_the_kernel(engine: ringflow.Engine, durability: str) -> None:
    """There and back, while arrays are sent, nothing is lost, doubled or reordered."""
    kernel = await engine.launch(arrays(durability=durability), device="host:0")
    sent: list[tuple[int, bytes]] = []
    stop = False

    async def produce() -> None:
        while not stop:
            sent.extend(await send_folds(kernel, [1000, 300_000, 400_000], first=len(sent)))
            await (await kernel.send(Ask())).done()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        for _ in range(3):
            await engine.migrate("arrays", to="host:1")
            await engine.migrate("arrays", to="host:0")
        stop = True
    assert await hash_of(kernel) == folded(sent)


async def test_a_reload_that_fails_gives_its_arrays_to_the_old_code(
    engine: ringflow.Engine,
) -> None:
    """Messages on probation are applied again, arrays and all; then a good reload keeps them."""
    kernel = await engine.launch(arrays(), device="host:0")
    sent = await send_folds(kernel, [500_000, 1000])
    traps = code("bad").text.replace("state[1] += 1;", 'asm volatile("trap;");', 1)
    bad = ringflow.KernelCodeSource.from_cuda(traps, "arrays", version_id="bad")
    operation = await engine.start_reload("arrays", bad, at_sequence=3, probation_messages=3)
    sent += await send_folds(kernel, [300_000, 2000, 600_000], first=2)
    with pytest.raises(ringflow.OperationFailedError):
        await operation.result()
    assert await hash_of(kernel) == folded(sent)
    following = engine.kernels()[0].next_sequence
    operation = await engine.start_reload(
        "arrays", code("v2"), at_sequence=following, probation_messages=2
    )
    sent += await send_folds(kernel, [300_000, 2000], first=5)
    await operation.result()
    assert await hash_of(kernel) == folded(sent)


@pytest.mark.parametrize("durability", ["durable", "async"])
async def test_a_crash_loses_no_array(durability: str) -> None:
    """What is journaled comes back by its digest, more of it than the arena holds."""
    files = CrashingFiles()
    async with ringflow.open_engine(FOLDER, devices=["host:0"], files=files) as engine:
        kernel = await engine.launch(arrays(durability=durability), device="host:0")
        sent = await send_folds(kernel, [1000, 300_000, MIB, 0, 64, 900_000])
        receipt = await kernel.send(Ask(), producer="p", number=9)
        await receipt.durable()
        after = files.after_crash()
        files.crash_before_step(0)
    async with ringflow.open_engine(FOLDER, devices=["host:0"], files=after) as engine:
        kernel = engine.kernel("arrays")
        assert kernel.last_number("p") == 9
        assert await hash_of(kernel) == folded(sent)
        sent += await send_folds(kernel, [300_000], first=6)
        assert await hash_of(kernel) == folded(sent)


async def crash_in_send(step: int, data: bytes) -> tuple[CrashingFiles, bool]:
    """Switch the power off before a step of a send; return what is left, and if it got so far."""
    files, reached = CrashingFiles(), True
    async with ringflow.open_engine(FOLDER, devices=["host:0"], files=files) as engine:
        kernel = await engine.launch(arrays(), device="host:0")
        files.crash_before_step(step)
        try:
            await kernel.send(Fold(7), data=data)
            reached = False
        except (ringflow.StorageError, ringflow.EngineClosedError):
            pass
        after = files.after_crash()
        files.crash_before_step(0)
    return after, reached


async def test_a_crash_at_any_step_of_a_send_leaves_a_message_with_its_array_or_none() -> None:
    """The object is durable before the event that names it: no step between leaves half of it."""
    data, reached, outcomes = data_of(1, 5000), True, set()
    step = 0
    while reached:
        after, reached = await crash_in_send(step, data)
        async with ringflow.open_engine(FOLDER, devices=["host:0"], files=after) as engine:
            found = await hash_of(engine.kernel("arrays"))
            assert found in (0, folded([(7, data)])), f"step {step}"
            assert found or reached, "acknowledged and lost"
            outcomes.add(found)
        step += 1
    assert step > 4
    assert len(outcomes) == 2


@pytest.mark.parametrize("damage", ["missing", "flipped", "empty"])
async def test_a_damaged_object_is_named_and_nothing_is_given_up(damage: str) -> None:
    """The kernel is not restarted, the error says why, and a mended object lets it go on."""
    files = CrashingFiles()
    async with ringflow.open_engine(FOLDER, devices=["host:0"], files=files) as engine:
        kernel = await engine.launch(arrays(), device="host:0")
        sent = await send_folds(kernel, [1000, 2000])
        after = files.after_crash()
        files.crash_before_step(0)
    digest = ObjectStore(FOLDER / "objects", files=CrashingFiles()).put(sent[1][1])
    path = FOLDER / "objects" / digest
    good = after.read(path)
    after.delete(path)
    if damage != "missing":
        after.create(path).write(bytes([good[0] ^ 1]) + good[1:] if damage == "flipped" else b"")
    async with ringflow.open_engine(FOLDER, devices=["host:0"], files=after) as engine:
        assert engine.kernels()[0].state == "not_restarted"
        assert not engine.health()["ok"]
        with pytest.raises(ringflow.KernelStateError, match=f"message 2 .*{digest}"):
            await engine.kernel("arrays").send(Ask())
    ObjectStore(FOLDER / "objects", files=after).put(good)
    async with ringflow.open_engine(FOLDER, devices=["host:0"], files=after) as engine:
        assert await hash_of(engine.kernel("arrays")) == folded(sent)


async def test_an_object_that_goes_bad_after_the_restart_stops_only_its_kernel() -> None:
    """It is compared with its digest when it is delivered; the folder stays good to be mended."""
    files = CrashingFiles()
    async with ringflow.open_engine(FOLDER, devices=["host:0"], files=files) as engine:
        kernel = await engine.launch(arrays(), device="host:0")
        sent = await send_folds(kernel, [1000])
        after = files.after_crash()
        files.crash_before_step(0)
    real = ObjectStore.get
    reads = 0

    def get(self: ObjectStore, digest: str) -> bytes:
        nonlocal reads
        data = real(self, digest)
        if len(data) == 1000:
            reads += 1
            if reads == 2:
                raise ringflow.CorruptError(f"object {digest} has digest 0; injected")
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "get", get)
        async with ringflow.open_engine(FOLDER, devices=["host:0"], files=after) as engine:
            other = await engine.launch(arrays("other"), device="host:0")
            with pytest.raises(ringflow.KernelStateError, match="injected"):
                await engine.kernel("arrays").call(Ask(), timeout_s=30)
            assert await hash_of(other) == 0
    async with ringflow.open_engine(FOLDER, devices=["host:0"], files=after) as engine:
        assert await hash_of(engine.kernel("arrays")) == folded(sent)


@DURABILITIES
async def test_unacknowledged_arrays_are_part_of_a_checkpoint(
    folder: Path, durability: str
) -> None:
    """A consumer that comes after a restart gets them with the same bytes under the same names."""
    data = [data_of(number, size) for number, size in enumerate((10, 300_000, MIB))]
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        kernel = await engine.launch(arrays(durability=durability), device="host:0")
        async with kernel.replies(consumer="late"):
            for one in data:
                receipt = await kernel.send(Mirror(), data=one)
            await receipt.done()
    async with (
        ringflow.open_engine(folder, devices=["host:0"]) as engine,
        engine.kernel("arrays").replies(consumer="late") as replies,
    ):
        for sequence, one in enumerate(data, 1):
            reply = await anext(aiter(replies))
            assert (reply.sequence, reply.index) == (sequence, 0)
            assert reply.payload == sequence.to_bytes(8, "little")
            assert np.array_equal(reply.array("uint8"), ~np.frombuffer(one, np.uint8))
            await reply.ack()


async def test_unread_arrays_make_senders_wait_by_their_bytes(folder: Path) -> None:
    """A consumer that does not read is bounded by what it costs, not only by a count."""
    limits = ringflow.EngineLimits(waiting_data_bytes=250_000)
    async with ringflow.open_engine(folder, devices=["host:0"], limits=limits) as engine:
        kernel = await engine.launch(arrays(), device="host:0")
        async with kernel.replies(consumer="slow") as replies:
            for _ in range(3):
                await (await kernel.send(Mirror(), data=bytes(100_000))).done()
            with pytest.raises(
                ringflow.LimitExceededError, match="number of bytes in unread outputs"
            ):
                await kernel.send(Ask(), on_full="raise")
            await (await anext(aiter(replies))).ack()
            await kernel.send(Ask(), on_full="raise")


async def test_parked_bytes_are_bounded(folder: Path) -> None:
    """Beyond the limit a send waits or raises; a single array may always go."""
    limits = ringflow.EngineLimits(parked_bulk_bytes=250_000)
    async with ringflow.open_engine(folder, devices=["host:0"], limits=limits) as engine:
        kernel = await engine.launch(arrays(), device="host:0")
        await kernel.send(Wait())
        sent = await send_folds(kernel, [300_000])
        objects = engine._core.objects.digests()
        with pytest.raises(ringflow.LimitExceededError, match="300001, over the limit of 250000"):
            await kernel.send(Fold(1), data=b"x", on_full="raise")
        assert engine._core.objects.digests() == objects
        assert engine.kernels()[0].next_sequence == 3
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kernel.send, Ask())  # without an array nothing waits

            async def more() -> None:
                sent.extend(await send_folds(kernel, [200_000, 100_000], first=1))

            tasks.start_soon(more)
            await anyio.wait_all_tasks_blocked()
            unlatch(engine)
        assert await hash_of(kernel) == folded(sent)


async def test_refusals_change_nothing(engine: ringflow.Engine) -> None:
    """Each names what to do; no number is given, no object is left."""
    kernel = await engine.launch(arrays(), device="host:0")
    objects = engine._core.objects.digests()
    await kernel.send(Ask(), producer="p", number=5)
    array = np.zeros((4, 4), np.float32)
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"data": bytes(MIB + 1)}, ringflow.LimitExceededError, "bulk_bytes"),
        ({"data": array[:, 1]}, ringflow.UsageError, "ascontiguousarray"),
        ({"data": memoryview(bytes(9))[::2]}, ringflow.UsageError, "ascontiguousarray"),
        ({"data": np.array([object()])}, ringflow.UsageError, "no bytes"),
        ({"data": b"x", "producer": "p", "number": 5}, ringflow.UsageError, "after 5"),
    ]
    with pytest.raises(ringflow.UsageError, match=r"'Fold'.* 8 bytes.* has 7; send"):
        await kernel.send(1, data=bytes(7))  # alone: it is the payload as well
    with pytest.raises(ringflow.UsageError, match=r"'Fold'.* 8 bytes.* has 0; send"):
        await kernel.send(1, data=b"")
    for options, error, text in refused:
        with pytest.raises(error, match=text):
            await kernel.send(Fold(1), **options)
    with pytest.raises(ringflow.UnknownMessageError):
        await kernel.send(77, data=b"x")
    with pytest.raises(ringflow.LimitExceededError, match="slot_bytes"):
        await kernel.send(1, bytes(97), data=b"x")
    assert engine.kernels()[0].next_sequence == 2
    assert engine._core.objects.digests() == objects
    sent = [(1, b"x"), (2, np.arange(9, dtype=">i4").tobytes())]
    await kernel.send(Fold(1), data=memoryview(b"x"))
    structured = np.frombuffer(sent[1][1], dtype=[("a", "u2"), ("b", "u2")])
    await kernel.send(Fold(2), data=structured)
    alone = (3).to_bytes(8, "little") + b"abc"
    await kernel.send(1, data=alone)
    assert await hash_of(kernel) == folded([*sent, (3, alone)])


@DURABILITIES
async def test_large_copies_are_made_in_threads_of_their_own(
    engine: ringflow.Engine, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """Neither in the event loop nor in the journal's thread, which copy small arrays only."""
    filled: dict[int, int] = {}
    fill, loop = MessageArena.fill, threading.get_ident()

    def noting(self: MessageArena, sequence: int, bulk: Bulk) -> None:
        filled[bulk.size_bytes] = threading.get_ident()
        fill(self, sequence, bulk)

    monkeypatch.setattr(MessageArena, "fill", noting)
    kernel = await engine.launch(arrays(durability=durability), device="host:0")
    sent = await send_folds(kernel, [1000, 900_000])
    assert await hash_of(kernel) == folded(sent)
    assert filled[900_000] not in (loop, filled[1000])
    assert durability != "volatile" or filled[1000] == loop


async def test_objects_that_no_record_names_are_found() -> None:
    """A crash between object and event leaves one; codes, specs and sent arrays are all needed."""
    files = CrashingFiles()
    async with ringflow.open_engine(FOLDER, devices=["host:0"], files=files) as engine:
        kernel = await engine.launch(arrays(), device="host:0")
        await send_folds(kernel, [100, 200])
        await engine.reload("arrays", code("v2"), probation_messages=0)
    store = ObjectStore(FOLDER / "objects", files=files)
    records = tuple(read_records(FOLDER / "journal", files=files))
    assert unneeded_objects(records, store.digests()) == ()
    left = store.put(b"left over")
    assert unneeded_objects(records, store.digests()) == (left,)
    assert store.put(data_of(1, 200)) in named_objects(records)
    assert len(store.digests()) > 4


async def test_a_rerun_and_a_fork_read_the_arrays_again(folder: Path) -> None:
    """From recovery point to recovery point the state and the arrays of replies are the same."""
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        kernel = await engine.launch(arrays(), device="host:0")
        async with kernel.replies(consumer="nobody acknowledges"):
            pass
        sent = await send_folds(kernel, [1000, MIB, 300_000])
        await kernel.call(Mirror(), data=data_of(9, 5000), timeout_s=30)
        await engine.checkpoint("arrays")
        sent += await send_folds(kernel, [600_000], first=3)
        fork = await engine.fork("arrays")
        assert await hash_of(fork) == folded(sent)
    report = await rerun_kernel(folder, "arrays")
    assert report.equal
    assert [span.messages for span in report.spans if not span.skipped] == [4, 1]


async def test_a_rerun_finds_an_array_that_differs(folder: Path) -> None:
    """The state is the same, the reply's array is not: it holds a clock."""
    text = code().text.replace("bytes[i] ^ 0xFF", "(unsigned char)(clock64() >> (i % 16))")
    clock = ringflow.KernelCodeSource.from_cuda(text, "arrays", version_id="clock")
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        kernel = await engine.launch(arrays(code=clock), device="host:0")
        async with kernel.replies(consumer="nobody acknowledges"):
            pass
        await kernel.call(Mirror(), data=bytes(5000), timeout_s=30)
        await engine.checkpoint("arrays")
    report = await rerun_kernel(folder, "arrays")
    assert report.spans[0].difference.startswith("the array of output 0")


def test_arrays_work_under_an_event_loop_that_anyio_did_not_start(folder: Path) -> None:
    """``asyncio.run`` says to nobody which loop it is: callbacks can't start tasks there."""

    async def program() -> None:
        async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
            kernel = await engine.launch(arrays(), device="host:0")
            sent = await send_folds(kernel, [900_000, 10])
            assert await hash_of(kernel) == folded(sent)

    asyncio.run(program())
