"""Folders whose journal is missing or was cut: no checkpoint is deleted for that."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import ringflow
from ringflow.engine.archiving import archive_folder
from ringflow.errors import NotFoundError
from ringflow.journal.repair import repair
from ringflow.storage import FileStorage
from tests.engine.kernels import adder
from tests.engine.story import send_all, state_of

pytestmark = pytest.mark.anyio


async def work(folder: Path, *, name: str) -> int:
    """Send ten messages and make a named checkpoint; return the state's sum."""
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        if not engine.kernels():
            await engine.launch(adder())
        kernel = engine.kernel("adder")
        await send_all(kernel, range(10))
        state = await state_of(kernel)
        await engine.checkpoint("adder", name=name)
        return state[0]


def listed(folder: Path) -> dict[str, bytes]:
    """Return every file under ``folder`` with its bytes."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_a_folder_without_its_journal_is_refused(folder: Path, tmp_path: Path) -> None:
    """A partial restore or a wrong mount: nothing is made or deleted, and put back it opens."""
    state = await work(folder, name="precious")
    shutil.move(folder / "journal", tmp_path / "away")
    before = listed(folder)
    with pytest.raises(NotFoundError, match=r"no journal in '.*/journal'.*put the journal back"):
        async with ringflow.open_engine(folder, devices=["host:0"]):
            raise AssertionError("it was opened")
    assert listed(folder) == before
    assert not (folder / "journal").exists()
    (folder / "journal").mkdir()  # as an empty mount point is
    with pytest.raises(NotFoundError, match="no journal"):
        async with ringflow.open_engine(folder, devices=["host:0"]):
            raise AssertionError("it was opened")
    assert listed(folder) == before
    (folder / "journal").rmdir()
    shutil.move(tmp_path / "away", folder / "journal")
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        assert (await state_of(engine.kernel("adder")))[0] == state
        assert "adder@precious" in {one.checkpoint for one in engine.recovery_points("adder")}


async def test_objects_alone_are_an_engines_files_too(folder: Path) -> None:
    await work(folder, name="precious")
    shutil.rmtree(folder / "journal")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(NotFoundError, match=r"0 checkpoints and [1-9]\d* objects"):
        async with ringflow.open_engine(folder, devices=["host:0"]):
            raise AssertionError("it was opened")


async def test_checkpoints_of_the_cut_part_are_set_aside(folder: Path) -> None:
    """Only records that a repair cut name them: they go to a folder of the repair's name."""
    await work(folder, name="kept")
    await work(folder, name="cut")
    storage = FileStorage(folder / "checkpoints")
    saved = await storage.load("adder@cut")
    newest = max((folder / "journal").glob("*.jsonl"))
    lines = newest.read_bytes().splitlines(keepends=True)
    (at,) = [at for at, line in enumerate(lines) if b'"adder@cut"' in line and b"request" in line]
    lines[at] = lines[at].replace(b"adder@cut", b"adder@but")
    newest.write_bytes(b"".join(lines))
    plan = repair(folder, actor="ops", reason="a flipped bit")
    assert plan is not None
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        names = {point.checkpoint for point in engine.recovery_points("adder")}
        assert "adder@kept" in names
        assert "adder@cut" not in names
    assert "adder@cut" not in await storage.list()
    aside = FileStorage(folder / "checkpoints" / plan.backup)
    assert await aside.load("adder@cut") == saved
    assert "adder@kept" not in await aside.list()
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        found = await aside.load("adder@cut")
        await engine.kernel("adder").restore(found)


async def test_checkpoints_of_the_archived_part_stay(folder: Path, tmp_path: Path) -> None:
    """The base record stands for the records that named them."""
    await work(folder, name="old")
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        await engine.stop("adder")
    (named,) = [
        record.sequence
        for record in ringflow.read_journal(folder, types=["kernel.recovery_point.v1"])
        if "adder@old" in str(record.events)
    ]
    async with ringflow.open_engine(folder, devices=["host:0"]):
        pass  # what is archived is what a later segment is behind
    plan = await archive_folder(folder, target=tmp_path / "archive", actor="ops", reason="monthly")
    assert plan.last_sequence >= named
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        assert "adder@old" in {one.checkpoint for one in engine.recovery_points("adder")}
    await FileStorage(folder / "checkpoints").load("adder@old")
