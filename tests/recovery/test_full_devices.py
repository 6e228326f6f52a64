"""Kernels whose device has become too small for all of them, when their engine is opened again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import ringflow
from ringflow.device.registry import open_device
from ringflow.engine.replay import replay_records
from tests.engine.kernels import adder, expected_state
from tests.engine.story import send_all, state_of

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(folder: Path, *memory_bytes: int | None) -> AsyncIterator[ringflow.Engine]:
    """Yield an engine on ``host:0``, ``host:1`` and so on, with so much memory each."""
    devices = [
        open_device(f"host:{number}", memory_limit_bytes=limit)
        for number, limit in enumerate(memory_bytes)
    ]
    try:
        async with ringflow.open_engine(folder, devices=devices) as engine:
            yield engine
    finally:
        for device in devices:
            device.close()


async def test_a_kernel_without_room_on_its_device_goes_to_one_that_has_it(folder: Path) -> None:
    """With its state and its messages; only where none has room it waits for the next opening."""
    async with opened(folder, None, None) as engine:
        free_bytes = engine.devices()[1].free_bytes
        for kernel_id in ("first", "second"):
            kernel = await engine.launch(adder(kernel_id), device="host:1")
            await send_all(kernel, [1, 2, 3])
        needed_bytes = (free_bytes - engine.devices()[1].free_bytes) // 2
    too_small = needed_bytes * 3 // 2
    async with opened(folder, 1, too_small) as engine:
        assert [status.device for status in engine.kernels()] == ["host:1", "host:1"]
        with pytest.raises(ringflow.KernelStateError, match="not restarted"):
            await state_of(engine.kernel("second"))
        assert (await state_of(engine.kernel("first")))[:3] == expected_state([1, 2, 3])
    async with opened(folder, None, too_small) as engine:
        assert sorted(status.device for status in engine.kernels()) == ["host:0", "host:1"]
        for kernel_id in ("first", "second"):
            kernel = engine.kernel(kernel_id)
            assert (await state_of(kernel))[:3] == expected_state([1, 2, 3])
    async with opened(folder, None, None) as engine:
        assert sorted(status.device for status in engine.kernels()) == ["host:0", "host:1"]
        assert replay_records(engine._core.journal.records()).difference is None
