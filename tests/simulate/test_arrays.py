"""Arrays in simulated worlds: in the same order from the same seed, and there after a crash."""

from __future__ import annotations

import anyio

import ringflow
from ringflow.simulate.world import World
from tests.engine.arrays import Ask, Fold, Mirror, arrays, data_of, folded

SIZES = (1000, 300_000, 0, 700_000, 64, 400_000)
SENT = [(number, data_of(number, size)) for number, size in enumerate(SIZES)]


async def busy(engine: ringflow.Engine) -> None:
    """Send arrays of all sizes to a kernel that moves meanwhile, beside another one's."""
    first = await engine.launch(arrays("first"), device="host:0")
    second = await engine.launch(arrays("second"), device="host:1")

    async def feed(kernel: ringflow.KernelHandle) -> None:
        for salt, data in SENT:
            await kernel.send(Fold(salt), data=data)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed, first)
        tasks.start_soon(feed, second)
        await engine.migrate("first", to="host:1")
    reply = await first.call(Mirror(), data=data_of(9, 300_000), timeout_s=60.0)
    assert len(reply.data) == 300_000


async def hashes(engine: ringflow.Engine) -> list[int]:
    replies = [
        await engine.kernel(name).call(Ask(), timeout_s=60.0) for name in ("first", "second")
    ]
    return [int(reply.array("uint64")[0]) for reply in replies]


def contents(seed: int) -> dict[str, bytes]:
    with World(seed) as world:
        world.run(busy)
    return world.contents()


def test_arrays_come_in_the_order_that_the_seed_gives() -> None:
    """The same files to the byte, copies in threads included; another seed, another journal."""
    first, again, other = contents(3), contents(3), contents(4)
    assert first == again
    assert other != first
    assert sum(place.startswith("objects/") for place in first) >= len(set(SIZES)) - 1


def test_a_restart_applies_the_same_arrays_to_both_kernels() -> None:
    """Their hashes depend on every byte and its order."""
    with World(5) as world:
        world.run(busy)
        world.crash()
        world.open()
        assert world.run(hashes) == [folded(SENT)] * 2
