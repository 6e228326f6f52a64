"""Messages and replies of a kernel that stays where it is."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import numpy as np
import pytest

import ringflow
from tests.engine.kernels import MESSAGES, Add, Total, adder, code, expected_state
from tests.engine.story import Recorder, close_gate, open_gate, send_all, state_of

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("durability", ["durable", "async", "volatile"])
async def test_messages_are_applied_once_and_in_order(
    engine: ringflow.Engine, durability: str
) -> None:
    """The state is a hash that depends on the order of all values."""
    kernel = await engine.launch(adder(durability=durability), device="host:0")
    values = [value * value for value in range(300)]
    await send_all(kernel, values)
    reply = await kernel.call(Total(), timeout_s=30)
    assert int(reply.array("uint64")[0]) == sum(values)
    assert (await state_of(kernel))[:3] == expected_state(values)


async def test_its_status_says_how_long_a_kernel_worked(engine: ringflow.Engine) -> None:
    """By its device's clock, in messages only."""
    kernel = await engine.launch(adder(), device="host:0")
    assert [status.busy_s for status in engine.kernels()] == [0]
    began_s = time.monotonic()
    await (await kernel.send(Total())).done()  # a reply comes before its message is done
    (status,) = engine.kernels()
    assert 0 < status.busy_s < time.monotonic() - began_s


@pytest.mark.parametrize("durability", ["durable", "async", "volatile"])
async def test_an_array_of_messages_is_applied_row_by_row(
    engine: ringflow.Engine, durability: str
) -> None:
    """More rows than a record and a ring hold; numbered and in order like single ones."""
    kernel = await engine.launch(adder(durability=durability), device="host:0")
    values = np.arange(3000, dtype=np.uint64) * 3
    receipt = await kernel.send_many(Add, values, producer="bulk", number=10)
    await receipt.done()
    assert (receipt.sequence, kernel.last_number("bulk")) == (3000, 3009)
    assert (await state_of(kernel))[:3] == expected_state([int(value) for value in values])
    with pytest.raises(ringflow.UsageError, match="after 3009"):
        await kernel.send_many(Add, values, producer="bulk", number=3000)


async def test_arrays_that_are_no_messages_are_refused(engine: ringflow.Engine) -> None:
    """By name of the field, and nothing is sent."""
    kernel = await engine.launch(adder(), device="host:0")
    with pytest.raises(ringflow.SpecError, match=r"Add\.value: a value"):
        await kernel.send_many(Add, np.array([1, -1]))
    with pytest.raises(ringflow.SpecError, match="fields"):
        await kernel.send_many(Add, np.zeros(2, dtype=[("other", "u8")]))
    with pytest.raises(ringflow.SpecError, match="one-dimensional"):
        await kernel.send_many(Add, np.zeros((2, 2), dtype=np.uint64))
    with pytest.raises(ringflow.UsageError, match="no messages"):
        await kernel.send_many(Add, np.zeros(0, dtype=np.uint64))
    assert engine.kernels()[0].next_sequence == 1


async def test_every_reply_comes_once_and_in_order(engine: ringflow.Engine) -> None:
    """A named consumer sees one reply a message, numbered like its message."""
    kernel = await engine.launch(adder(), device="host:0")
    recorder = Recorder(kernel)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        await recorder.started.wait()
        last = await send_all(kernel, range(200))
        await recorder.until(last)
        tasks.cancel_scope.cancel()
    assert [reply.sequence for reply in recorder.replies] == list(range(1, 201))
    digests = [expected_state(list(range(count)))[0] for count in range(1, 201)]
    assert [int(reply.array("uint64")[0]) for reply in recorder.replies] == digests


async def test_a_receipt_is_done_when_the_kernel_has_finished(engine: ringflow.Engine) -> None:
    """Then the state holds the message."""
    kernel = await engine.launch(adder(), device="host:0")
    receipt = await kernel.send(Add(41))
    await receipt.durable()
    await receipt.done()
    assert (await state_of(kernel))[1] == 41


