"""Routes between kernels: in order, once, over crashes, migrations, reloads and full inboxes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import ringflow
from ringflow.files import FileSystem
from ringflow.limits import EngineLimits
from ringflow.simulate.files import CrashingFiles
from tests.engine.kernels import Add, Hop, Total, Trap, expected_state, relay, relay_code
from tests.engine.story import Producer, Recorder, send_all

pytestmark = pytest.mark.anyio

FOLDER = Path("/engine")
DEVICES = ("host:0", "host:1")
SMALL = EngineLimits(parked_messages=8, cycle_messages=64, waiting_outputs=16, step_timeout_s=10.0)


@asynccontextmanager
async def engine_on(
    files: FileSystem, *, limits: EngineLimits | None = None
) -> AsyncIterator[ringflow.Engine]:
    async with ringflow.open_engine(FOLDER, devices=DEVICES, files=files, limits=limits) as engine:
        yield engine


async def crash(files: CrashingFiles) -> CrashingFiles:
    """Switch the power off now; return what the next boot finds."""
    after = files.after_crash()
    files.crash_before_step(0)
    return after


async def pair(
    engine: ringflow.Engine, *, copies: int = 1, **changes: Any
) -> tuple[ringflow.KernelHandle, ringflow.KernelHandle]:
    """Launch ``a``, which sends to ``b``; ``changes`` are of ``b``'s spec."""
    a = await engine.launch(relay("a", copies=copies), device="host:0")
    b = await engine.launch(relay("b", **changes), device="host:1")
    await engine.connect("a", "next", "b")
    return a, b


def sent(values: list[int], copies: int = 1) -> list[int]:
    """Return what a relay sends on for these values."""
    return [value * 10 + copy for value in values for copy in range(copies)]


async def state_of(kernel: ringflow.KernelHandle) -> tuple[int, ...]:
    """Return the region ``state`` after every message that was accepted until now."""
    await kernel.call(Total(), timeout_s=60)
    async with kernel.held() as state:
        return tuple(int(word) for word in state["state"].numpy())


async def settle(source: ringflow.KernelHandle) -> None:
    """Wait until what the source has sent are messages of its targets."""
    with anyio.fail_after(60):
        await source.call(Total(), timeout_s=60)
        while any(one.waiting_count for one in source.connections):
            await source.call(Total(), timeout_s=60)


async def folded(source: ringflow.KernelHandle, target: ringflow.KernelHandle) -> tuple[int, ...]:
    """Return hash, sum and count of the target once it has everything that the source sent."""
    await settle(source)
    return (await state_of(target))[:3]


# The normal run


async def test_what_one_kernel_sends_another_applies_in_order(engine: ringflow.Engine) -> None:
    """Each send is a message of the target, once, in the order in which it was sent."""
    a, b = await pair(engine, copies=3)
    await send_all(a, range(100))
    assert await folded(a, b) == expected_state(sent(list(range(100)), 3))
    status = a.connections[0]
    assert (status.route, status.target, status.taken_count) == ("next", "b", 300)
    assert (await state_of(a))[:3] == expected_state(list(range(100)))


async def test_replies_are_the_callers_and_sends_are_not(engine: ringflow.Engine) -> None:
    """A reader of the source's replies sees no send, and a call is not answered by one."""
    a, _ = await pair(engine, copies=2)
    recorder = Recorder(a)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        await recorder.started.wait()
        replies = [await a.call(Add(value), timeout_s=30) for value in range(20)]
        await recorder.until(replies[-1].sequence)
        tasks.cancel_scope.cancel()
    hashes = [expected_state(list(range(count)))[0] for count in range(1, 21)]
    assert [int(reply.array("uint64")[0]) for reply in replies] == hashes
    assert [reply.payload for reply in recorder.replies] == [reply.payload for reply in replies]
    assert {reply.index for reply in replies} == {2}


async def test_two_routes_to_one_kernel_and_two_sources(engine: ringflow.Engine) -> None:
    """Each edge keeps its order; nothing of either is lost."""
    a, b = await pair(engine)
    c = await engine.launch(relay("c"), device="host:0")
    await engine.connect("c", "next", "b")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_all, a, range(50))
        tasks.start_soon(send_all, c, range(1000, 1050))
    await settle(a)
    _, total, count = await folded(c, b)
    assert (total, count) == (sum(sent([*range(50), *range(1000, 1050)])), 100)


