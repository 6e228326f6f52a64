"""Restarts of an engine with kernels on the stand-in's GPUs: in order, after a crash, elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringflow.engine import instances
from ringflow.simulate.files import CrashingFiles
from tests.cuda.engines import BOTH, opened_engine, small
from tests.cuda.standin import Standin
from tests.engine.child import run_and_kill
from tests.engine.kernels import Total, adder, expected_state
from tests.engine.story import send_all, state_of
from tests.recovery.crashes import crash, engine_on, events_of

pytestmark = pytest.mark.anyio


async def test_a_kernel_goes_on_with_the_cubin_that_was_kept(
    folder: Path, gpus: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orderly end and a new opening compile nothing."""
    async with opened_engine(folder) as engine:
        kernel = await engine.launch(adder(), device="cuda:1")
        await send_all(kernel, range(20))

    def refuse(*arguments: object) -> None:
        raise AssertionError("it compiles")

    monkeypatch.setattr(instances, "compile_for", refuse)
    async with opened_engine(folder) as engine:
        kernel = engine.kernel("adder")
        await send_all(kernel, range(20, 30))
        assert (await state_of(kernel))[:3] == expected_state(list(range(30)))
        assert engine.kernels()[0].device == "cuda:1"


async def test_a_kernel_of_a_gpu_goes_on_without_one(folder: Path, gpus: Standin) -> None:
    """On the host, with code that is compiled for it, and back on a GPU of the next opening."""
    async with opened_engine(folder) as engine:
        kernel = await engine.launch(adder(), device="cuda:0")
        await send_all(kernel, range(20))
    async with opened_engine(folder, "host:0") as engine:
        kernel = engine.kernel("adder")
        await send_all(kernel, range(20, 30))
        assert (await state_of(kernel))[:3] == expected_state(list(range(30)))
    async with opened_engine(folder, "cuda:1") as engine:
        kernel = engine.kernel("adder")
        assert (await state_of(kernel))[:3] == expected_state(list(range(30)))
        assert engine.kernels()[0].device == "cuda:1"
        (*_, point) = await events_of(engine, "kernel.recovery_point.v1")
        assert point.code_target == "host"


async def test_a_crash_loses_nothing_that_was_acknowledged(gpus: Standin) -> None:
    """Of a kernel that moves between two GPUs as the power goes off."""
    files = CrashingFiles()
    devices = [small(name) for name in BOTH]
    async with engine_on(files, devices=devices) as engine:
        kernel = await engine.launch(adder(), device="cuda:0")
        await send_all(kernel, range(40))
        operation = engine.start_migration("adder", to="cuda:1")
        async for event in operation.events():
            if event.wire_name == "migration.checkpointed.v1":
                break
        after = crash(files)
    async with engine_on(after, devices=devices) as engine:
        kernel = engine.kernel("adder")
        assert (await state_of(kernel))[:3] == expected_state(list(range(40)))
        await engine.migrate("adder", to="cuda:1")
        assert (await state_of(kernel))[:3] == expected_state(list(range(40)))
    for device in devices:
        device.close()


async def test_a_killed_process_loses_nothing_that_was_acknowledged(
    folder: Path, gpus: Standin
) -> None:
    """SIGKILL while it migrates back and forth; each message counts once."""
    acknowledged = await run_and_kill(folder, BOTH)
    async with opened_engine(folder) as engine:
        kernel = engine.kernel("adder")
        await kernel.call(Total(), timeout_s=60)
        count = (await state_of(kernel))[2]
        assert count >= acknowledged
        values = [number * 7 for number in range(1, count + 1)]
        assert (await state_of(kernel))[:3] == expected_state(values)
