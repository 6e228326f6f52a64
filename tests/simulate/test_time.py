"""Virtual time: it passes at once, in order, and as far as it is told to."""

from __future__ import annotations

import time

import anyio
import pytest

import ringflow
from ringflow.clock import within
from ringflow.engine.waiting import Condition
from ringflow.errors import OperationFailedError, SimulationStuckError
from ringflow.limits import EngineLimits
from ringflow.simulate.world import World
from tests.device.kernels import source
from tests.engine.kernels import Add, Spin, Trap, adder, leaving

HOUR_S = 3600.0


def test_a_deadline_of_an_hour_passes_at_once() -> None:
    """Nobody waits, and the clock shows an hour."""
    with World() as world:
        never = Condition()
        began_s = time.perf_counter()

        async def wait(engine: ringflow.Engine) -> bool:
            return await within(world.clock, HOUR_S, lambda: never.until(lambda: False))

        assert world.run(wait) is False
        assert HOUR_S <= world.now_s < HOUR_S + 1.0
        assert time.perf_counter() - began_s < 30.0


def test_a_kernel_that_never_answers_runs_into_the_deadline() -> None:
    """A message that takes for ever stalls a migration; it is rolled back, at once in real time."""
    with World(limits=EngineLimits(step_timeout_s=HOUR_S)) as world:

        async def stall(engine: ringflow.Engine) -> None:
            kernel = await engine.launch(adder(), device="host:0")
            await kernel.send(Spin(rounds=1 << 40))
            await engine.migrate("adder", to="host:1")

        with pytest.raises(OperationFailedError, match="has not obeyed RETURN within 3600"):
            world.run(stall)
        assert world.now_s >= HOUR_S


def test_a_kernel_that_leaves_its_loop_by_itself_is_found_at_once() -> None:
    """No deadline passes, and the third try halts it."""
    with World(limits=EngineLimits(step_timeout_s=HOUR_S)) as world:

        async def leave(engine: ringflow.Engine) -> None:
            kernel = await engine.launch(adder(code=leaving("Trap")), device="host:0")
            await (await kernel.send(Trap())).done()

        with pytest.raises(ringflow.KernelStalledError, match=r"3 times in a row.*by itself"):
            world.run(leave)
        assert world.now_s < 60.0


def test_a_kernel_that_steps_obeys_at_once_however_long_it_was_quiet() -> None:
    """Looks at a kernel without news get rare; who wants something of it is not kept waiting."""
    spec = ringflow.KernelSpec(
        kernel_id="free_running",
        kernel_type="free",
        code=ringflow.KernelCodeSource.from_cuda(source("free"), "free_running"),
        replay="checkpoint",
        regions=[ringflow.Region("steps", dtype="uint64", shape=(1,))],
    )
    with World(limits=EngineLimits(step_timeout_s=0.1)) as world:

        async def hold_again_and_again(engine: ringflow.Engine) -> None:
            kernel = await engine.launch(spec, device="host:0")
            for quiet_s in (1.0, 47.0, HOUR_S):
                await world.clock.sleep(quiet_s)
                async with kernel.held():
                    pass

        world.run(hold_again_and_again)


def test_settle_leaves_deadlines_ahead() -> None:
    """All work is done, no time passes that only time is waited for."""
    with World() as world:
        world.run(lambda engine: engine.launch(adder(), device="host:0"))
        woken = []

        async def sleep(engine: ringflow.Engine) -> None:
            await world.clock.sleep(HOUR_S)
            woken.append(world.now_s)

        async def send(engine: ringflow.Engine) -> None:
            await (await engine.kernel("adder").send(Add(value=1))).done()
            woken.append(0.0)

        world.start(sleep)
        world.start(send)
        world.settle()
        assert woken == [0.0]
        assert world.now_s < 1.0
        world.advance(HOUR_S / 2)
        assert woken == [0.0]
        world.advance(HOUR_S)
        assert woken[1] == pytest.approx(HOUR_S, abs=1.0)
        assert world.now_s == pytest.approx(1.5 * HOUR_S, abs=1.0)


def test_the_wall_clock_may_go_back() -> None:
    """Records' times don't; the step is visible in the journal or the times stand still."""
    with World() as world:
        world.run(lambda engine: engine.launch(adder(), device="host:0"))
        world.clock.step_wall(-HOUR_S)
        world.run(lambda engine: engine.checkpoint("adder"))
    at = [int(line.split(b'"at_ns":"')[1].split(b'"')[0]) for line in lines(world)]
    assert at == sorted(at)


def lines(world: World) -> list[bytes]:
    return [line for line in world.journal().splitlines() if b'"at_ns":"' in line]


def test_what_never_comes_is_found_and_named() -> None:
    """A wait that nobody ends is an error that says where, not a hang."""
    world = World()
    world.open()

    async def forgotten(engine: ringflow.Engine) -> None:
        await anyio.Event().wait()

    with pytest.raises(SimulationStuckError, match=r"test_time.py:\d+"):
        world.run(forgotten)
    world.crash()
