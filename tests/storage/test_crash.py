"""Saves, deletes and puts that the power cuts off, or the disk refuses, at every step."""

from __future__ import annotations

import errno
from collections.abc import Awaitable
from pathlib import Path

import pytest

from ringflow.errors import CorruptError, NotFoundError, StorageError
from ringflow.files import SystemFiles, ensure_folder
from ringflow.simulate.files import CrashError, CrashingFiles, Loss
from ringflow.storage import Checkpoint, CheckpointBuilder, FileStorage, ObjectStore

FOLDER = Path("/state/checkpoints")
OLD = CheckpointBuilder("wave", "t").step(1).device_memory("h", bytes(3000)).build()
NEW = CheckpointBuilder("wave", "t").step(2).device_memory("h", b"\1" * 3000).build()
STEPS_OF_SAVE = ["create", *["write"] * 5, "datasync", "rename", "fsync_folder"]


async def with_old(files: CrashingFiles) -> FileStorage:
    storage = FileStorage(FOLDER, files=files)
    await storage.save(OLD, "step")
    files.steps.clear()
    return storage


async def cut_off(call: Awaitable[None]) -> bool:
    """Return whether the power went before the call returned."""
    try:
        await call
    except StorageError as error:
        return isinstance(error.__cause__, CrashError)
    return False


async def load_after(files: CrashingFiles, loss: Loss) -> Checkpoint:
    return await FileStorage(FOLDER, files=files.after_crash(loss)).load("step")


@pytest.mark.anyio
async def test_save_takes_the_steps_that_make_it_durable() -> None:
    """The bytes are synced before the rename, the folder after it."""
    files = CrashingFiles()
    storage = await with_old(files)
    await storage.save(NEW, "step")
    assert files.steps == STEPS_OF_SAVE


@pytest.mark.anyio
@pytest.mark.parametrize("loss", Loss)
async def test_crash_at_any_step_of_a_save_leaves_the_old_or_the_new(loss: Loss) -> None:
    """No crash leaves a part; a save that returned is there afterwards."""
    for index in range(len(STEPS_OF_SAVE) + 1):
        files = CrashingFiles()
        storage = await with_old(files)
        files.crash_before_step(index)
        crashed = await cut_off(storage.save(NEW, "step"))
        assert crashed == (index < len(STEPS_OF_SAVE))
        loaded = await load_after(files, loss)
        assert loaded == NEW if not crashed else loaded in (OLD, NEW)
        survived = files.after_crash(loss)
        again = FileStorage(FOLDER, files=survived)
        assert await again.list() == ("step",)
        await again.save(NEW, "step")
        assert survived.names(FOLDER) == ["step.rkcp"]


@pytest.mark.anyio
async def test_disk_that_only_pretends_to_sync_is_found_out() -> None:
    """The double can tell: without datasync the file is damaged, and load says so."""
    files = CrashingFiles()
    storage = await with_old(files)
    files.lies = True
    await storage.save(NEW, "step")
    with pytest.raises(CorruptError):
        await load_after(files, Loss.NAMES_ONLY)


@pytest.mark.anyio
@pytest.mark.parametrize("loss", Loss)
async def test_deleted_checkpoint_stays_deleted(loss: Loss) -> None:
    """After delete returned, no crash brings the checkpoint back."""
    files = CrashingFiles()
    storage = await with_old(files)
    await storage.delete("step")
    with pytest.raises(NotFoundError):
        await load_after(files, loss)


@pytest.mark.anyio
@pytest.mark.parametrize("call", ["create", "write", "datasync", "rename", "fsync_folder"])
async def test_refused_step_leaves_a_whole_checkpoint_and_the_next_save_works(call: str) -> None:
    """A full disk or a failed sync is a StorageError, the old file stays, and it can be mended."""
    files = CrashingFiles()
    storage = await with_old(files)
    files.fail(call, at=1, error=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(StorageError, match="No space left"):
        await storage.save(NEW, "step")
    assert await load_after(files, Loss.ALL) == OLD
    await storage.save(NEW, "step")
    assert await load_after(files, Loss.ALL) == NEW


@pytest.mark.parametrize("loss", Loss)
def test_crash_at_any_step_of_a_put_leaves_the_object_or_none(loss: Loss) -> None:
    """An object is whole or absent; one whose put returned is there."""
    index, crashed = -1, True
    while crashed:
        index += 1
        files = CrashingFiles()
        files.crash_before_step(index)
        try:
            ObjectStore(FOLDER, files=files).put(b"x" * 2000)
            crashed = False
        except StorageError:
            crashed = True
        after = ObjectStore(FOLDER, files=files.after_crash(loss))
        for digest in after.digests():
            assert after.get(digest) == b"x" * 2000
        assert crashed or after.digests()
        assert after.put(b"x" * 2000) in after.digests()
    assert index > 5


def test_put_of_an_object_whose_name_was_not_synced_syncs_it() -> None:
    """Finding the object is not enough: its name may not have reached the disk yet."""
    files = CrashingFiles()
    store = ObjectStore(FOLDER, files=files)
    store.put(b"first")
    files.fail("fsync_folder", at=1, error=OSError(errno.EIO, "Input/output error"))
    with pytest.raises(StorageError):
        store.put(b"second")
    digest = store.put(b"second")
    assert ObjectStore(FOLDER, files=files.after_crash()).get(digest) == b"second"


class RecordingFiles(SystemFiles):
    """The system's files, with a note of each folder that is made or synced."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Path]] = []

    def make_folder(self, path: Path) -> None:
        self.calls.append(("make", path))
        super().make_folder(path)

    def fsync_folder(self, path: Path) -> None:
        self.calls.append(("sync", path))
        super().fsync_folder(path)


def test_new_folders_are_synced_into_their_parents(tmp_path: Path) -> None:
    """A file in a folder that a crash loses would be lost with it."""
    files = RecordingFiles()
    ensure_folder(files, tmp_path / "a" / "b")
    assert files.calls == [
        ("make", tmp_path / "a" / "b"),
        ("sync", tmp_path),
        ("sync", tmp_path / "a"),
    ]
    files.calls.clear()
    ensure_folder(files, tmp_path / "a" / "b")
    assert files.calls == []
