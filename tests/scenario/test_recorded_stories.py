"""What engines did, with real threads or with a crash anywhere, comes to the same as a scenario."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
import pytest

import ringflow
from ringflow.errors import OperationFailedError
from ringflow.scenario.recorded_folder import check_recording, record_folder
from ringflow.simulate.world import World
from tests.engine.arrays import arrays
from tests.engine.conftest import DEVICES
from tests.engine.kernels import Add, Hop, Total, adder, code, relay
from tests.scenario.test_recording import write
from tests.simulate.story import Producer, busy, live_through

Story = Callable[[ringflow.Engine], Awaitable[None]]

SENT = 40
EVERY = 7


async def reading(kernel: ringflow.KernelHandle) -> None:
    """Acknowledge some of the replies, to the last."""
    async with kernel.replies(consumer="reader") as replies:
        async for reply in replies:
            if reply.sequence % EVERY == 0 or reply.sequence == SENT:
                await reply.ack()
            if reply.sequence == SENT:
                return


async def sending(kernel: ringflow.KernelHandle) -> None:
    for number in range(1, SENT + 1):
        await kernel.send(Total(), producer="feed", number=number)


async def everything_at_once(engine: ringflow.Engine) -> None:
    """A move and two reloads, one of which is rolled back, while messages flow."""
    kernel = await engine.launch(adder(), device="host:0")
    async with kernel.replies(consumer="reader"):
        pass
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reading, kernel)
        tasks.start_soon(sending, kernel)
        await engine.migrate(kernel.id, to="host:1", key="once", actor="ops", reason="a driver")
        await engine.reload(kernel.id, code("adder_double"), probation_timeout_s=0.01)
    bad = code("adder_bad")
    operation = await engine.start_reload(
        kernel.id, bad, at_sequence=SENT + 1, probation_messages=8
    )
    for value in range(3):
        await kernel.send(Add(value=value))
    with pytest.raises(OperationFailedError):
        await operation.result()
    await kernel.call(Total(), timeout_s=60.0)


async def checkpoints_by_themselves(engine: ringflow.Engine) -> None:
    """Each is after another message in each run."""
    kernel = await engine.launch(adder(checkpoint_every_messages=30), device="host:0")
    await sending(kernel)
    while [one.state for one in engine.operations()] != ["saved"]:  # a close would cancel it
        await kernel.call(Total(), timeout_s=60.0)


async def arrays_that_move(engine: ringflow.Engine) -> None:
    """Arrays in messages, some of which wait for the kernel's move."""
    kernel = await engine.launch(arrays(), device="host:0")
    async with anyio.create_task_group() as tasks:

        async def send() -> None:
            for value in range(8):
                await kernel.send(1, b"", data=np.full(64, value, dtype=np.uint8))

        tasks.start_soon(send)
        await engine.migrate(kernel.id, to="host:1")


async def kernels_that_send(engine: ringflow.Engine) -> None:
    """One kernel's sends are another one's messages."""
    source = await engine.launch(relay("source"), device="host:0")
    await engine.launch(relay("target"), device="host:1")
    await engine.connect("source", "next", "target")
    for _ in range(5):
        await source.send(Hop(left=1))
    await engine._core.runtimes["target"].until_done(5)  # a close in between is refused at times


async def a_target_that_moves(engine: ringflow.Engine) -> None:
    """What its source sends is on its way meanwhile; both move in turn."""
    source = await engine.launch(relay("source"), device="host:0")
    await engine.launch(adder("target"), device="host:1")
    await engine.connect("source", "next", "target")

    async def send() -> None:
        for value in range(1, 5 * SENT + 1):
            await source.send(Add(value=value), producer="feed", number=value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        for kernel_id, device in (("target", 0), ("source", 1), ("target", 1), ("source", 0)):
            await engine.migrate(kernel_id, to=f"host:{device}")
    await source.call(Total(), timeout_s=60.0)
    await engine._core.runtimes["target"].until_done(5 * SENT)


STORIES = (
    everything_at_once,
    checkpoints_by_themselves,
    arrays_that_move,
    kernels_that_send,
    a_target_that_moves,
)


@pytest.mark.anyio
@pytest.mark.parametrize("story", STORIES)
async def test_what_an_engine_did_comes_to_the_same_again(story: Story, tmp_path: Path) -> None:
    """Each line of the journal, each message and each acknowledgement; also of a second opening."""
    async with ringflow.open_engine(tmp_path, devices=DEVICES) as engine:
        await story(engine)
    async with ringflow.open_engine(tmp_path, devices=DEVICES):
        pass
    text = await anyio.to_thread.run_sync(record_folder, tmp_path)
    await anyio.to_thread.run_sync(partial(check_recording, text, tmp_path))


@pytest.mark.parametrize("steps", range(40, 160, 30))
def test_what_a_crash_broke_off_comes_to_the_same_again(steps: int, tmp_path: Path) -> None:
    """A move, a snapshot and a reload under load: the power goes off after so many steps."""
    producer, world = Producer(), World(steps)
    world.open()
    world.start(partial(busy, producer=producer))
    for _ in range(steps):
        world.step()
    world.crash()
    if live_through(world, producer):
        world.run(partial(busy, producer=producer))
    world.close()
    folder = write(world.contents(), tmp_path / "first")
    check_recording(record_folder(folder), folder)
