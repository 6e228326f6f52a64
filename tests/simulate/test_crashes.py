"""Crashes in simulated worlds: at each durable write, with every loss, and what a restart finds."""

from __future__ import annotations

import itertools

import pytest

import ringflow
from ringflow.errors import SimulatedCrashError
from ringflow.simulate.files import Loss
from ringflow.simulate.world import ROOT, World
from tests.engine.kernels import Add, adder
from tests.simulate.story import Producer, busy, live_through


def crash_at(seed: int, pattern: str, nth: int, loss: Loss) -> bool:
    """Crash a busy world at one effect and restart it; return whether it came so far."""
    world, producer = World(seed, loss=loss), Producer()
    world.faults.fail(pattern, nth=nth, failure="crash")
    try:
        world.open()
        world.run(lambda engine: busy(engine, producer))
        world.close()
    except SimulatedCrashError:
        if live_through(world, producer):
            world.run(lambda engine: producer.send(engine, 3))
            producer.check(world)
        world.close()
        assert world.unreturned_bytes == {}
        return True
    return False


@pytest.mark.parametrize("loss", list(Loss), ids=lambda loss: loss.name.lower())
@pytest.mark.parametrize("nth", [1, 2, 3, 5, 8, 13, 21, 34])
def test_nothing_acknowledged_is_lost_at_a_sync(nth: int, loss: Loss) -> None:
    """The power goes off at the n-th sync of the journal, whatever is left of the rest."""
    assert crash_at(11, "journal.datasync", nth, loss) or nth > 21


def test_every_change_of_a_file_can_be_the_last() -> None:
    """A crash before each durable change of a short story, then a restart that finds all of it."""
    for nth in itertools.count(1, 7):
        if not crash_at(5, "*.*", nth, Loss.ALL):
            break
    assert nth > 100


def test_a_crash_between_two_steps_loses_what_no_one_was_told() -> None:
    """Sends that were not acknowledged may be gone; the virtual time goes on from the crash."""
    world = World(2)
    world.open()
    world.run(lambda engine: engine.launch(adder(), device="host:0"))
    producer = Producer()
    sending = world.start(lambda engine: producer.send(engine, 50))
    while producer.acknowledged < 7:
        world.step()
    at_s = world.now_s
    world.crash()
    assert not sending.done or producer.acknowledged >= 7
    with pytest.raises(SimulatedCrashError):
        world.step()
    assert world.now_s == at_s
    live_through(world, producer)
    world.close()


def test_a_crash_leaves_nothing_of_what_the_dying_process_does() -> None:
    """Files are the same whether the process had much or nothing left to do."""
    world = World(4, loss=Loss.NONE)
    world.open()
    world.run(lambda engine: engine.launch(adder(), device="host:0"))
    world.settle()
    before = world.contents()

    async def flood(engine: ringflow.Engine) -> None:
        for value in range(100):
            await engine.kernel("adder").send(Add(value=value))

    world.start(flood)
    world.crash()
    assert world.contents() == before
    world.restart()
    assert world.engine.kernel("adder").last_number("nobody") == 0
    world.close()


def test_worlds_crash_alike() -> None:
    """The same crash in two worlds of one seed leaves the same bytes after the restart."""

    def ended() -> dict[str, bytes]:
        world, producer = World(9), Producer()
        world.faults.fail("checkpoints.rename", nth=2, failure="crash")
        world.open()
        with pytest.raises(SimulatedCrashError):
            world.run(lambda engine: busy(engine, producer))
        live_through(world, producer)
        world.run(lambda engine: busy(engine, producer))
        world.close()
        return world.contents()

    assert ended() == ended()


@pytest.mark.parametrize(("loss", "left"), [(Loss.ALL, None), (Loss.NONE, b"not synced")])
def test_a_crash_leaves_of_unsynced_bytes_what_its_loss_says(
    loss: Loss, left: bytes | None
) -> None:
    """The world's loss, or the crash's own, decides; synced bytes are there in either case."""
    for world, given in ((World(loss=loss), None), (World(), loss)):
        world.open()
        world.files.create(ROOT / "journal" / "mark").write(b"not synced")
        world.crash(given)
        assert world.contents().get("journal/mark") == left
        assert world.journal()
