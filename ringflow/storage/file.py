"""Checkpoints as ``.rkcp`` files in one folder.

- A save is atomic and durable: a crash leaves the old file or the whole new one (``write_atomic``),
  and one save is one call in a worker thread, which cancellation can't split.
- One object at a time writes a folder: an engine's lock on its folder sees to that.
"""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock

from ringflow.errors import CorruptError, NotFoundError
from ringflow.files import FileSystem, SystemFiles, ensure_folder, write_atomic
from ringflow.storage.api import CHECKPOINT_SUFFIX, check_name, is_name, name_order
from ringflow.storage.checkpoint import Checkpoint
from ringflow.storage.folders import storage_errors
from ringflow.storage.format_v1 import MAX_CHECKPOINT_SIZE
from ringflow.workers import in_thread


def _is_checkpoint(file_name: str) -> bool:
    return file_name.endswith(CHECKPOINT_SUFFIX) and is_name(file_name[: -len(CHECKPOINT_SUFFIX)])


def checkpoint_names(files: FileSystem, folder: Path) -> tuple[str, ...]:
    """Return the names of the checkpoints in a folder, sorted with their numbers as numbers."""
    stems = [
        name.removesuffix(CHECKPOINT_SUFFIX) for name in files.names(folder) if _is_checkpoint(name)
    ]
    return tuple(sorted(stems, key=name_order))


def _on_asyncio() -> bool:
    import asyncio  # here, so that importing ringflow does not pay for it

    try:
        return asyncio.current_task() is not None
    except RuntimeError:  # no loop runs in this thread: trio
        return False


async def read_whole(files: FileSystem, path: Path) -> bytes:
    """Return a file's bytes: by aiofiles under asyncio, in anyio's worker thread under trio.

    aiofiles needs asyncio's loop. A ``FileSystem`` other than the system's is always asked itself.
    Raises:
        NotFoundError: there is no such file.
    """
    if type(files) is not SystemFiles or not _on_asyncio():
        return await in_thread(lambda: files.read(path), what="read")
    import aiofiles  # type: ignore[import-untyped]  # it ships no types, and one call is used

    try:
        async with aiofiles.open(path, "rb") as file:
            return bytes(await file.read())
    except FileNotFoundError:
        raise NotFoundError(f"no file {str(path)!r}; check the path") from None


class FileStorage:
    """``CheckpointStorage`` in a folder, which the first save makes.

    Args:
        path: the folder; other files in it are left alone.
        files: the file system, the system's own unless a test brings another.
    """

    def __init__(self, path: str | os.PathLike[str], *, files: FileSystem | None = None) -> None:
        self._folder = Path(path)
        self._files = files if files is not None else SystemFiles()
        self._writing = Lock()

    @property
    def path(self) -> Path:
        return self._folder

    def path_of(self, name: str) -> Path:
        """Return where a checkpoint of this name lies; raises ``UsageError`` for a bad name."""
        return self._folder / (check_name(name) + CHECKPOINT_SUFFIX)

    async def save(self, checkpoint: Checkpoint, name: str) -> None:
        path = self.path_of(name)

        def work() -> None:
            pieces = checkpoint.pieces()
            with self._writing, storage_errors("save checkpoint", path):
                ensure_folder(self._files, self._folder)
                write_atomic(self._files, path, pieces)

        await in_thread(work, what="save")

    async def load(self, name: str) -> Checkpoint:
        path = self.path_of(name)
        with storage_errors("load checkpoint", path):
            await in_thread(lambda: self._check_size(path, name), what="look")
            data = await read_whole(self._files, path)
        return await in_thread(lambda: Checkpoint.from_bytes(data), what="decode")

    async def list(self) -> tuple[str, ...]:
        with storage_errors("list checkpoints in", self._folder):
            return await in_thread(lambda: checkpoint_names(self._files, self._folder), what="list")

    async def delete(self, name: str) -> None:
        path = self.path_of(name)

        def work() -> None:
            with self._writing, storage_errors("delete checkpoint", path):
                self._check_there(path, name)
                self._files.delete(path)
                self._files.fsync_folder(self._folder)

        await in_thread(work, what="delete")

    async def exists(self, name: str) -> bool:
        path = self.path_of(name)
        with storage_errors("look for checkpoint", path):
            return await in_thread(lambda: self._files.exists(path), what="look")

    def _check_there(self, path: Path, name: str) -> None:
        if not self._files.exists(path):
            raise NotFoundError(
                f"no checkpoint {name!r} in {str(self._folder)!r}; list() gives those that are"
            )

    def _check_size(self, path: Path, name: str) -> None:
        """Refuse before it is read what could not be a checkpoint by its size."""
        self._check_there(path, name)
        size_bytes = self._files.size_bytes(path)
        if size_bytes > MAX_CHECKPOINT_SIZE:
            raise CorruptError(
                f"checkpoint {name!r} has {size_bytes} bytes, over the limit of "
                f"{MAX_CHECKPOINT_SIZE}; restore the file from a copy"
            )
