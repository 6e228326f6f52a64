"""What an engine does with kernels on any device: told once, run on real GPUs and on doubles."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import numpy as np
import pytest

import ringflow
from tests.engine.kernels import Add, Total, Trap, adder, code, expected_state
from tests.engine.story import Producer, Recorder, cells_of, send_all, state_of

Story = Callable[[ringflow.Engine, str], Awaitable[None]]
HISTORY = ringflow.Region("history", dtype="uint64", shape=(8,))


async def works(engine: ringflow.Engine, device: str) -> None:
    """A kernel answers, is held, and its cells are those of single precision additions."""
    kernel = await engine.launch(adder(), device=device)
    await send_all(kernel, range(20))
    assert (await state_of(kernel))[:3] == expected_state(list(range(20)))
    cells = np.arange(4096, dtype=np.float32)
    for _ in range(20):
        cells += np.float32(0.5)
    assert await cells_of(kernel) == cells.tobytes()


async def moves(engine: ringflow.Engine, here: str, there: str) -> tuple[str, str]:
    """A kernel goes there and back while messages flow; return the paths that its state took."""
    kernel = await engine.launch(adder(), device=here)
    recorder, producer = Recorder(kernel), Producer(kernel)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        await recorder.started.wait()
        tasks.start_soon(producer.run)
        await producer.until(20)
        went = await engine.migrate("adder", to=there, actor="ops", reason="driver update")
        await producer.until(60)
        came = await engine.migrate("adder", to=here)
        await producer.until(80)
        last = await producer.stop()
        await recorder.until(last)
        tasks.cancel_scope.cancel()
    assert [reply.sequence for reply in recorder.replies] == list(range(1, last + 1))
    assert (await state_of(kernel))[:3] == expected_state(producer.values)
    assert (went.source_device, went.target_device) == (here, there)
    assert (came.source_device, came.target_device) == (there, here)
    assert engine.kernels()[0].device == here
    return went.path, came.path


async def reloads(engine: ringflow.Engine, device: str) -> None:
    """New code goes on with the old state, converted; code that traps leaves no trace."""
    kernel = await engine.launch(adder(), device=device)
    await send_all(kernel, range(10))
    before = await state_of(kernel)
    await engine.reload(
        "adder",
        code("adder_wide"),
        regions=(*adder().regions, HISTORY),
        convert="widen",
        probation_messages=0,
    )
    async with kernel.held() as state:
        assert [int(word) for word in state["history"].numpy()] == [1000 + i for i in range(8)]
        assert tuple(int(word) for word in state["state"].numpy()) == before
    assert engine.kernels()[0].version_id == "adder_wide"


async def rolls_back(engine: ringflow.Engine, device: str) -> None:
    """Code that traps on probation is taken back; the old code applies every message."""
    kernel = await engine.launch(adder(), device=device)
    recorder, producer = Recorder(kernel), Producer(kernel)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        await recorder.started.wait()
        tasks.start_soon(producer.run)
        await producer.until(20)
        operation = await engine.start_reload("adder", code("adder_bad"), probation_messages=50)
        with pytest.raises(ringflow.OperationFailedError, match="trap") as raised:
            await operation.result()
        await producer.until(60)
        last = await producer.stop()
        await recorder.until(last)
        tasks.cancel_scope.cancel()
    assert raised.value.state == "rolled_back"
    expected = [expected_state(producer.values[:count])[0] for count in range(1, last + 1)]
    assert [int(reply.array("uint64")[0]) for reply in recorder.replies] == expected
    assert engine.kernels()[0].version_id == "adder_v1"


async def checkpoints(engine: ringflow.Engine, device: str) -> None:
    """A snapshot is a recovery point, and the kernel stays resident."""
    kernel = await engine.launch(adder(), device=device)
    await send_all(kernel, range(30))
    await kernel.call(Total(), timeout_s=60)
    saved = await engine.checkpoint("adder", name="kept")
    await send_all(kernel, range(30, 40))
    assert saved.applied_sequence >= 30
    assert (await state_of(kernel))[:3] == expected_state(list(range(40)))


async def survives_a_trap(engine: ringflow.Engine, device: str) -> None:
    """A message that traps its kernel is tried again, then halts it; a person skips it."""
    kernel = await engine.launch(adder(), device=device)
    await send_all(kernel, range(5))
    poison = await kernel.send(Trap())
    with pytest.raises(ringflow.KernelStalledError):
        await poison.done()
    assert engine.kernels()[0].state == "halted"
    await engine.resume("adder", "skip")
    await kernel.send(Add(100))
    assert (await state_of(kernel))[:3] == expected_state([*range(5), 100])
