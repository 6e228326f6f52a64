"""Halts, rollbacks and forks of kernels that send to one another."""

from __future__ import annotations

import anyio
import pytest

import ringflow
from ringflow.simulate.files import CrashingFiles
from tests.engine.kernels import Add, Trap, expected_state, relay
from tests.engine.story import send_all
from tests.engine.test_routes import folded, sent, settle, state_of
from tests.recovery.crashes import crash, engine_on, events_of

pytestmark = pytest.mark.anyio

ONCE = ringflow.EngineLimits(traps_in_a_row=1)


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_was_sent_to_a_halted_kernel_waits_for_it(restarted: bool) -> None:
    """Its source works on meanwhile; after the skip everything comes, once and in order."""
    files = CrashingFiles()
    async with engine_on(files, limits=ONCE) as engine:
        a = await engine.launch(relay("a"), device="host:0")
        b = await engine.launch(relay("b"), device="host:1")
        await engine.connect("a", "next", "b")
        await send_all(a, range(10))
        await settle(a)
        receipt = await b.send(Trap())
        with anyio.fail_after(60), pytest.raises(ringflow.KernelStalledError):
            await receipt.done()
        await (await a.send(Add(10))).done()
        assert a.connections[0].waiting_count == 1
        if not restarted:
            await engine.resume("b", "skip")
            assert await folded(a, b) == expected_state(sent(list(range(11))))
            return
        await events_of(engine, "kernel.halted.v1")
        files = crash(files)
    async with engine_on(files, limits=ONCE) as engine:
        a, b = engine.kernel("a"), engine.kernel("b")
        await (await a.send(Add(11))).done()
        await engine.resume("b", "skip")
        assert await folded(a, b) == expected_state(sent(list(range(12))))


async def test_a_rolled_back_source_sends_nothing_twice(engine: ringflow.Engine) -> None:
    """What went out before stays with the target; what is applied again sends nothing new."""
    a = await engine.launch(relay("a", copies=2), device="host:0")
    b = await engine.launch(relay("b"), device="host:1")
    await engine.connect("a", "next", "b")
    await send_all(a, range(5))
    await settle(a)
    await engine.checkpoint("a", name="five")
    await send_all(a, range(5, 10))
    await settle(a)
    await engine.rollback("a", to="five")
    await send_all(a, [10])
    assert await folded(a, b) == expected_state(sent(list(range(11)), 2))
    await engine.rollback("a", to="five", undo_messages=True)
    await send_all(a, [11])
    assert await folded(a, b) == expected_state(sent(list(range(12)), 2))
    assert (await state_of(a))[:3] == expected_state([*range(5), 11])


async def test_a_rolled_back_target_gets_no_message_again_that_was_undone(
    engine: ringflow.Engine,
) -> None:
    """Messages of other kernels are messages like any others."""
    a = await engine.launch(relay("a"), device="host:0")
    b = await engine.launch(relay("b"), device="host:1")
    await engine.connect("a", "next", "b")
    await send_all(a, range(5))
    await settle(a)
    await state_of(b)
    await engine.checkpoint("b", name="five")
    await send_all(a, range(5, 10))
    await settle(a)
    await state_of(b)
    await engine.rollback("b", to="five", undo_messages=True)
    await send_all(a, [10])
    assert await folded(a, b) == expected_state(sent([*range(5), 10]))


async def test_code_without_a_connected_route_is_not_rolled_back_to(
    engine: ringflow.Engine,
) -> None:
    """The route would lead from nowhere; once it is disconnected the rollback works."""
    spec = relay("a")
    old = spec.code.text.replace("routes::next", "0")
    first = ringflow.KernelCodeSource.from_cuda(old, "relay", version_id="old")
    a = await engine.launch(relay("a", code=first, routes=("zero",)), device="host:0")
    await engine.launch(relay("b"), device="host:1")
    await engine.reload("a", first, routes=("zero", "more"), probation_messages=0)
    await engine.connect("a", "more", "b")
    with pytest.raises(ringflow.RouteError, match="disconnect it first"):
        await engine.rollback("a", before_reload=True)
    await (await a.send(Add(1))).done()
    await engine.disconnect("a", "more")
    await engine.rollback("a", before_reload=True)
    assert len(a.connections) == 1
    assert (await state_of(a))[:3] == expected_state([1])


async def test_a_fork_is_connected_to_nothing(engine: ringflow.Engine) -> None:
    """Its state holds what others sent to its source; it sends to nobody."""
    a = await engine.launch(relay("a"), device="host:0")
    b = await engine.launch(relay("b"), device="host:1")
    await engine.connect("a", "next", "b")
    await send_all(a, range(5))
    expected = await folded(a, b)
    fork = await engine.fork("b", kernel_id="c")
    assert (await state_of(fork))[:3] == expected
    other = await engine.fork("a", kernel_id="d")
    await send_all(other, [100])
    assert (await state_of(other))[:3] == expected_state([*range(5), 100])
    assert (await state_of(b))[:3] == expected
    assert {one.target for one in (*fork.connections, *other.connections)} == {""}
