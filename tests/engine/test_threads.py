"""Another thread's event loop: what an engine gives is refused there by a rule; it hung."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread
import numpy as np
import pytest
import sniffio

import ringflow
from ringflow.errors import UsageError
from tests.engine.kernels import Add, Total, adder

pytestmark = pytest.mark.anyio
Call = Callable[[], object]


async def _awaited(call: Call) -> None:
    made = call()
    if isinstance(made, Awaitable):
        await made


def _refused(calls: dict[str, Call], backend: str) -> list[str]:
    """Return which calls another event loop is refused, each with the rule."""
    refused = []
    for name, call in calls.items():
        try:
            anyio.run(partial(_awaited, call), backend=backend)
        except UsageError as error:
            if "belong to the event loop that opened it" in str(error):
                refused.append(name)
    return refused


async def test_another_threads_loop_is_refused_by_every_call(tmp_path: Path) -> None:
    """The calls of engine, handles, receipts, operations and consumers, without any change."""
    async with ringflow.open_engine(tmp_path, devices=["host:0", "host:1"]) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        receipt = await kernel.send(Add(1))
        operation = engine.start_migration("adder", to="host:1")
        await operation.result()
        async with kernel.replies(consumer="reader") as replies:
            reply = await kernel.call(Total(), timeout_s=60)
            mine = await anext(replies)
            calls: dict[str, Call] = {
                "send": lambda: kernel.send(Add(2)),
                "send_many": lambda: kernel.send_many(Add, np.zeros(3, "u8")),
                "call": lambda: kernel.call(Total(), timeout_s=60),
                "replies": lambda: kernel.replies(consumer="other"),
                "held": lambda: kernel.held().__aenter__(),
                "checkpoint": lambda: kernel.checkpoint(),
                "spec": lambda: kernel.spec,
                "launch": lambda: engine.launch(adder("second")),
                "stop": lambda: engine.stop("adder"),
                "migrate": lambda: engine.migrate("adder", to="host:0"),
                "save": lambda: engine.checkpoint("adder"),
                "health": lambda: engine.health(),
                "kernels": lambda: engine.kernels(),
                "subscribe": lambda: engine.subscribe(),
                "durable": lambda: receipt.durable(),
                "done": lambda: receipt.done(),
                "result": lambda: operation.result(),
                "cancel": lambda: operation.cancel(),
                "event": lambda: anext(operation.events()),
                "next": lambda: anext(replies),
                "ack": lambda: mine.ack(),
            }
            backend = sniffio.current_async_library()
            with anyio.fail_after(60):
                refused = await anyio.to_thread.run_sync(
                    _refused, calls, backend, abandon_on_cancel=True
                )
            assert refused == list(calls)
        again = await kernel.call(Total(), timeout_s=60)
        assert again.payload == reply.payload
        assert again.sequence == reply.sequence + 1


async def test_a_worker_thread_calls_by_the_engines_loop(tmp_path: Path) -> None:
    """What the error advises works."""
    async with ringflow.open_engine(tmp_path, devices=["host:0"]) as engine:
        kernel = await engine.launch(adder())

        def work() -> int:
            sent: ringflow.Receipt = anyio.from_thread.run(kernel.send, Add(1))
            anyio.from_thread.run(sent.done)
            return sent.sequence

        assert await anyio.to_thread.run_sync(work) == 1