async def test_a_call_without_an_answer_in_time_leaves_the_message_accepted(
    engine: ringflow.Engine,
) -> None:
    """``TimeoutError`` says so, and the kernel still does the work."""
    kernel = await engine.launch(adder(), device="host:0")
    await close_gate(engine, kernel)
    with pytest.raises(TimeoutError, match="stays accepted"):
        await kernel.call(Add(7), timeout_s=0.05)
    open_gate(engine)
    reply = await kernel.call(Total(), timeout_s=60)
    assert (reply.sequence, int(reply.array("uint64")[0])) == (3, 7)


async def test_a_producer_never_gets_a_number_in_twice(engine: ringflow.Engine) -> None:
    """The mark is the highest number, and an old one is refused."""
    kernel = await engine.launch(adder(), device="host:0")
    await kernel.send(Add(1), producer="p", number=5)
    with pytest.raises(ringflow.UsageError, match="after 5"):
        await kernel.send(Add(1), producer="p", number=5)
    assert kernel.last_number("p") == 5
    assert kernel.last_number("q") == 0


async def test_two_kernels_work_side_by_side(engine: ringflow.Engine) -> None:
    """Each keeps its own numbers and state."""
    first = await engine.launch(adder("first"), device="host:0")
    second = await engine.launch(adder("second"), device="host:1")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_all, first, range(100))
        tasks.start_soon(send_all, second, range(100, 200))
    totals = [
        int((await kernel.call(Total(), timeout_s=30)).array("uint64")[0])
        for kernel in (first, second)
    ]
    assert totals == [sum(range(100)), sum(range(100, 200))]


async def test_bad_requests_are_refused_and_change_nothing(engine: ringflow.Engine) -> None:
    """Each gets an error of its own class, and the kernel works on."""
    kernel = await engine.launch(adder(), device="host:0")
    with pytest.raises(ringflow.UnknownMessageError):
        await kernel.send(99)
    with pytest.raises(ringflow.LimitExceededError, match="bulk_bytes"):
        await kernel.send(1, bytes((1 << 20) + 1))
    with pytest.raises(ringflow.SpecError):
        await kernel.send(Add(-1))
    with pytest.raises(ringflow.UnknownKernelError, match="adder"):
        engine.kernel("nobody")
    with pytest.raises(ringflow.DuplicateKernelError):
        await engine.launch(adder(), device="host:0")
    with pytest.raises(ringflow.UnknownDeviceError, match="host:0, host:1"):
        await engine.launch(adder("other"), device="host:7")
    with pytest.raises(ringflow.SameDeviceError):
        await engine.migrate("adder", to="host:0")
    with pytest.raises(ringflow.UnknownDeviceError):
        await engine.migrate("adder", to="cuda:0")
    assert [status.kernel_id for status in engine.kernels()] == ["adder"]
    assert engine.operations() == ()
    await kernel.send(Add(3))
    assert int((await kernel.call(Total(), timeout_s=30)).array("uint64")[0]) == 3


@ringflow.message(1)
class AddTimes:
    """``Add`` as a later version of the code has it."""

    value: ringflow.u64
    times: ringflow.u64


async def test_a_payload_of_another_size_than_its_struct_is_refused(
    engine: ringflow.Engine,
) -> None:
    """The code would read what it was not sent; a class without fields is any bytes."""
    kernel = await engine.launch(adder(), device="host:0")
    for payload in (b"", bytes(7), bytes(9), bytes(16)):
        said = rf"'Add' \(type 1\) of kernel 'adder' has 8 bytes.* has {len(payload)}; send the"
        with pytest.raises(ringflow.UsageError, match=said):
            await kernel.send(1, payload)
        with pytest.raises(ringflow.UsageError, match=said):
            await kernel.call(1, payload, timeout_s=30)
    with pytest.raises(ringflow.UsageError, match="has 16; send"):
        await kernel.send(AddTimes(1, 2))
    with pytest.raises(ringflow.UsageError, match="has 16; send"):
        await kernel.send_many(AddTimes, np.zeros(3, [("value", "u8"), ("times", "u8")]))
    assert engine.kernels()[0].next_sequence == 1
    await kernel.send(1, (7).to_bytes(8, "little"))
    await kernel.send(2, b"raw bytes")
    assert int((await kernel.call(Total(), timeout_s=30)).array("uint64")[0]) == 7


