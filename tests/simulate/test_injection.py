"""Faults: the n-th effect of each kind fails, and the engine comes through."""

from __future__ import annotations

import pytest

from ringflow.errors import (
    DeviceError,
    EngineClosedError,
    OperationFailedError,
    OutcomeUnknownError,
    RingflowError,
    UsageError,
)
from ringflow.simulate.files import CrashError
from ringflow.simulate.gpus import ModelGpu
from ringflow.simulate.world import World
from tests.engine.kernels import Add, adder
from tests.simulate.story import Producer, busy, live_through, state_of


def launched(seed: int = 0) -> World:
    world = World(seed)
    world.open()
    world.run(lambda engine: engine.launch(adder(), device="host:0"))
    return world


@pytest.mark.parametrize(
    "pattern",
    ["host:1.load", "host:1.allocate", "host:0.digest_blocks", "host:1.launch", "host:1.copy_in"],
)
def test_a_device_that_fails_once_leaves_the_kernel_on_the_source(pattern: str) -> None:
    """The migration fails with what was injected, its second try succeeds."""
    world = launched()
    world.faults.fail(pattern)
    with pytest.raises(OperationFailedError, match="injected"):
        world.run(lambda engine: engine.migrate("adder", to="host:1"))
    assert world.faults.armed_count == 0
    assert world.engine.kernels()[0].device == "host:0"
    world.run(lambda engine: engine.migrate("adder", to="host:1"))
    assert state_of(world)[2] == 0
    world.close()
    assert world.unreturned_bytes == {}


def test_a_gpu_is_lost_for_the_first_reason() -> None:
    """What happens to it later changes nothing."""
    gpu = ModelGpu("cuda:0", seed=0)
    assert gpu.lost == ""
    for reason in ("a kernel trapped", "its hardware failed"):
        gpu.lose(reason)
        assert gpu.lost == "a kernel trapped"
    gpu.close()


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("call", ["create", "write", "datasync", "rename"])
def test_a_storage_that_fails_once_fails_the_snapshot(call: str, nth: int) -> None:
    """One snapshot fails with what was injected, the next succeeds."""
    world = launched()
    world.faults.fail(f"checkpoints.{call}", nth=nth, failure="full")
    failures = []
    for _ in range(nth + 1):
        try:
            world.run(lambda engine: engine.checkpoint("adder"))
        except OperationFailedError as error:
            failures.append(str(error))
    assert len(failures) == 1
    assert "injected" in failures[0]
    assert world.faults.armed_count == 0
    assert world.engine.health()["ok"]
    world.close()


@pytest.mark.parametrize("call", ["write", "datasync"])
def test_a_journal_that_fails_closes_the_engine(call: str) -> None:
    """What was not acknowledged may be lost; a restart goes on with the rest."""
    world, producer = launched(), Producer()
    world.run(lambda engine: producer.send(engine, 3))
    world.faults.fail(f"journal.{call}")
    with pytest.raises(OutcomeUnknownError):
        world.run(lambda engine: producer.send(engine, 3))
    world.settle()
    with pytest.raises(EngineClosedError):
        world.run(lambda engine: engine.kernel("adder").send(Add(value=1)))
    world.close()
    live_through(world, producer)
    world.close()


@pytest.mark.parametrize("seed", range(4))
def test_faults_by_chance_break_no_promise(seed: int) -> None:
    """Devices and checkpoints fail now and then; what was acknowledged is there in the end."""
    world, producer = launched(seed), Producer()
    world.faults.by_chance(0.05, "host:0.*", "host:1.*", "checkpoints.*")
    failures = 0
    for _ in range(8):
        try:
            world.run(lambda engine: busy(engine, producer))
        except* (OperationFailedError, DeviceError, RingflowError):
            failures += 1
        world.settle()
    assert failures
    world.faults.clear()
    world.crash()
    live_through(world, producer)
    world.close()


def test_a_piece_that_is_not_freed_is_the_only_one_that_is_lost() -> None:
    """One of the source's pieces fails to be freed after a migration: an event; others are."""
    world = launched()
    world.faults.fail("host:0.free")
    world.run(lambda engine: engine.migrate("adder", to="host:1"))
    world.close()
    assert b"injected in host:0.free" in world.journal()
    freed = [effect.what for effect in world.faults.effects if effect.kind == "host:0.free"]
    assert freed[0] == "adder/bulk"
    assert len(freed) > 5
    assert world.unreturned_bytes == {}  # what was lost by the fault left out


def test_an_unknown_effect_is_refused() -> None:
    """A misspelt fault would never happen; it says what there is."""
    world = World()
    for pattern in ("journal.sync", "datasync", "host:0.explode"):
        with pytest.raises(UsageError, match="name PLACE"):
            world.faults.fail(pattern)
    with pytest.raises(UsageError, match="count from 1"):
        world.faults.fail("journal.write", nth=0)
    with pytest.raises(UsageError, match="could be flipped"):
        world.faults.fail("host:0.launch", failure="flip")


def test_each_fault_counts_all_effects_of_its_kind() -> None:
    """The first and the second of a kind fail, and the third succeeds."""
    faults = World().faults
    faults.fail("host:0.load")
    faults.fail("*.load", nth=2, failure="crash")
    with pytest.raises(DeviceError):
        faults.reached("host:0", "load", "")
    faults.reached("host:1", "unload", "")
    with pytest.raises(CrashError):
        faults.reached("host:1", "load", "")
    faults.reached("host:0", "load", "")
    assert [effect.failed for effect in faults.effects] == [True, False, True, False]


def test_effects_are_noted_in_order() -> None:
    """A checkpoint's file is written, synced and renamed before the journal tells of it."""
    world = launched()
    start = len(world.faults.effects)
    world.run(lambda engine: engine.checkpoint("adder"))
    kinds = [effect.kind for effect in world.faults.effects[start:]]
    renamed = kinds.index("checkpoints.rename")
    assert kinds.index("checkpoints.datasync") < renamed < len(kinds) - 1
    assert "journal.datasync" in kinds[renamed:]
    world.close()
