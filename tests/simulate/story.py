"""What happens in the simulated worlds of these tests, and what must hold afterwards."""

from __future__ import annotations

import anyio
import attrs

import ringflow
from ringflow.simulate.world import World
from tests.engine.kernels import Add, Total, adder, code, expected_state


async def eventful(engine: ringflow.Engine) -> None:
    """Two kernels that are sent to while one moves and is reloaded, and the other is saved."""
    first = await engine.launch(adder("first"), device="host:0")
    second = await engine.launch(adder("second"), device="host:1")

    async def feed(kernel: ringflow.KernelHandle) -> None:
        for value in range(20):
            await kernel.send(Add(value=value))

    async def save() -> None:
        await engine.checkpoint("second")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed, first)
        tasks.start_soon(feed, second)
        tasks.start_soon(save)
        await engine.migrate("first", to="host:1")
        await engine.reload("first", code("adder_v1"), probation_messages=1)
    await first.call(Total(), timeout_s=5.0)


def eventful_world(seed: int) -> World:
    """Return a world in which that happened, closed."""
    with World(seed) as world:
        world.run(eventful)
    return world


def state_of(world: World, kernel_id: str = "adder") -> tuple[int, int, int]:
    """Return hash, sum and count of an adder after all messages that were sent."""

    async def look(engine: ringflow.Engine) -> tuple[int, int, int]:
        kernel = engine.kernel(kernel_id)
        await kernel.call(Total(), timeout_s=60.0)
        async with kernel.held() as state:
            digest, total, count, _ = (int(word) for word in state["state"].numpy())
        return digest, total, count

    return world.run(look)


@attrs.define
class Producer:
    """Sends ascending numbers, and remembers which were acknowledged; outlives any crash."""

    asked: int = 0
    acknowledged: int = 0

    async def send(self, engine: ringflow.Engine, count: int, kernel_id: str = "adder") -> None:
        kernel = engine.kernel(kernel_id)
        for _ in range(count):
            self.asked += 1
            await kernel.send(Add(value=self.asked), producer="p", number=self.asked)
            self.acknowledged = self.asked

    def resume(self, engine: ringflow.Engine, kernel_id: str = "adder") -> None:
        """After a restart: what was accepted counts, even if nobody heard of it."""
        accepted = engine.last_number(kernel_id, "p")
        assert accepted >= self.acknowledged, "an acknowledged message is lost"
        self.asked = self.acknowledged = accepted

    def check(self, world: World, kernel_id: str = "adder") -> None:
        """Raise unless the kernel holds every number, in order, each once."""
        found = state_of(world, kernel_id)
        assert found == expected_state(list(range(1, self.acknowledged + 1)))


async def busy(engine: ringflow.Engine, producer: Producer) -> None:
    """Every operation once, with messages in between; goes on where a crash has stopped it."""
    if not engine.kernels():
        await engine.launch(adder(), device="host:0")
    (status,) = engine.kernels()
    target = "host:1" if status.device == "host:0" else "host:0"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(producer.send, engine, 6)
        await engine.migrate("adder", to=target)
        await engine.checkpoint("adder")
        await engine.reload("adder", code("adder_v1"), probation_messages=1)
    await producer.send(engine, 2)


def live_through(world: World, producer: Producer) -> bool:
    """Restart and check that all is there that must be; return whether the kernel runs."""
    world.restart()
    states = {status.kernel_id: status.state for status in world.engine.kernels()}
    if states.get("adder") == "halted":  # faults left no way back: a person decides
        assert world.engine.last_number("adder", "p") >= producer.acknowledged
        return False
    if states.get("adder") in (None, "failed"):  # the crash came within its launch
        assert producer.acknowledged == 0
        return False
    producer.resume(world.engine)
    producer.check(world)
    return True
