"""Hot reload: state kept, code changed at one sequence, and every way back."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import ringflow
from tests.engine.kernels import MESSAGES, Add, Spin, Total, adder, code, expected_state
from tests.engine.story import Producer, Recorder, close_gate, open_gate, send_all, state_of

pytestmark = pytest.mark.anyio

HISTORY = ringflow.Region("history", dtype="uint64", shape=(8,))


def wide_regions() -> tuple[ringflow.Region, ...]:
    return (*adder().regions, HISTORY)


async def total_of(kernel: ringflow.KernelHandle) -> int:
    return int((await kernel.call(Total(), timeout_s=60)).array("uint64")[0])


async def test_the_code_changes_exactly_at_the_chosen_sequence(engine: ringflow.Engine) -> None:
    """Numbers before it count once, from it on twice; nobody stops sending."""
    kernel = await engine.launch(adder(), device="host:0")
    producer, recorder = Producer(kernel), Recorder(kernel)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        await recorder.started.wait()
        operation = await engine.start_reload(
            "adder", code("adder_double"), at_sequence=101, probation_messages=20
        )
        tasks.start_soon(producer.run)
        result = await operation.result()
        await producer.until(150)
        last = await producer.stop()
        await recorder.until(last)
        tasks.cancel_scope.cancel()
    assert result.at_sequence == 101
    assert (result.old_version, result.new_version) == ("adder_v1", "adder_double")
    assert [reply.sequence for reply in recorder.replies] == list(range(1, last + 1))
    values = producer.values
    assert (await state_of(kernel))[1] == sum(values[:100]) + 2 * sum(values[100:])
    assert (await state_of(kernel))[0] == expected_state(values)[0]
    assert engine.kernels()[0].version_id == "adder_double"


async def test_a_region_more_is_filled_by_the_convert_kernel(engine: ringflow.Engine) -> None:
    """It reads the old state; what both versions have is kept bit for bit."""
    kernel = await engine.launch(adder(), device="host:0")
    await send_all(kernel, range(10))
    await total_of(kernel)
    before = await state_of(kernel)
    result = await engine.reload(
        "adder",
        code("adder_wide"),
        regions=wide_regions(),
        convert="widen",
        probation_messages=0,
    )
    assert result.state_bytes == 4 * 8 + 4096 * 4 + 64
    async with kernel.held() as state:
        assert [int(word) for word in state["history"].numpy()] == [1000 + i for i in range(8)]
        assert tuple(int(word) for word in state["state"].numpy()) == before
    await kernel.send(Add(5))
    await total_of(kernel)
    async with kernel.held() as state:
        assert int(state["history"].numpy()[11 % 8]) == 50


async def test_code_that_traps_on_probation_rolls_back_by_itself(engine: ringflow.Engine) -> None:
    """The old code applies every message since; no output of the failed try is ever seen."""
    kernel = await engine.launch(adder(), device="host:0")
    recorder, producer = Recorder(kernel), Producer(kernel)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        await recorder.started.wait()
        tasks.start_soon(producer.run)
        await producer.until(30)
        operation = await engine.start_reload(
            "adder", code("adder_bad"), probation_messages=50, reason="try the bad one"
        )
        with pytest.raises(ringflow.OperationFailedError, match="trap") as raised:
            await operation.result()
        await producer.until(120)
        last = await producer.stop()
        await recorder.until(last)
        tasks.cancel_scope.cancel()
    assert raised.value.state == "rolled_back"
    expected = [expected_state(producer.values[:count])[0] for count in range(1, last + 1)]
    assert [int(reply.array("uint64")[0]) for reply in recorder.replies] == expected
    assert await state_of(kernel) == (*expected_state(producer.values), 0)
    assert engine.kernels()[0].version_id == "adder_v1"
    assert engine.kernels()[0].state == "running"


async def test_code_that_traps_before_its_first_message_rolls_back(
    engine: ringflow.Engine,
) -> None:
    """Its launch fails, and the old grid is launched again at once."""
    kernel = await engine.launch(adder(), device="host:0")
    await send_all(kernel, [1, 2])
    source = code().text.replace(
        "    while (self.receive(m)) {", "    __trap();\n    while (self.receive(m)) {"
    )
    broken = ringflow.KernelCodeSource.from_cuda(source, "adder", version_id="broken")
    with anyio.fail_after(20), pytest.raises(ringflow.OperationFailedError, match="trap"):
        await engine.reload("adder", broken)
    assert await total_of(kernel) == 3


async def test_outputs_on_probation_are_held_until_it_is_passed(engine: ringflow.Engine) -> None:
    """A call made on probation is answered by the promotion, not before."""
    kernel = await engine.launch(adder(), device="host:0")
    operation = await engine.start_reload(
        "adder", code("adder_double"), probation_messages=3, probation_timeout_s=60
    )
    async for event in operation.events():
        if event.wire_name == "reload.restored.v1":
            break
    replies: list[int] = []

    async def call() -> None:
        replies.append(await total_of(kernel))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await (await kernel.send(Add(0))).done()
        assert replies == []
        assert not operation.done
        await send_all(kernel, [1, 2])
    await operation.result()
    assert replies == [0]


@pytest.mark.parametrize(
    ("source", "convert", "reason"),
    [
        ("this is no CUDA", "", r"adder\.cu:1"),
        (code().text.replace("adder(", "other("), "", "adder"),
        (code("adder_wide").text, "", "parameters"),
        (code().text, "missing", "missing"),
    ],
)
async def test_new_code_that_cannot_run_never_stops_the_old(
    engine: ringflow.Engine, source: str, convert: str, reason: str
) -> None:
    """It fails while the old code works, with the compiler's own words."""
    kernel = await engine.launch(adder(), device="host:0")
    free = engine.devices()[0].free_bytes
    new = ringflow.KernelCodeSource.from_cuda(source, "adder", version_id="new")
    operation = await engine.start_reload("adder", new, convert=convert or None)
    with pytest.raises(ringflow.OperationFailedError, match=reason):
        await operation.result()
    names = {event.wire_name async for event in operation.events()}
    assert "reload.drained.v1" not in names
    assert engine.devices()[0].free_bytes == free
    await send_all(kernel, [4, 5])
    assert await total_of(kernel) == 9