async def test_a_reload_changes_what_may_be_sent(engine: ringflow.Engine) -> None:
    """A client that still has the old class is told, and its message never reaches the code."""
    kernel = await engine.launch(adder(), device="host:0")
    await kernel.send(Add(3))
    source = code().text.replace("m.as<Add>().value", "m.as<AddTimes>().value")
    new = ringflow.KernelCodeSource.from_cuda(source.replace("Add::id", "AddTimes::id"), "adder")
    messages = [AddTimes, *MESSAGES[1:]]
    await engine.reload("adder", new, messages=messages, probation_messages=0)
    with pytest.raises(ringflow.UsageError, match=r"'AddTimes'.* 16 bytes.* has 8; send"):
        await kernel.send(Add(5))
    await kernel.send(AddTimes(4, 1))
    assert int((await kernel.call(Total(), timeout_s=30)).array("uint64")[0]) == 7


async def test_code_that_cannot_run_is_refused_at_launch(engine: ringflow.Engine) -> None:
    """No kernel comes into being: not in the state, not on the device."""
    free = [device.free_bytes for device in engine.devices()]
    broken = ringflow.KernelCodeSource.from_cuda("__global__ void adder( {", "adder")
    with pytest.raises(ringflow.CompileError, match=r"adder\.cu:1:\d+: error"):
        await engine.launch(adder(code=broken), device="host:0")
    missing = ringflow.KernelCodeSource.from_cuda(code().text, "subtractor")
    with pytest.raises(ringflow.EntryPointError, match="adder"):
        await engine.launch(adder(code=missing), device="host:0")
    with pytest.raises(ringflow.EntryPointError, match="parameters"):
        await engine.launch(adder(arguments={}), device="host:0")
    assert engine.kernels() == ()
    assert [device.free_bytes for device in engine.devices()] == free
    await engine.launch(adder(), device="host:0")


def test_a_region_of_another_shape_or_dtype_is_refused() -> None:
    """The spec itself says so."""
    with pytest.raises(ringflow.RegionMismatchError, match=r"float64\(3,\)"):
        ringflow.Region("a", dtype="float32", shape=(3,), initial=np.zeros(3))
    with pytest.raises(ringflow.RegionMismatchError, match=r"\(4,\)"):
        ringflow.Region("a", dtype="float32", shape=(3,), initial=np.zeros(4, np.float32))


async def test_a_folder_has_one_engine_at_a_time(engine: ringflow.Engine, folder: Path) -> None:
    """The second one is told, and the first one is not disturbed."""
    with pytest.raises(ringflow.FolderInUseError):
        async with ringflow.open_engine(folder, devices=["host:0"]):
            raise AssertionError
    await engine.launch(adder(), device="host:0")


async def test_an_unread_consumer_makes_senders_wait_and_not_the_kernel(folder: Path) -> None:
    """Back-pressure is bounded: ``on_full="raise"`` tells, reading makes room again."""
    limits = ringflow.EngineLimits(waiting_outputs=16)
    async with ringflow.open_engine(folder, devices=["host:0"], limits=limits) as engine:
        kernel = await engine.launch(adder(ring_slots=8, reply_slots=8), device="host:0")
        async with kernel.replies(consumer="slow") as replies:
            for value in range(16):
                await (await kernel.send(Add(value), on_full="raise")).done()
            with pytest.raises(ringflow.LimitExceededError, match="acknowledge"):
                await kernel.send(Add(17), on_full="raise")
            async for reply in replies:
                await reply.ack()
                if reply.sequence >= 16:
                    break
            await kernel.send(Add(1), on_full="raise")


def test_messages_have_the_layout_that_c_gives_them() -> None:
    """A mixed struct, by hand."""

    @ringflow.message(77)
    class Mixed:
        a: ringflow.u8
        b: ringflow.f64
        c: ringflow.i16

    from ringflow.messages import layout_of, pack, unpack

    layout = layout_of(Mixed)
    assert [field.offset_bytes for field in layout.fields] == [0, 8, 16]
    assert layout.size_bytes == 24
    type_id, payload = pack(Mixed(3, 2.5, -2))
    assert type_id == 77
    assert unpack(Mixed, payload) == Mixed(3, 2.5, -2)
