"""State in the code's own variables: it is part of every checkpoint, migration and reload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import ringflow
from ringflow.engine.rerun import rerun_kernel
from tests.engine.conftest import DEVICES
from tests.engine.kernels import FOLDER, Add, Total
from tests.engine.story import send_all

pytestmark = pytest.mark.anyio

NAMES = {"shown", "global:total", "global:tally_parts::weights", "global:called::calls"}
BYTES = 8 + 8 + 3 * 4 + 4


def tally(name: str = "tally_v1", *, kernel_id: str = "tally") -> ringflow.KernelSpec:
    """Return the spec of a kernel that adds up in its variables and shows the sum in ``shown``."""
    return ringflow.KernelSpec(
        kernel_id=kernel_id,
        kernel_type="tally",
        code=code(name),
        messages=(Add, Total),
        regions=(ringflow.Region("shown", dtype="uint64", shape=(1,)),),
        block=(32, 1, 1),
        grid=(2, 1, 1),
    )


def code(name: str) -> ringflow.KernelCodeSource:
    source = (FOLDER / f"{name}.cu").read_text(encoding="utf-8")
    return ringflow.KernelCodeSource.from_cuda(source, "tally", version_id=name)


async def total_of(kernel: ringflow.KernelHandle) -> int:
    return int((await kernel.call(Total(), timeout_s=60)).array("uint64")[0])


async def variables_of(kernel: ringflow.KernelHandle) -> tuple[int, list[float], int]:
    """Return the total, the weights and the count of calls."""
    async with kernel.held() as state:
        (total,), (calls,) = (state[f"global:{one}"].numpy() for one in ("total", "called::calls"))
        weights = state["global:tally_parts::weights"].numpy().view(np.float32)
        return int(total), weights.tolist(), int(calls)


AFTER_FOUR = (110, [0.5, 1.0, 0.5], 4)


async def test_a_hold_shows_the_variables(engine: ringflow.Engine) -> None:
    """Those that the code writes, with their types; no table, no text."""
    kernel = await engine.launch(tally(), device="host:0")
    await send_all(kernel, [1, 2, 3, 4])
    assert await total_of(kernel) == 110
    async with kernel.held() as state:
        assert set(state) == NAMES
        assert state["global:total"].numpy().dtype == np.uint64
    assert await variables_of(kernel) == AFTER_FOUR


async def test_a_migration_carries_the_variables(engine: ringflow.Engine) -> None:
    """Digested on both sides; what the target adds comes on top."""
    kernel = await engine.launch(tally(), device="host:0")
    other = await engine.launch(tally(kernel_id="other"), device="host:1")
    await send_all(kernel, [1, 2, 3])
    result = await engine.migrate("tally", to="host:1")
    assert set(result.digests) == NAMES
    assert result.state_bytes == BYTES
    await send_all(kernel, [4])
    assert await total_of(kernel) == 110
    assert await variables_of(kernel) == AFTER_FOUR
    assert await total_of(other) == 100


async def test_variables_survive_a_restart(folder: Path) -> None:
    """The last checkpoint and the messages after it hold them."""
    async with ringflow.open_engine(folder, devices=DEVICES) as engine:
        kernel = await engine.launch(tally(), device="host:0")
        await send_all(kernel, [1, 2])
        info = await engine.checkpoint("tally", name="middle")
        assert set(info.digests) == NAMES
        await send_all(kernel, [3, 4])
    async with ringflow.open_engine(folder, devices=DEVICES) as engine:
        kernel = engine.kernel("tally")
        assert await total_of(kernel) == 110
        assert await variables_of(kernel) == AFTER_FOUR


async def test_a_restored_checkpoint_takes_the_variables_back(engine: ringflow.Engine) -> None:
    """As it was when it was taken, on the user's own request."""
    kernel = await engine.launch(tally(), device="host:0")
    await send_all(kernel, [1, 2])
    assert await total_of(kernel) == 103
    taken = await kernel.checkpoint()
    await send_all(kernel, [30])
    assert await total_of(kernel) == 133
    await kernel.restore(taken)
    assert await total_of(kernel) == 103


