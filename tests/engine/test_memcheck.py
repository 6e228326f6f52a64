"""A kernel that violates memcheck, or never ends, in an engine: it is mended or halted, alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

import ringflow
from ringflow.device.host.pool import shared_pool
from ringflow.limits import EngineLimits
from tests.engine.kernels import Total, Trap, adder, code
from tests.engine.story import send_all

pytestmark = pytest.mark.anyio

DEADLINE_S = 60.0


def changed(old: str, new: str) -> ringflow.KernelCodeSource:
    """Return the adder's code with a piece replaced."""
    source = code().text
    assert old in source
    return ringflow.KernelCodeSource.from_cuda(source.replace(old, new, 1), "adder")


@asynccontextmanager
async def checked_engine(
    folder: Path, *, step_timeout_s: float = 30.0
) -> AsyncIterator[ringflow.Engine]:
    """An engine whose only device checks every access."""
    device = ringflow.open_device("host:0", memcheck=True)
    limits = EngineLimits(step_timeout_s=step_timeout_s)
    try:
        async with ringflow.open_engine(folder, devices=[device], limits=limits) as engine:
            yield engine
    finally:
        device.close()


async def test_message_that_stores_out_of_bounds_halts_its_kernel_alone(folder: Path) -> None:
    """The reason names region, thread and line; the kernel came back twice before it."""
    wild = changed("__trap();", "cells[4096 + threadIdx.x] = 1.0f;")
    async with checked_engine(folder) as engine:
        wrong = await engine.launch(adder("wrong", code=wild), device="host:0")
        healthy = await engine.launch(adder("healthy"), device="host:0")
        await send_all(wrong, range(1, 11))
        receipt = await wrong.send(Trap())
        with anyio.fail_after(DEADLINE_S), pytest.raises(ringflow.KernelStalledError) as raised:
            await receipt.done()
        told = engine.kernels()[0].reason
        assert "message 11 trapped the kernel 3 times in a row" in told
        for piece in ("store of 4 bytes", "adder.cu:", "thread ("):
            assert piece in told
        assert "0 bytes past the end of 'wrong/cells' (16384 bytes)" in told
        assert "3 times" in str(raised.value)
        await send_all(healthy, [7])
        assert int((await healthy.call(Total(), timeout_s=30)).array("uint64")[0]) == 7


async def test_endless_message_misses_the_deadline_of_a_command(folder: Path) -> None:
    """The operation fails at its deadline, a neighbour answers meanwhile, the engine closes."""
    endless = changed(
        "__trap();",
        "if (self.leader()) self.reply(m, m.data, m.size);\nwhile (step > 0) cells[thread] += 1;",
    )
    async with checked_engine(folder, step_timeout_s=1.0) as engine:
        stuck = await engine.launch(adder("stuck", code=endless), device="host:0")
        healthy = await engine.launch(adder("healthy"), device="host:0")
        with anyio.fail_after(DEADLINE_S):
            await stuck.call(Trap(), timeout_s=DEADLINE_S)  # from its reply on it loops
            with pytest.raises(ringflow.OperationFailedError, match="not done within"):
                await engine.checkpoint("stuck")
            await send_all(healthy, [1, 2, 3])
            assert int((await healthy.call(Total(), timeout_s=30)).array("uint64")[0]) == 6
    assert all(worker.ctas == 0 for worker in shared_pool().statistics)
