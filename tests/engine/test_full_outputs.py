"""Outputs that nobody takes stay bounded, also those of kernels that send between messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

import ringflow
from ringflow.device.pump import LOOK_BYTES
from ringflow.engine.runtime import KernelRuntime
from ringflow.simulate.world import World
from tests.engine.kernels import Add, adder
from tests.engine.story import close_gate, open_gate

pytestmark = pytest.mark.anyio

BOUND = 1000
LIMITS = ringflow.EngineLimits(waiting_outputs=BOUND, parked_messages=64)
SOURCE = """
#include <ringflow.cuh>
#include <ringflow_messages.cuh>
extern "C" __global__ void teller(ringflow::control* control, unsigned long long* counts) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.step()) {
        while (self.poll(m))
            if (self.leader()) self.reply(m, counts[0]);
        if (!self.leader()) continue;
        counts[1] += 1;
        if (SEND) counts[0] += 1;
    }
}
"""
EMIT = "self.emit(9, counts[0])"
ROUTE = "self.send_to(routes::next, Add::id, counts[0])"


def code(send: str, version: str = "one") -> ringflow.KernelCodeSource:
    source = SOURCE.replace("SEND", send)
    return ringflow.KernelCodeSource.from_cuda(source, "teller", version_id=version)


def teller(send: str = EMIT, **changes: Any) -> ringflow.KernelSpec:
    """Return the spec of a kernel that sends its next number at every step, for ever."""
    return ringflow.KernelSpec(
        kernel_id="teller",
        kernel_type="teller",
        code=code(send),
        messages=[Add],
        block=(32, 1, 1),
        replay="checkpoint",
        regions=[ringflow.Region("counts", dtype="uint64", shape=(2,))],
        **changes,
    )


@pytest.fixture
async def engine(folder: Path, anyio_backend: str) -> AsyncIterator[ringflow.Engine]:
    """An engine that keeps a thousand outputs."""
    devices = ("host:0", "host:1")
    async with ringflow.open_engine(folder, devices=devices, limits=LIMITS) as opened:
        yield opened


def runtime_of(engine: ringflow.Engine) -> KernelRuntime:
    return engine._core.runtimes["teller"]


@attrs.frozen
class Counts:
    """What the kernel says of itself: numbers sent, and steps."""

    sent: int
    steps: int


async def counts_of(engine: ringflow.Engine) -> Counts:
    async with engine.kernel("teller").held() as state:
        return Counts(*(int(word) for word in state["counts"].numpy()))


async def step_on(engine: ringflow.Engine) -> tuple[Counts, Counts]:
    """Return what the kernel says now and some steps later."""
    before = after = await counts_of(engine)
    while after.steps == before.steps:
        await engine._core.clock.sleep(0.001)  # a simulated kernel steps when time passes
        after = await counts_of(engine)
    return before, after


async def until_full(engine: ringflow.Engine) -> int:
    """Wait until nothing more may wait; then it steps, and sends nothing. Return what it sent."""
    runtime = runtime_of(engine)
    await runtime.changed.until(lambda: runtime.outputs.is_full)
    before, after = await step_on(engine)
    assert before.sent == after.sent
    in_ring, in_a_look = runtime.spec.reply_slots, LOOK_BYTES // 32
    assert BOUND <= runtime.outputs.waiting[0] <= BOUND + in_ring + in_a_look
    return after.sent


async def until_it_sends(engine: ringflow.Engine, sent: int) -> None:
    """Wait until the kernel has sent more than it had; it may be full again by then."""
    while (await step_on(engine))[1].sent == sent:
        pass


async def fill_consumer(engine: ringflow.Engine) -> None:
    kernel = await engine.launch(teller(release="at_once"), device="host:0")
    async with kernel.replies(consumer="all"):
        pass


async def fill_held(engine: ringflow.Engine) -> None:
    await engine.launch(teller(), device="host:0")


async def fill_route(engine: ringflow.Engine) -> None:
    target = await engine.launch(adder("target"), device="host:0")
    await close_gate(engine, target)
    await engine.launch(teller(ROUTE, release="at_once", routes=["next"]), device="host:0")
    await engine.connect("teller", "next", "target")


async def acknowledge(engine: ringflow.Engine) -> None:
    """Read all that waits, and acknowledge it."""
    queue = runtime_of(engine).outputs.consumers["all"]
    async with engine.kernel("teller").replies(consumer="all") as replies:
        told = [await anext(replies) for _ in range(queue.unread_count)]
        numbers = [int(reply.array("uint64")[0]) for reply in told]
        assert numbers == list(range(numbers[0], numbers[0] + len(told))), "lost, or told twice"
        await told[-1].ack()


async def forget(engine: ringflow.Engine) -> None:
    await engine.kernel("teller").forget_consumer("all")


async def checkpoint(engine: ringflow.Engine) -> None:
    await engine.checkpoint("teller")


async def disconnect(engine: ringflow.Engine) -> None:
    assert await engine.disconnect("teller", "next") >= BOUND


async def let_the_target_go_on(engine: ringflow.Engine) -> None:
    open_gate(engine, "target")


Step = Callable[[ringflow.Engine], Awaitable[None]]


@pytest.mark.parametrize(
    ("fill", "make_room"),
    [
        (fill_consumer, acknowledge),
        (fill_consumer, forget),
        (fill_held, checkpoint),
        (fill_route, disconnect),
        (fill_route, let_the_target_go_on),
    ],
)
async def test_what_is_sent_between_messages_waits_for_room(
    engine: ringflow.Engine, fill: Step, make_room: Step
) -> None:
    """At the bound emit and send_to say no, until somebody takes what waits."""
    with anyio.fail_after(60):
        await fill(engine)
        try:
            sent = await until_full(engine)
            await make_room(engine)
            await until_it_sends(engine, sent)
        finally:
            if fill is fill_route:
                open_gate(engine, "target")


async def test_a_kernel_that_may_not_send_is_served_like_any_other(
    engine: ringflow.Engine,
) -> None:
    """It is checkpointed, moves and gets new code; where it goes it sends no more than before."""
    with anyio.fail_after(60):
        await fill_consumer(engine)
        sent = await until_full(engine)
        await engine.checkpoint("teller")
        await engine.migrate("teller", to="host:1")
        assert (await step_on(engine))[1].sent == sent
        await engine.reload("teller", code(EMIT, "two"), probation_messages=0)
        sent = await until_full(engine)
        await acknowledge(engine)
        await until_it_sends(engine, sent)


async def test_a_kernel_may_not_send_when_it_comes_back_to_a_full_consumer(folder: Path) -> None:
    """What waits for it is in the recovery point; after a restart too nothing is added."""
    with anyio.fail_after(60):
        async with ringflow.open_engine(folder, devices=["host:0"], limits=LIMITS) as engine:
            await fill_consumer(engine)
            await until_full(engine)
            await engine.checkpoint("teller")
        async with ringflow.open_engine(folder, devices=["host:0"], limits=LIMITS) as engine:
            sent = await until_full(engine)
            await acknowledge(engine)
            await until_it_sends(engine, sent)


async def test_the_bound_holds_while_nothing_is_delivered(engine: ringflow.Engine) -> None:
    """As when a launch waits for the disk: the kernel sends already."""
    kernel = await engine.launch(teller(release="at_once"), device="host:0")
    runtime = runtime_of(engine)
    runtime.pause()
    with anyio.fail_after(60):
        async with kernel.replies(consumer="all"):
            pass
        await runtime.changed.until(lambda: runtime.outputs.is_full)
        enough = runtime.steps + 50_000
        while runtime.steps < enough:
            await engine._core.clock.sleep(0.001)
    assert runtime.outputs.waiting[0] <= BOUND + runtime.spec.reply_slots + LOOK_BYTES // 32
    runtime.flow()


def test_the_bound_holds_in_a_simulated_world() -> None:
    """Two worlds of one seed agree on where it took effect."""

    def sent_in_a_world() -> int:
        async def fill(engine: ringflow.Engine) -> int:
            await fill_consumer(engine)
            sent = await until_full(engine)
            await acknowledge(engine)
            await until_it_sends(engine, sent)
            return sent

        with World(3, limits=LIMITS) as world:
            return world.run(fill)

    assert sent_in_a_world() == sent_in_a_world()
