"""Grids that return from their loops though nobody asked them to: treated like traps."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest

import ringflow
from ringflow.device.abi import Command
from tests.engine.kernels import Trap, adder, expected_state, leaving
from tests.engine.story import close_gate, open_gate, send_all, state_of

pytestmark = pytest.mark.anyio

BY_ITSELF = "returned from its loop by itself while handling message"


async def until_halted(engine: ringflow.Engine) -> None:
    """Wait for it; a kernel that comes back to its gate is let through."""
    with anyio.fail_after(60):
        while engine.kernels()[0].state != "halted" or engine._core.busy:
            if engine.kernels()[0].state == "running":
                open_gate(engine)
            await anyio.sleep(0.001)


@pytest.mark.parametrize("durability", ["durable", "async", "volatile"])
async def test_a_kernel_that_leaves_its_loop_by_itself_is_halted_like_one_that_traps(
    engine: ringflow.Engine, durability: Literal["durable", "async", "volatile"]
) -> None:
    """At once, with its message and a reason; it said that it was running, for ever."""
    spec = adder(code=leaving("Trap"), durability=durability)
    kernel = await engine.launch(spec, device="host:0")
    await send_all(kernel, [1, 2])
    receipt = await kernel.send(Trap())
    with anyio.fail_after(20), pytest.raises(ringflow.KernelStalledError, match=BY_ITSELF):
        await receipt.done()
    (status,) = engine.kernels()
    assert status.state == "halted"
    assert f"{BY_ITSELF} 3: leave the loop only when receive or step returns" in status.reason
    assert not engine.health()["ok"]


async def test_what_such_a_message_did_is_not_done_twice(engine: ringflow.Engine) -> None:
    """Each try begins at the recovery point; skipped, it leaves nothing behind."""
    kernel = await engine.launch(adder(code=leaving("Trap")), device="host:0")
    await send_all(kernel, [1, 2])
    await kernel.send(Trap())
    await send_all(kernel, [3])
    await until_halted(engine)
    await engine.resume("adder", "skip")
    assert (await state_of(kernel))[:3] == expected_state([1, 2, 3])


@pytest.mark.parametrize("asks", ["migrate", "checkpoint", "stop"])
async def test_a_grid_that_leaves_by_itself_has_not_obeyed_a_command(
    engine: ringflow.Engine, asks: str
) -> None:
    """Its message is half done; a migration would take that along as a state."""
    kernel = await engine.launch(adder(code=leaving("Wait")), device="host:0")
    await send_all(kernel, [1, 2])
    await close_gate(engine, kernel)
    resident = engine._core.runtimes["adder"].instance.resident

    async def ask() -> None:
        options: dict[str, Any] = {"to": "host:1"} if asks == "migrate" else {}
        with pytest.raises(ringflow.RingflowError, match=f"{BY_ITSELF} 3"):
            await getattr(engine, asks)("adder", **options)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        with anyio.fail_after(20):
            while resident._command is Command.RUN:
                await anyio.lowlevel.checkpoint()
        open_gate(engine)
    await until_halted(engine)
    await engine.resume("adder", "skip")
    assert (await state_of(kernel))[:3] == expected_state([1, 2])


async def test_a_reload_to_code_that_leaves_its_loop_is_rolled_back(
    engine: ringflow.Engine,
) -> None:
    """As if it had trapped on probation; the old code goes on."""
    kernel = await engine.launch(adder(), device="host:0")
    await send_all(kernel, [1])
    source = leaving("Trap").text.replace("case Add::id:", "case Add::id: return;", 1)
    new = ringflow.KernelCodeSource.from_cuda(source, "adder", version_id="leaves")
    operation = await engine.start_reload("adder", new, at_sequence=2, probation_messages=1)
    await send_all(kernel, [2])
    with anyio.fail_after(20), pytest.raises(ringflow.OperationFailedError, match=BY_ITSELF):
        await operation.result()
    assert (await state_of(kernel))[:3] == expected_state([1, 2])