async def test_a_message_may_send_and_reply_as_often_as_its_credit_says(
    engine: ringflow.Engine,
) -> None:
    """One more traps the kernel, whose messages are then tried again and halt it."""
    await engine.launch(relay("b"), device="host:1")
    a = await engine.launch(relay("a", copies=2, max_replies=2), device="host:0")
    await engine.connect("a", "next", "b")
    receipt = await a.send(Add(1))
    with anyio.fail_after(60), pytest.raises(ringflow.KernelStalledError, match="too many"):
        await receipt.done()


# Crashes


async def test_the_source_s_recovery_point_keeps_what_the_target_has_not_taken() -> None:
    """Sends that waited for the target are in the checkpoint, and come after the restart."""
    files = CrashingFiles()
    async with engine_on(files, limits=SMALL) as engine:
        a, b = await pair(engine)
        async with b.held():
            await send_all(a, range(12))
            await a.call(Total(), timeout_s=30)
            assert a.connections[0].waiting_count > 0
            await engine.checkpoint("a")
            after = files.after_crash()
        await crash(files)
    async with engine_on(after) as engine:
        a, b = engine.kernel("a"), engine.kernel("b")
        await send_all(a, [77])
        assert await folded(a, b) == expected_state(sent([*range(12), 77]))


async def test_the_target_is_ahead_of_the_source_s_recovery_point() -> None:
    """The source makes its sends again, and the target's mark drops what it has."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        a, b = await pair(engine, copies=2)
        await send_all(a, range(30))
        await settle(a)
        await engine.checkpoint("b")
        await send_all(a, range(30, 40))
        await settle(a)
        after = await crash(files)
    async with engine_on(after) as engine:
        a, b = engine.kernel("a"), engine.kernel("b")
        await send_all(a, range(40, 50))
        assert await folded(a, b) == expected_state(sent(list(range(50)), 2))
        assert a.connections[0].target == "b"


@pytest.mark.parametrize("step", range(0, 60, 5))
async def test_a_crash_at_any_step_neither_doubles_nor_loses_a_send(step: int) -> None:
    """The target has, in order, exactly what the source's own messages say."""
    files, accepted = CrashingFiles(), 0
    try:
        async with engine_on(files) as engine:
            a, b = await pair(engine, copies=2)
            files.crash_before_step(step)
            for value in range(40):
                await a.send(Add(value))
                accepted = value + 1
                if value % 10 == 4:
                    await engine.checkpoint("a" if value % 20 == 4 else "b")
            await settle(a)
    except (ringflow.RingflowError, OSError):
        pass  # whatever the crash makes of it
    else:
        raise AssertionError("the crash did not come")
    async with engine_on(files.after_crash()) as engine:
        a, b = engine.kernel("a"), engine.kernel("b")
        after = await folded(a, b)
        count = (await state_of(a))[2]
        assert count >= accepted
        assert after == expected_state(sent(list(range(count)), 2))


async def test_an_orderly_end_keeps_what_waits(folder: Path) -> None:
    """Also for a volatile target, whose mark is exact then."""
    limits = EngineLimits(parked_messages=8, waiting_outputs=16)
    async with ringflow.open_engine(folder, devices=DEVICES, limits=limits) as engine:
        a, b = await pair(engine, durability="volatile")
        await send_all(a, range(5))
        assert (await folded(a, b))[2] == 5
        async with b.held():
            await send_all(a, range(5, 17))
            await a.call(Total(), timeout_s=30)
            waiting = a.connections[0].waiting_count
            assert waiting > 0
            await engine.checkpoint("a")
    async with ringflow.open_engine(folder, devices=DEVICES) as engine:
        a, b = engine.kernel("a"), engine.kernel("b")
        _, total, count = await folded(a, b)
        assert total == sum(sent(list(range(17)))) or count < 17
        assert count >= 5 + waiting


# Operations


async def test_messages_flow_while_source_and_target_migrate(engine: ringflow.Engine) -> None:
    """Nothing is lost, doubled or reordered by either's move."""
    a, b = await pair(engine)
    producer = Producer(a)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(producer.run)
        await producer.until(20)
        await engine.migrate("b", to="host:0")
        await engine.migrate("a", to="host:1")
        await producer.until(len(producer.values) + 20)
        await engine.migrate("b", to="host:1")
        await producer.stop()
    assert await folded(a, b) == expected_state(sent(producer.values))


