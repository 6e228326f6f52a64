"""Calls with values that are none: refused by name, and nothing is sent; and what is said late."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ringflow
from ringflow.device.host.pool import SLOTS_MAX, shared_pool
from tests.engine.kernels import Add, Total, Trap, adder, code
from tests.engine.story import state_of

pytestmark = pytest.mark.anyio


async def test_a_wrong_on_full_is_refused_and_not_taken_for_wait(engine: ringflow.Engine) -> None:
    """By every way to send."""
    kernel = await engine.launch(adder(), device="host:0")
    wrong: Any = "rase"
    for sending in (
        kernel.send(Add(1), on_full=wrong),
        kernel.send(Add(1), data=b"12", on_full=wrong),
        kernel.send_many([Add(1)], on_full=wrong),
    ):
        with pytest.raises(ringflow.UsageError, match="'rase' is neither"):
            await sending
    assert (await kernel.send(Add(1))).sequence == 1


@pytest.mark.parametrize("timeout_s", [-1, float("nan"), None, "5"])
async def test_a_timeout_that_is_no_time_is_refused(
    engine: ringflow.Engine, timeout_s: Any
) -> None:
    """Before the message is accepted."""
    kernel = await engine.launch(adder(), device="host:0")
    with pytest.raises(ringflow.UsageError, match="timeout_s is "):
        await kernel.call(Total(), timeout_s=timeout_s)
    assert (await kernel.call(Total(), timeout_s=float("inf"))).sequence == 1


async def test_a_wrong_decision_is_named_whatever_the_kernels_state(
    engine: ringflow.Engine,
) -> None:
    """A typo is not answered with a word on the state; the right word is."""
    await engine.launch(adder(), device="host:0")
    wrong: Any = "retyr"
    with pytest.raises(ringflow.UsageError, match="'retyr' is neither"):
        await engine.resume("adder", wrong)
    with pytest.raises(ringflow.KernelStateError):
        await engine.resume("adder", "retry")


async def test_a_call_that_gets_no_reply_says_so_by_its_own_error(engine: ringflow.Engine) -> None:
    """No usage error: the message is applied."""
    silent = code().text.replace("self.reply(m, state[0]);", "")
    assert silent != code().text
    spec = adder(code=ringflow.KernelCodeSource.from_cuda(silent, "adder"))
    kernel = await engine.launch(spec, device="host:0")
    with pytest.raises(ringflow.NoReplyError, match="message 1 without a reply") as raised:
        await kernel.call(Add(5), timeout_s=60)
    assert (raised.value.kernel_id, raised.value.sequence) == ("adder", 1)
    assert (await state_of(kernel))[1] == 5


async def test_a_call_whose_reply_waits_for_a_checkpoint_says_so(engine: ringflow.Engine) -> None:
    """With what to do; other kernels' calls say nothing of it."""
    kernel = await engine.launch(adder(replay="checkpoint"), device="host:0")
    with pytest.raises(TimeoutError, match=r"until a checkpoint covers them.*engine\.checkpoint"):
        await kernel.call(Total(), timeout_s=0.05)
    at_once = adder("at_once", replay="checkpoint", release="at_once")
    other = await engine.launch(at_once, device="host:0")
    assert (await other.call(Total(), timeout_s=60)).sequence == 1


async def test_a_list_of_messages_goes_like_an_array(engine: ringflow.Engine) -> None:
    """In its order; one class at a time, and messages only."""
    kernel = await engine.launch(adder(), device="host:0")
    receipt = await kernel.send_many([Add(1), Add(2), Add(3)], producer="p", number=7)
    assert (receipt.sequence, kernel.last_number("p")) == (3, 9)
    await kernel.send_many(Add(value) for value in range(4, 7))
    assert (await state_of(kernel))[1] == 21
    for given, says in (
        ([Add(1), Trap()], "Add, Trap; send those of one class"),
        ([1, 2], "int is not a message"),
        (Add, "give messages"),
        (3, "give messages"),
    ):
        with pytest.raises(ringflow.SpecError, match=says):
            await kernel.send_many(given)  # type: ignore[arg-type]
    with pytest.raises(ringflow.SpecError, match="give messages"):
        await kernel.send_many([Add(1)], np.zeros(1, "u8"))
    with pytest.raises(ringflow.SpecError, match="one-dimensional array"):
        await kernel.send_many(Add, [1, 2])  # type: ignore[arg-type]
    with pytest.raises(ringflow.UsageError, match="no messages to send"):
        await kernel.send_many([])


async def test_a_reply_is_no_array_of_a_dtype_that_does_not_fit(engine: ringflow.Engine) -> None:
    """Both are said with the size: what numpy doesn't know, and what doesn't come out even."""
    kernel = await engine.launch(adder(), device="host:0")
    reply = await kernel.call(Total(), timeout_s=60)
    size_bytes = len(reply.payload)
    for dtype in ("flot", f"V{size_bytes - 1}", "O"):
        with pytest.raises(ringflow.SpecError, match=f"the {size_bytes} bytes of reply 1 can't"):
            reply.array(dtype)
    assert reply.array("u1").nbytes == size_bytes


async def test_what_an_engine_gives_says_what_it_is(engine: ringflow.Engine) -> None:
    """Names in place of addresses."""
    kernel = await engine.launch(adder(), device="host:0")
    operation = engine.start_migration("adder", to="host:1")
    await operation.result()
    async with kernel.held() as state:
        shown = [repr(one) for one in (*engine.devices(), kernel, operation, state["state"], state)]
    assert shown == [
        "HostDevice('host:0')",
        "HostDevice('host:1')",
        "KernelHandle(id='adder')",
        f"Operation(id={operation.id!r}, kernel_id='adder', Migration, state='completed')",
        "HeldRegion('state', dtype='uint64', shape=(4,), device='host:1')",
        "HeldState(state, cells; applied_sequence=0)",
    ]


async def test_a_grid_without_room_is_refused_before_anything_is_made_of_it(
    engine: ringflow.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No block is made, and the id is free; the error says what counts."""
    await engine.launch(adder("first"), device="host:0")  # two blocks
    too_many = SLOTS_MAX * shared_pool().worker_count - 1
    with monkeypatch.context() as patched:
        patched.setattr("ringflow.device.host.device.contexts_of", None)
        for device in ("host:0", "host:1"):
            with pytest.raises(
                ringflow.LimitExceededError, match=f"{too_many} of this grid, [0-9]+ of kernels"
            ):
                await engine.launch(adder(grid=(too_many, 1, 1)), device=device)
    assert [status.kernel_id for status in engine.kernels()] == ["first"]
    await engine.launch(adder(), device="host:0")


async def test_what_is_no_spec_is_not_launched(engine: ringflow.Engine) -> None:
    """Nor is a name a list of devices."""
    wrong: Any = "adder"
    with pytest.raises(ringflow.SpecError, match="launch takes a KernelSpec, and 'adder'"):
        await engine.launch(wrong)
    with pytest.raises(ringflow.UsageError, match=r"give \['host:11'\]"):
        async with ringflow.open_engine("never", devices="host:11"):
            pass
