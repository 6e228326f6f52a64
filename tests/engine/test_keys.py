"""Idempotency keys: asking twice does once, also over a restart."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

import ringflow
from tests.engine.kernels import adder, code

pytestmark = pytest.mark.anyio


async def test_the_same_request_under_its_key_is_one_migration(engine: ringflow.Engine) -> None:
    """While it runs both have one operation; afterwards its result, though the kernel is there."""
    await engine.launch(adder(), device="host:0")
    first = engine.start_migration("adder", to="host:1", key="move-1")
    assert engine.start_migration("adder", to="host:1", key="move-1", actor="other") is first
    result = await first.result()
    again = await engine.migrate("adder", to="host:1", key="move-1")
    assert (again.operation_id, again.digests) == (result.operation_id, result.digests)
    assert len(engine.operations()) == 1
    with pytest.raises(ringflow.UsageError):
        await engine.migrate("adder", to="host:1")  # without the key it is a request of its own


async def test_a_key_with_another_body_is_a_conflict(engine: ringflow.Engine) -> None:
    """Another target, kernel or kind under the same key starts nothing."""
    await engine.launch(adder(), device="host:0")
    result = await engine.migrate("adder", to="host:1", key="k")
    with pytest.raises(ringflow.IdempotencyConflictError, match=result.operation_id):
        engine.start_migration("adder", to="host:0", key="k")
    with pytest.raises(ringflow.IdempotencyConflictError):
        await engine.checkpoint("adder", key="k")
    with pytest.raises(ringflow.IdempotencyConflictError):
        await engine.start_reload("adder", code("adder_double"), key="k")
    with pytest.raises(ringflow.UsageError, match="256"):
        await engine.checkpoint("adder", key="x" * 257)
    assert len(engine.operations()) == 1
    assert engine.kernels()[0].device == "host:1"


async def test_keys_outlive_the_engine(folder: Path) -> None:
    """A client that never heard the answer asks the next engine and gets the first one's."""
    devices = ["host:0", "host:1"]
    async with ringflow.open_engine(folder, devices=devices) as engine:
        await engine.launch(adder(), device="host:0")
        moved = await engine.migrate("adder", to="host:1", key="move")
        saved = await engine.checkpoint("adder", name="before", key="save")
        reloaded = await engine.reload(
            "adder", code("adder_double"), probation_messages=0, key="load"
        )
    async with ringflow.open_engine(folder, devices=devices) as engine:
        count = len(engine.operations())
        again = await engine.migrate("adder", to="host:1", key="move")
        assert again == attrs.evolve(moved, step_s={})
        assert await engine.checkpoint("adder", name="before", key="save") == saved
        once = await engine.reload("adder", code("adder_double"), probation_messages=0, key="load")
        assert once == attrs.evolve(reloaded, step_s={})
        assert len(engine.operations()) == count
        with pytest.raises(ringflow.IdempotencyConflictError):
            await engine.start_reload("adder", code(), probation_messages=0, key="load")


async def test_an_operation_that_failed_answers_the_same_again(engine: ringflow.Engine) -> None:
    """The first one's answer is an error, too."""
    await engine.launch(adder(), device="host:0")
    broken = ringflow.KernelCodeSource.from_cuda("not a kernel", entry_point="adder")
    for _ in range(2):
        with pytest.raises(ringflow.OperationFailedError):
            await engine.reload("adder", broken, key="bad")
    assert len(engine.operations()) == 1