async def test_a_reload_that_rolls_back_sends_nothing(engine: ringflow.Engine) -> None:
    """What the failed code sent is never seen; the old code sends its own, once."""
    a, b = await pair(engine)
    await send_all(a, range(10))
    operation = await engine.start_reload("a", relay_code(factor=7, trap_at=25), at_sequence=11)
    await send_all(a, range(10, 40))
    with pytest.raises(ringflow.OperationFailedError):
        await operation.result()
    await send_all(a, range(40, 50))
    assert await folded(a, b) == expected_state(sent(list(range(50))))


async def test_a_reload_that_completes_sends_what_was_held(engine: ringflow.Engine) -> None:
    """On probation nothing arrives; then all of it does, once, by the new code."""
    a, b = await pair(engine)
    await send_all(a, range(10))
    await a.call(Total(), timeout_s=30)
    operation = await engine.start_reload("a", relay_code(factor=7), probation_messages=20)
    async for event in operation.events():
        if event.wire_name == "reload.restored.v1":
            break
    await send_all(a, range(10, 15))
    await (await a.send(Total())).done()
    assert (await state_of(b))[2] == 10
    await send_all(a, range(15, 40))
    await operation.result()
    expected = sent(list(range(10))) + [value * 7 for value in range(10, 40)]
    assert await folded(a, b) == expected_state(expected)


async def test_a_trapped_source_is_rebuilt_and_sends_nothing_again(
    engine: ringflow.Engine,
) -> None:
    """Its replay makes known outputs, which are dropped."""
    a, b = await pair(engine, copies=2)
    await send_all(a, range(20))
    await settle(a)
    operation = await engine.start_reload("a", relay_code(trap_at=24), probation_messages=0)
    await operation.result()
    for value in range(20, 23):
        await a.call(Add(value), timeout_s=30)
    await settle(a)
    before = await state_of(b)
    receipt = await a.send(Add(23))  # traps again and again: the kernel is halted
    with anyio.fail_after(60), pytest.raises(ringflow.KernelStalledError):
        await receipt.done()
    assert await state_of(b) == before
    assert before[:3] == expected_state(sent(list(range(23)), 2))


# Cycles and back-pressure


async def test_two_kernels_in_a_circle(engine: ringflow.Engine) -> None:
    """A message goes round a thousand times."""
    a, b = await pair(engine)
    await engine.connect("b", "next", "a")
    await a.send(Hop(1000))
    with anyio.fail_after(60):
        while (await state_of(a))[3] + (await state_of(b))[3] < 1001:
            pass
    assert (await state_of(a))[3] == 501


async def test_a_kernel_that_sends_to_itself(engine: ringflow.Engine) -> None:
    """It is a circle of one; it can be stopped like any other kernel."""
    a = await engine.launch(relay("a"), device="host:0")
    await engine.connect("a", "next", "a")
    await a.send(Hop(200))
    with anyio.fail_after(60):
        while (await state_of(a))[3] < 201:
            pass
    await engine.stop("a")


async def test_a_full_circle_goes_on(folder: Path) -> None:
    """More goes round than the inboxes of programs take; nobody waits for himself."""
    async with ringflow.open_engine(folder, devices=DEVICES, limits=SMALL) as engine:
        a, b = await pair(engine)
        await engine.connect("b", "next", "a")
        with anyio.fail_after(120):
            for _ in range(20):
                await a.send(Hop(50))
            while (await state_of(a))[3] + (await state_of(b))[3] < 20 * 51:
                pass


async def test_a_full_target_holds_its_source_back(folder: Path) -> None:
    """The source's sends wait up to a bound, then its messages do; a hold and a move still work."""
    async with ringflow.open_engine(folder, devices=DEVICES, limits=SMALL) as engine:
        a, b = await pair(engine, copies=1)
        async with anyio.create_task_group() as tasks, b.held():
            tasks.start_soon(send_all, a, range(300))
            with anyio.fail_after(30):
                while a.connections[0].waiting_count < SMALL.waiting_outputs:
                    assert a.connections[0].taken_count <= SMALL.parked_messages
                    await engine.checkpoint("a")
                await engine.migrate("a", to="host:1")
            in_ring = a.spec.ring_slots
            assert a.connections[0].waiting_count <= SMALL.waiting_outputs + in_ring
            assert a.connections[0].taken_count <= SMALL.parked_messages
        assert await folded(a, b) == expected_state(sent(list(range(300))))


