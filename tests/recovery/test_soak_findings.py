"""What the soak has found, each as a small test of its own."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import ringflow
from ringflow.engine import restoring
from tests.engine.kernels import Add, Trap, adder
from tests.engine.story import send_all

pytestmark = pytest.mark.anyio


async def test_messages_sent_while_a_trapped_kernel_is_rebuilt(
    engine: ringflow.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They park; the instance that is gone is not touched (it ended the process by SIGSEGV)."""
    begun, go = anyio.Event(), anyio.Event()
    rebuild = restoring._rebuild_on

    async def slowly(*arguments: Any) -> restoring.Rebuilt:
        begun.set()
        await go.wait()
        return await rebuild(*arguments)

    monkeypatch.setattr(restoring, "_rebuild_on", slowly)
    kernel = await engine.launch(adder(), device="host:0")
    await send_all(kernel, range(20))  # the journal knows by now how long a commit takes
    trap = await kernel.send(Trap())
    with anyio.fail_after(60):
        await begun.wait()
        try:
            await send_all(kernel, range(20))
        finally:
            go.set()
        with pytest.raises(ringflow.KernelStalledError, match="3 times"):
            await trap.done()
        await engine.resume("adder", "skip", actor="test")
        await (await kernel.send(Add(1))).done()
    async with kernel.held() as state:
        assert int(state["state"].numpy()[2]) == 41
