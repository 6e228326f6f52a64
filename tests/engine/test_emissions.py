"""What a kernel puts out between messages is held and taken back like its replies."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import numpy as np
import pytest

import ringflow
from tests.engine.kernels import Add, Trap

pytestmark = pytest.mark.anyio

TICKER = """
#include <ringflow.cuh>
#include <ringflow_messages.cuh>
extern "C" __global__ void ticker(ringflow::control* control, unsigned long long* state) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.step()) {
        while (self.poll(m)) {
            if (m.type == Trap::id) __trap();
            if (self.leader()) state[1] += m.as<Add>().value;
            self.sync();
        }
        if (self.leader() && state[0] < state[1] && self.emit(9, FIRST + state[0])) state[0] += 1;
    }
}
"""


def ticker_code(first: int) -> ringflow.KernelCodeSource:
    """Return code that emits ``first``, ``first`` + 1 and so on."""
    source = TICKER.replace("FIRST", f"{first}ull")
    return ringflow.KernelCodeSource.from_cuda(source, "ticker", version_id=f"from {first}")


def ticker(count: int = 3) -> ringflow.KernelSpec:
    """Return the spec of a kernel that emits ``count`` outputs before any message."""
    return ringflow.KernelSpec(
        kernel_id="ticker",
        kernel_type="ticker",
        code=ticker_code(0),
        messages=[Add, Trap],
        block=(32, 1, 1),
        replay="checkpoint",
        regions=[
            ringflow.Region(
                "state", dtype="uint64", shape=(2,), initial=np.array([0, count], np.uint64)
            )
        ],
    )


async def emitted(kernel: ringflow.KernelHandle, count: int) -> None:
    """Wait until the kernel says in its state that it has emitted so many."""
    while True:
        async with kernel.held() as state:
            if int(state["state"].numpy()[0]) >= count:
                return


async def read(kernel: ringflow.KernelHandle, count: int) -> list[int]:
    """Return what the consumer gets, up to ``count`` outputs."""
    values: list[int] = []
    async with kernel.replies(consumer="all") as replies:
        while len(values) < count:
            values.append(int((await anext(replies)).array("uint64")[0]))
    return values


def waiting(engine: ringflow.Engine) -> int:
    """Return how many outputs the consumer could read now."""
    return engine._core.runtimes["ticker"].outputs.consumers["all"].unread_count


async def test_emissions_wait_for_their_recovery_point(engine: ringflow.Engine) -> None:
    """Those between messages too, also after a recovery point of the same message."""
    kernel = await engine.launch(ticker(), device="host:0")
    async with kernel.replies(consumer="all"):
        pass
    await emitted(kernel, 3)
    assert waiting(engine) == 0
    await engine.checkpoint("ticker")
    with anyio.fail_after(30):
        assert await read(kernel, 3) == [0, 1, 2]
    await (await kernel.send(Add(2))).done()
    await emitted(kernel, 5)
    assert waiting(engine) == 0
    await engine.checkpoint("ticker")
    with anyio.fail_after(30):
        assert await read(kernel, 5) == [0, 1, 2, 3, 4]


async def test_nobody_sees_the_emissions_of_code_that_rolls_back(
    engine: ringflow.Engine,
) -> None:
    """It emits before it has handled a message, then traps; the old code's come instead."""
    kernel = await engine.launch(ticker(0), device="host:0")
    async with kernel.replies(consumer="all"):
        pass
    await (await kernel.send(Add(0))).done()
    await engine.checkpoint("ticker")
    source = TICKER.replace("state[0] < state[1]", "state[0] < 3").replace("FIRST", "100")
    new = ringflow.KernelCodeSource.from_cuda(source, "ticker", version_id="bad")
    operation = await engine.start_reload(
        "ticker", new, probation_messages=5, probation_timeout_s=600
    )
    async for event in operation.events():
        if event.wire_name == "reload.restored.v1":
            break
    outputs = engine._core.runtimes["ticker"].outputs
    with anyio.fail_after(30):
        while outputs.held_count + waiting(engine) < 3:
            await anyio.lowlevel.checkpoint()
    assert waiting(engine) == 0
    assert await operation.cancel()
    assert (outputs.held_count, waiting(engine)) == (0, 0)
    await (await kernel.send(Add(2))).done()
    await emitted(kernel, 2)
    await engine.checkpoint("ticker")
    with anyio.fail_after(30):
        assert await read(kernel, 2) == [0, 1]


async def test_a_call_without_a_reply_ends_with_the_recovery_point(
    engine: ringflow.Engine,
) -> None:
    """A message that made no output is covered as well."""
    kernel = await engine.launch(ticker(0), device="host:0")
    failures: list[str] = []

    async def call() -> None:
        try:
            await kernel.call(Add(0), timeout_s=30)
        except ringflow.RingflowError as error:
            failures.append(str(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        runtime = engine._core.runtimes["ticker"]
        await runtime.changed.until(lambda: runtime.done_sequence == 1)
        assert failures == []
        await engine.checkpoint("ticker")
    assert "without a reply" in failures[0]