async def test_programs_wait_behind_kernels(folder: Path) -> None:
    """Where sends wait for a kernel, a program's message is refused or waits."""
    async with ringflow.open_engine(folder, devices=DEVICES, limits=SMALL) as engine:
        a, b = await pair(engine)
        async with b.held():
            await send_all(a, range(12))
            await a.call(Total(), timeout_s=30)
            with pytest.raises(ringflow.LimitExceededError):
                await b.send(Add(1), on_full="raise")
        await settle(a)
        await b.send(Add(1), on_full="raise")


# Volatile kernels


async def test_a_volatile_target_gets_nothing_twice_after_a_crash() -> None:
    """What it may have taken is not sent again, though the source makes it anew."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        a, b = await pair(engine, durability="volatile")
        await send_all(a, range(10))
        assert (await folded(a, b))[2] == 10
        await engine.checkpoint("b")
        await send_all(a, range(10, 15))
        assert (await folded(a, b))[2] == 15
        after = await crash(files)
    async with engine_on(after) as engine:
        a, b = engine.kernel("a"), engine.kernel("b")
        assert (await state_of(a))[2] == 15
        assert await folded(a, b) == expected_state(sent(list(range(10))))
        await send_all(a, [50, 51])
        assert await folded(a, b) == expected_state(sent([*range(10), 50, 51]))


async def test_a_volatile_source_goes_back_and_its_target_does_not() -> None:
    """What it did after its recovery point is lost; what it does then goes on its way."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        a = await engine.launch(relay("a", durability="volatile"), device="host:0")
        b = await engine.launch(relay("b"), device="host:1")
        await engine.connect("a", "next", "b")
        await send_all(a, range(10))
        await settle(a)
        await engine.checkpoint("a")
        await send_all(a, range(10, 15))
        assert (await folded(a, b))[2] == 15
        after = await crash(files)
    async with engine_on(after) as engine:
        a, b = engine.kernel("a"), engine.kernel("b")
        assert (await state_of(a))[2] == 10
        await send_all(a, [50, 51])
        assert await folded(a, b) == expected_state(sent([*range(15), 50, 51]))


async def test_an_async_target_gets_each_send_once_after_a_crash() -> None:
    """Its messages and the mark are one record: what was lost is sent again."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        a, b = await pair(engine, durability="async")
        await send_all(a, range(20))
        after = await crash(files)
    async with engine_on(after) as engine:
        a, b = engine.kernel("a"), engine.kernel("b")
        assert await folded(a, b) == expected_state(sent(list(range(20))))


async def test_a_free_source_sends_what_a_recovery_point_covers(engine: ringflow.Engine) -> None:
    """Outputs that a replay may contradict wait, for kernels as for readers."""
    a = await engine.launch(relay("a", replay="checkpoint"), device="host:0")
    b = await engine.launch(relay("b"), device="host:1")
    await engine.connect("a", "next", "b")
    last = await send_all(a, range(10))
    receipt = await a.send(Total())
    await receipt.done()
    assert last == 10
    assert (await state_of(b))[2] == 0
    await engine.checkpoint("a")
    with anyio.fail_after(30):
        while a.connections[0].taken_count < 10:
            await b.call(Total(), timeout_s=30)
    assert (await state_of(b))[:3] == expected_state(sent(list(range(10))))


# Connections


async def test_disconnecting_and_connecting_elsewhere(engine: ringflow.Engine) -> None:
    """The old target keeps what it has taken, the new one gets what comes later."""
    a, b = await pair(engine)
    c = await engine.launch(relay("c"), device="host:0")
    await send_all(a, range(5))
    await settle(a)
    assert await engine.disconnect("a", "next", reason="a test") == 0
    await send_all(a, range(5, 10))
    await a.call(Total(), timeout_s=30)
    assert (a.connections[0].target, a.connections[0].dropped_count) == ("", 5)
    await engine.connect("a", "next", "c")
    await send_all(a, range(10, 15))
    assert await folded(a, c) == expected_state(sent(list(range(10, 15))))
    assert (await state_of(b))[:3] == expected_state(sent(list(range(5))))


async def test_disconnecting_drops_what_waits_and_says_how_much(folder: Path) -> None:
    """So a stuck target can be cut off, and its source goes on."""
    async with ringflow.open_engine(folder, devices=DEVICES, limits=SMALL) as engine:
        a, b = await pair(engine)
        async with b.held():
            await send_all(a, range(12))
            await a.call(Total(), timeout_s=30)
            waiting = a.connections[0].waiting_count
            assert await engine.disconnect("a", "next") == waiting > 0
        assert (await state_of(b))[2] == 12 - waiting


async def test_a_connection_outlives_a_restart_and_a_disconnection_does_too() -> None:
    """Replayed outputs from before a connection go nowhere."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        a = await engine.launch(relay("a"), device="host:0")
        await engine.launch(relay("b"), device="host:1")
        await send_all(a, range(5))
        await a.call(Total(), timeout_s=30)
        await engine.connect("a", "next", "b", actor="me")
        await send_all(a, range(5, 10))
        after = await crash(files)
    async with engine_on(after) as engine:
        a, b = engine.kernel("a"), engine.kernel("b")
        assert await folded(a, b) == expected_state(sent(list(range(5, 10))))
        assert (await engine.connect("a", "next", "b")).target == "b"
        await engine.disconnect("a", "next")
        again = await crash(after)
    async with engine_on(again) as engine:
        a, b = engine.kernel("a"), engine.kernel("b")
        await send_all(a, [99])
        await a.call(Total(), timeout_s=30)
        assert a.connections[0].target == ""
        assert (await state_of(b))[2] == 5


