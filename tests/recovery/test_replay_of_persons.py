"""What a person decided about a kernel is an input: a replay of decisions follows it."""

from __future__ import annotations

import anyio
import pytest

import ringflow
from ringflow.engine.replay import replay_records
from ringflow.engine.state import EngineState
from ringflow.engine.state_codec import decode_state, encode_state
from ringflow.simulate.files import CrashingFiles
from tests.engine.kernels import Add, Trap, adder, code
from tests.engine.story import send_all
from tests.recovery.crashes import crash, engine_on, events_of

pytestmark = pytest.mark.anyio


async def test_halts_skips_rollbacks_and_forks_follow_and_are_kept_in_the_state() -> None:
    """No difference, over a restart; the folded state survives its own encoding."""
    files, limits = CrashingFiles(), ringflow.EngineLimits(traps_in_a_row=1)
    async with engine_on(files, limits=limits) as engine:
        kernel = await engine.launch(adder(replay="checkpoint", release="at_once"))
        await send_all(kernel, [1, 2])
        await (await kernel.send(Add(3))).done()
        await engine.checkpoint("adder", name="three")
        receipt = await kernel.send(Trap())
        with anyio.fail_after(60), pytest.raises(ringflow.KernelStalledError):
            await receipt.done()
        await events_of(engine, "kernel.halted.v1")
        after = crash(files)
    async with engine_on(after, limits=limits) as engine:
        kernel = engine.kernel("adder")
        await engine.resume("adder", "skip", actor="ops")
        await (await kernel.send(Add(5))).done()
        device = engine.kernels()[0].device
        await engine.migrate("adder", to="host:1" if device == "host:0" else "host:0")
        await engine.reload("adder", code("adder_double"), probation_messages=0)
        await engine.rollback("adder", before_reload=True, undo_messages=True, actor="ops")
        await engine.fork("adder", at_sequence=3)
        await engine.retire_checkpoint("adder", "three", actor="ops")
        await engine.stop("adder")
        names = {
            "kernel.halt_resolved.v1",
            "messages.skipped.v1",
            "kernel.rolled_back.v1",
            "kernel.forked.v1",
            "migration.completed.v1",
        }
        for name in names:
            assert await events_of(engine, name)
        records = [record for record in engine._core.journal.records() if record.stream != "test"]
        report = replay_records(records)
        assert report.difference is None
        assert report.records == len(records)
        state = EngineState()
        for record in records:
            for event in record.events:
                state.apply(event)
        assert state.marks["adder"].skipped
        assert decode_state(encode_state(state)) == state
