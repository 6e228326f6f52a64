"""Checkpoints in this process's memory, for tests and short-lived work.

- What is kept is the file's bytes: a checkpoint that was saved can't be changed from outside, and
  ``load`` verifies as it does from a file.
"""

from __future__ import annotations

from functools import partial

from ringflow.errors import NotFoundError
from ringflow.storage.api import check_name, name_order
from ringflow.storage.checkpoint import Checkpoint
from ringflow.workers import in_thread


class MemoryStorage:
    """``CheckpointStorage`` in memory; it ends with the object."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    async def save(self, checkpoint: Checkpoint, name: str) -> None:
        check_name(name)

        def work() -> None:
            self._files[name] = checkpoint.to_bytes()

        await in_thread(work, what="save")

    async def load(self, name: str) -> Checkpoint:
        return await in_thread(partial(Checkpoint.from_bytes, self._bytes_of(name)), what="decode")

    async def list(self) -> tuple[str, ...]:
        return tuple(sorted(self._files, key=name_order))

    async def delete(self, name: str) -> None:
        self._bytes_of(name)
        del self._files[name]

    async def exists(self, name: str) -> bool:
        return check_name(name) in self._files

    def _bytes_of(self, name: str) -> bytes:
        try:
            return self._files[check_name(name)]
        except KeyError:
            known = ", ".join(sorted(self._files, key=name_order)) or "none"
            raise NotFoundError(f"no checkpoint {name!r}; there are: {known}") from None