async def test_wrong_connections_are_refused(engine: ringflow.Engine) -> None:
    """By name, and nothing is changed."""
    a, _ = await pair(engine)
    odd = await engine.launch(
        relay(
            "odd",
            messages=(Total, Hop, Trap),
            routes=("next", ringflow.Route("typed", messages=[Add])),
        ),
        device="host:0",
    )
    with pytest.raises(ringflow.UnknownKernelError):
        await engine.connect("nobody", "next", "b")
    with pytest.raises(ringflow.UnknownKernelError):
        await engine.connect("a", "typed", "nobody")
    with pytest.raises(ringflow.RouteError, match="there are: next, typed"):
        await engine.connect("a", "sideways", "b")
    with pytest.raises(ringflow.RouteError, match="leads to 'b' already"):
        await engine.connect("a", "next", "odd")
    with pytest.raises(ringflow.RouteError, match=r"'Add' .type 1., which kernel 'odd'"):
        await engine.connect("a", "typed", "odd")
    with pytest.raises(ringflow.RouteError, match="is not connected"):
        await engine.disconnect("a", "typed")
    with pytest.raises(ringflow.RouteError, match="must keep its place"):
        await engine.start_reload("a", relay_code(), routes=["other"])
    assert [one.target for one in a.connections] == ["b", ""]
    assert odd.connections[0].target == ""


async def test_what_the_target_does_not_take_is_dropped_and_counted(
    engine: ringflow.Engine,
) -> None:
    """A route that declares no messages can send what nobody knows; the journal says so once."""
    a = await engine.launch(relay("a", copies=2), device="host:0")
    deaf = relay(
        "deaf",
        messages=(Total, Hop),
        routes=("next", ringflow.Route("typed", messages=[Add, Trap])),
    )
    b = await engine.launch(deaf, device="host:1")
    await engine.connect("a", "next", "deaf")
    await send_all(a, range(5))
    await a.send(Hop(1))
    await settle(a)
    assert (await state_of(b))[2:] == (0, 1)
    assert a.connections[0].dropped_count == 10


async def test_a_target_is_not_stopped_and_a_source_takes_its_routes_along(
    engine: ringflow.Engine,
) -> None:
    """Everything that it sent is its target's before it ends."""
    a, b = await pair(engine, copies=2)
    with pytest.raises(ringflow.RouteError, match="disconnect it first"):
        await engine.stop("b")
    receipt = await a.send(Add(0))
    await send_all(a, range(1, 20))
    await receipt.done()
    await (await a.send(Total())).done()
    await engine.stop("a")
    assert (await state_of(b))[:3] == expected_state(sent(list(range(20)), 2))
    await engine.stop("b")
