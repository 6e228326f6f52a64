"""The contract of ``CheckpointStorage``: every implementation passes it, on both backends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import numpy as np
import pytest

from ringflow.errors import NotFoundError, UsageError
from ringflow.files import SystemFiles
from ringflow.storage import (
    Checkpoint,
    CheckpointBuilder,
    CheckpointStorage,
    FileStorage,
    MemoryStorage,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["file", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStorage:
    make: dict[str, Callable[[], CheckpointStorage]] = {
        "file": lambda: FileStorage(tmp_path / "checkpoints"),
        "memory": MemoryStorage,
    }
    return make[request.param]()


def checkpoint_at(step: int) -> Checkpoint:
    height = np.full((300, 300), step, np.float32)
    builder = CheckpointBuilder("wave", "wave_2d").step(step)
    return builder.device_memory("height", height, dtype="float32", shape=height.shape).build()


async def test_load_gives_what_was_saved(storage: CheckpointStorage) -> None:
    """Metadata and every byte of every region come back."""
    await storage.save(checkpoint_at(3), "before-upgrade")
    assert await storage.load("before-upgrade") == checkpoint_at(3)


async def test_save_replaces_the_checkpoint_of_that_name(storage: CheckpointStorage) -> None:
    """The name stands for the newest save."""
    await storage.save(checkpoint_at(1), "latest")
    await storage.save(checkpoint_at(2), "latest")
    assert (await storage.load("latest")).metadata.current_step == 2
    assert await storage.list() == ("latest",)


async def test_saved_checkpoint_does_not_follow_its_array(storage: CheckpointStorage) -> None:
    """What was saved stays, though the region goes on changing."""
    height = np.zeros(100, np.float32)
    await storage.save(CheckpointBuilder("k", "t").device_memory("h", height).build(), "zero")
    height[:] = 1
    assert not any((await storage.load("zero")).regions[0].data)


async def test_list_sorts_steps_as_numbers(storage: CheckpointStorage) -> None:
    """Step 1000 is newer than step 900, whatever their text says."""
    assert await storage.list() == ()
    for name in ("wave_step_1000", "wave_step_900", "wave_step_90", "other", "wave", "900"):
        await storage.save(checkpoint_at(0), name)
    assert await storage.list() == (
        "900",
        "other",
        "wave",
        "wave_step_90",
        "wave_step_900",
        "wave_step_1000",
    )


async def test_delete_removes_one(storage: CheckpointStorage) -> None:
    """A deleted checkpoint is gone, its neighbour is not, and deleting again is an error."""
    await storage.save(checkpoint_at(1), "a")
    await storage.save(checkpoint_at(2), "b")
    await storage.delete("a")
    assert await storage.list() == ("b",)
    assert not await storage.exists("a")
    assert await storage.exists("b")
    with pytest.raises(NotFoundError, match="'a'"):
        await storage.delete("a")


async def test_missing_checkpoint_is_not_found(storage: CheckpointStorage) -> None:
    """A wrong name is answered by the name, not by a foreign error."""
    assert not await storage.exists("nothing")
    with pytest.raises(NotFoundError, match="'nothing'"):
        await storage.load("nothing")


@pytest.mark.parametrize(
    "name",
    [
        *("", "..", "../escape", "a/b", "a\\b", "/etc/passwd", ".hidden", "-f"),
        *("a\n", "a\0", "ä", "x" * 201, "a.rkcp"),
    ],
)
async def test_names_that_leave_the_folder_are_refused(
    storage: CheckpointStorage, tmp_path: Path, name: str
) -> None:
    """No method takes a name that is no plain file name, and nothing is written."""
    for call in (
        storage.save(checkpoint_at(0), name),
        storage.load(name),
        storage.delete(name),
        storage.exists(name),
    ):
        with pytest.raises(UsageError):
            await call
    assert await storage.list() == ()
    assert SystemFiles().names(tmp_path) == []


async def test_saves_at_once_all_arrive(storage: CheckpointStorage) -> None:
    """Many savers, two of them under one name, leave whole checkpoints."""
    async with anyio.create_task_group() as group:
        for step in range(8):
            group.start_soon(storage.save, checkpoint_at(step), f"step_{step // 2}")
    names = await storage.list()
    assert names == ("step_0", "step_1", "step_2", "step_3")
    for index, name in enumerate(names):
        loaded = await storage.load(name)
        assert loaded.metadata.current_step in (2 * index, 2 * index + 1)


async def test_cancelled_save_leaves_a_whole_checkpoint_or_none(
    storage: CheckpointStorage,
) -> None:
    """Cancellation can't split a save."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await storage.save(checkpoint_at(1), "step")
    for name in await storage.list():
        assert await storage.load(name) == checkpoint_at(1)