async def test_a_checkpoint_of_other_variables_is_refused(engine: ringflow.Engine) -> None:
    """Nothing is written, whichever side has the variable more."""
    old = await engine.launch(tally(), device="host:0")
    new = await engine.launch(tally("tally_v2", kernel_id="new"), device="host:0")
    with pytest.raises(ringflow.RegionMismatchError, match="global:added"):
        await new.restore(await old.checkpoint())
    with pytest.raises(ringflow.RegionMismatchError, match="global:added"):
        await old.restore(await new.checkpoint())
    assert await total_of(new) == 7


async def test_a_reload_keeps_variables_and_takes_new_constants(engine: ringflow.Engine) -> None:
    """Same name and size: the value goes on. A new variable has its initial value."""
    kernel = await engine.launch(tally(), device="host:0")
    await send_all(kernel, [1, 2])
    result = await engine.reload("tally", code("tally_v2"), probation_messages=0, key="k")
    assert result.state_bytes == BYTES + 4
    again = await engine.reload("tally", code("tally_v2"), probation_messages=0, key="k")
    assert again == attrs.evolve(result, step_s={})
    await send_all(kernel, [5])
    assert await total_of(kernel) == 103 + 2 * 5
    async with kernel.held() as state:
        assert state["shown"].numpy().tolist() == [113 + 41]
        assert state["global:added"].numpy().tolist() == [41]


async def test_a_reload_that_would_lose_a_variable_wants_a_convert_kernel(
    engine: ringflow.Engine,
) -> None:
    """Without one it is rolled back; with one the old values are handed to it."""
    kernel = await engine.launch(tally(), device="host:0")
    await send_all(kernel, [1, 2, 3, 4])
    with pytest.raises(ringflow.OperationFailedError, match="tally_parts::weights change"):
        await engine.reload("tally", code("tally_v3"))
    assert await total_of(kernel) == 110
    await engine.reload("tally", code("tally_v3"), convert="widen", probation_messages=0)
    async with kernel.held() as state:
        weights = state["global:tally_parts::weights"].numpy()
        assert weights.view(np.float32).tolist() == [5.0, 10.0, 5.0, 0.0, 0.0]
        assert state["global:total"].numpy().tolist() == [110]


async def test_a_reload_rolled_back_leaves_the_variables_as_they_were(
    engine: ringflow.Engine,
) -> None:
    """The old code goes on with its own; messages of the failed try are applied once."""
    kernel = await engine.launch(tally(), device="host:0")
    await send_all(kernel, [1, 2])
    operation = await engine.start_reload("tally", code("tally_v2"), probation_messages=1000)
    await send_all(kernel, [3])
    assert await operation.cancel()
    await send_all(kernel, [4])
    assert await total_of(kernel) == 110


async def test_variables_that_a_convert_kernel_spoils_are_rebuilt(
    engine: ringflow.Engine,
) -> None:
    """It wrote to the old ones and trapped: they come from the recovery point and the messages."""
    kernel = await engine.launch(tally(), device="host:0")
    await send_all(kernel, [1, 2, 3, 4])
    source = code("tally_v3").text.replace(
        "*new_shown = *shown;", "const_cast<float*>(weights)[0] = 99.0f; __trap();"
    )
    spoiling = ringflow.KernelCodeSource.from_cuda(source, "tally")
    with pytest.raises(ringflow.OperationFailedError, match="trap"):
        await engine.reload("tally", spoiling, convert="widen")
    assert await total_of(kernel) == 110
    assert await variables_of(kernel) == AFTER_FOUR


