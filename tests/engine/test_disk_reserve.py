"""A nearly full disk: what has begun can end, nothing new begins, space mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

import ringflow
from ringflow.files import SystemFiles
from ringflow.journal.api import JournalLimits
from tests.engine.kernels import Add, Spin, adder, code

pytestmark = pytest.mark.anyio


class Disk(SystemFiles):
    """The system's files on a disk that says how much is free."""

    free = 10**9

    def free_bytes(self, path: Path) -> int:
        return self.free


async def test_new_work_is_refused_and_running_work_ends(folder: Path) -> None:
    """Messages, launches and operations are refused before the disk is full; no lease is left."""
    disk = Disk()
    async with ringflow.open_engine(
        folder,
        devices=["host:0", "host:1"],
        files=disk,
        journal_limits=JournalLimits(reserve_bytes=10**6),
    ) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await kernel.send(Spin(100))
        operation = engine.start_migration("adder", to="host:1")
        disk.free = 10**6 - 1
        engine._core.journal._free_bytes = disk.free  # type: ignore[attr-defined]
        await operation.result()
        with pytest.raises(ringflow.DiskReserveError):
            await kernel.send(Add(1))
        with pytest.raises(ringflow.DiskReserveError):
            engine.start_migration("adder", to="host:0")
        with pytest.raises(ringflow.DiskReserveError):
            await engine.start_reload("adder", code("adder_double"), at_sequence=3)
        with pytest.raises(ringflow.DiskReserveError):
            await engine.checkpoint("adder")
        with pytest.raises(ringflow.DiskReserveError):
            await engine.launch(adder("other"))
        assert len(engine.operations()) == 1
        disk.free = 10**9
        await engine.migrate("adder", to="host:0")
        for _ in range(3):  # the refused reload holds no message back
            await (await kernel.send(Add(1))).done()