async def test_changed_regions_need_a_convert_kernel(engine: ringflow.Engine) -> None:
    """Without one the request is refused at once, and names the region."""
    await engine.launch(adder(), device="host:0")
    smaller = (adder().regions[0], ringflow.Region("cells", dtype="float32", shape=(10,)))
    with pytest.raises(ringflow.SpecError, match="cells"):
        await engine.start_reload("adder", code(), regions=smaller)
    assert engine.operations() == ()


async def test_a_sequence_that_is_past_is_refused(engine: ringflow.Engine) -> None:
    """The code can't change where messages were handled already."""
    kernel = await engine.launch(adder(), device="host:0")
    await send_all(kernel, range(10))
    await total_of(kernel)
    with pytest.raises(ringflow.UsageError, match="later sequence"):
        await engine.start_reload("adder", code("adder_double"), at_sequence=5)


async def test_a_cancelled_reload_leaves_the_old_code_at_work(engine: ringflow.Engine) -> None:
    """Also on probation, where messages were handled by the new code already."""
    kernel = await engine.launch(adder(), device="host:0")
    await send_all(kernel, [1])
    operation = await engine.start_reload(
        "adder", code("adder_double"), probation_messages=1000, probation_timeout_s=600
    )
    async for event in operation.events():
        if event.wire_name == "reload.restored.v1":
            break
    receipt = await kernel.send(Add(10))
    await receipt.done()
    assert await operation.cancel()
    assert await total_of(kernel) == 11
    assert engine.kernels()[0].version_id == "adder_v1"


async def test_a_reload_waits_for_its_sequence_and_can_be_cancelled_meanwhile(
    engine: ringflow.Engine,
) -> None:
    """Messages from the sequence on park and flow to the old code after the cancellation."""
    kernel = await engine.launch(adder(), device="host:0")
    operation = await engine.start_reload("adder", code("adder_double"), at_sequence=1000)
    await send_all(kernel, range(20))
    assert await operation.cancel()
    assert await total_of(kernel) == sum(range(20))


@ringflow.message(1)
class AddTimes:
    """``Add`` with a field more."""

    value: ringflow.u64
    times: ringflow.u64


async def test_messages_that_waited_for_a_reload_have_their_old_size(
    engine: ringflow.Engine,
) -> None:
    """The new code finds zeros in the fields that they did not have, and their size."""
    kernel = await engine.launch(adder(), device="host:0")
    source = code().text.replace("Add::id", "AddTimes::id")
    added = "(m.as<AddTimes>().value * 100 + m.as<AddTimes>().times * 10 + m.size)"
    new = ringflow.KernelCodeSource.from_cuda(source.replace("m.as<Add>().value", added), "adder")
    await close_gate(engine, kernel)
    operation = await engine.start_reload(
        "adder", new, messages=[AddTimes, *MESSAGES[1:]], at_sequence=2, probation_messages=0
    )
    await kernel.send(2, bytes([255] * 96))
    await kernel.send(Add(7))
    open_gate(engine)
    await operation.result()
    await kernel.send(AddTimes(7, 3))
    assert await total_of(kernel) == 708 + 746


async def test_a_migration_and_a_reload_follow_each_other(engine: ringflow.Engine) -> None:
    """State, code and place are all as the last operation left them."""
    kernel = await engine.launch(adder(), device="host:0")
    values: list[int] = []

    async def feed(more: list[int]) -> Any:
        values.extend(more)
        return await send_all(kernel, more)

    await feed([1, 2, 3])
    await engine.migrate("adder", to="host:1")
    await feed([4, 5])
    await engine.reload("adder", code("adder_double"), probation_messages=0)
    await feed([6])
    await kernel.send(Spin(3))
    await engine.migrate("adder", to="host:0")
    await feed([7])
    assert await total_of(kernel) == sum(values[:5]) + 2 * sum(values[5:])
    assert (await state_of(kernel))[0] == expected_state(values)[0]