async def test_state_that_cannot_be_carried_is_refused_with_its_reason(
    folder: Path,
) -> None:
    """A variable that holds an address: no migration, checkpoint or reload; a restart replays."""
    async with ringflow.open_engine(folder, devices=DEVICES) as engine:
        kernel = await engine.launch(tally("swapping"), device="host:0")
        await send_all(kernel, [1, 2, 3])
        assert await total_of(kernel) == 4002
        wanted = "'current' holds the address of here, there"
        with pytest.raises(ringflow.UnlistedStateError, match=wanted):
            engine.start_migration("tally", to="host:1")
        with pytest.raises(ringflow.UnlistedStateError, match=wanted):
            await engine.checkpoint("tally")
        with pytest.raises(ringflow.UnlistedStateError, match=wanted):
            await kernel.checkpoint()
        with pytest.raises(ringflow.UnlistedStateError, match=wanted):
            await engine.start_reload("tally", code("tally_v1"))
        await send_all(kernel, [4])
    async with ringflow.open_engine(folder, devices=DEVICES) as engine:
        kernel = engine.kernel("tally")
        assert await total_of(kernel) == 4006
        await send_all(kernel, [5])
        assert await total_of(kernel) == 9006
        await engine.stop("tally")


async def test_code_with_unlisted_state_is_no_reload(engine: ringflow.Engine) -> None:
    """Found before the old code is touched."""
    kernel = await engine.launch(tally(), device="host:0")
    await send_all(kernel, [1])
    with pytest.raises(ringflow.OperationFailedError, match="'current' holds the address"):
        await engine.reload("tally", code("swapping"))
    assert await total_of(kernel) == 101


@pytest.mark.parametrize(
    "changes",
    [{"replay": "checkpoint"}, {"checkpoint_every_messages": 5}, {"checkpoint_every_s": 1.0}],
)
async def test_a_spec_that_needs_checkpoints_is_not_launched_without(
    engine: ringflow.Engine, changes: dict[str, Any]
) -> None:
    """Its outputs would wait for ever, or its periodic checkpoints never come."""
    spec = attrs.evolve(tally("swapping"), **changes)
    with pytest.raises(ringflow.UnlistedStateError, match="'current' holds the address"):
        await engine.launch(spec, device="host:0")
    assert engine.kernels() == ()
    await engine.launch(attrs.evolve(tally(), **changes), device="host:0")


async def test_a_fork_has_the_variables_of_its_sequence(engine: ringflow.Engine) -> None:
    """With the same code, and with code that has one more."""
    kernel = await engine.launch(tally(), device="host:0")
    await send_all(kernel, [1, 2, 3, 4, 50])
    assert await total_of(kernel) == 160
    fork = await engine.fork("tally", at_sequence=4)
    assert await variables_of(fork) == AFTER_FOUR
    other = await engine.fork("tally", at_sequence=2, code=code("tally_v2"), kernel_id="other")
    await send_all(other, [5])
    assert await total_of(other) == 103 + 2 * 5
    with pytest.raises(ringflow.SpecError, match="tally_parts::weights change"):
        await engine.fork("tally", code=code("tally_v3"), kernel_id="wide")


async def test_a_rollback_puts_the_variables_back(engine: ringflow.Engine) -> None:
    """State and code of the checkpoint, the variables among them."""
    kernel = await engine.launch(tally(), device="host:0")
    await send_all(kernel, [1, 2, 3, 4])
    assert await total_of(kernel) == 110
    await engine.checkpoint("tally", name="good")
    await send_all(kernel, [50])
    await engine.rollback("tally", to="tally@good", undo_messages=True)
    assert await variables_of(kernel) == AFTER_FOUR


async def test_variables_are_compared_when_a_kernel_is_run_again(folder: Path) -> None:
    """From one checkpoint to the next, by the journal's messages."""
    async with ringflow.open_engine(folder, devices=DEVICES) as engine:
        kernel = await engine.launch(tally(), device="host:0")
        await send_all(kernel, [1, 2])
        await engine.checkpoint("tally", name="middle")
        await send_all(kernel, [3, 4])
    report = await rerun_kernel(folder, "tally")
    assert report.equal
    assert [span.skipped for span in report.spans] == ["", ""]
