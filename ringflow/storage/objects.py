"""Content-addressed bytes in a folder: code, specs, bulk payloads.

- An object's name is the SHA-256 of its bytes, so what is stored under a name never changes.
- ``put`` returns when the bytes are durable; putting the same bytes again is one read.
- ``get`` verifies. All calls block: async code runs them in worker threads.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

from ringflow.errors import CorruptError, NotFoundError, UsageError
from ringflow.files import FileSystem, SystemFiles, ensure_folder, write_atomic
from ringflow.storage.blocks import bytes_of
from ringflow.storage.folders import storage_errors

if TYPE_CHECKING:
    from ringflow.storage.blocks import ArrayOrBytes

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class ObjectStore:
    """Objects in one folder, which the first ``put`` makes; safe to use from several threads."""

    def __init__(self, folder: Path, *, files: FileSystem | None = None) -> None:
        self._folder = folder
        self._files = files if files is not None else SystemFiles()
        self._writing = Lock()

    def put(self, data: ArrayOrBytes) -> str:
        """Store bytes durably and return their SHA-256 (64 hex digits).

        A damaged object of this digest is replaced.
        Raises:
            StorageError: the place refuses, e.g. because the disk is full.
        """
        view = bytes_of(data)
        digest = hashlib.sha256(view).hexdigest()
        path = self._folder / digest
        with self._writing, storage_errors("store object", path):
            if self._files.exists(path) and self._files.read(path) == view:
                self._files.fsync_folder(self._folder)  # a crash may have come before the first
                return digest
            ensure_folder(self._files, self._folder)
            write_atomic(self._files, path, [view])
        return digest

    def get(self, digest: str) -> bytes:
        """Return an object's bytes.

        Raises:
            UsageError: ``digest`` is not 64 lowercase hex digits.
            NotFoundError: there is no such object.
            CorruptError: its bytes have another digest.
        """
        path = self._path_of(digest)
        with storage_errors("read object", path):
            if not self._files.exists(path):
                raise NotFoundError(
                    f"no object {digest} in {str(self._folder)!r}; restore it from a copy"
                )
            data = self._files.read(path)
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise CorruptError(f"object {digest} has digest {found}; restore it from a copy")
        return data

    def exists(self, digest: str) -> bool:
        return self._files.exists(self._path_of(digest))

    def digests(self) -> tuple[str, ...]:
        """Return the digests of all objects, sorted."""
        return tuple(name for name in self._files.names(self._folder) if _DIGEST.fullmatch(name))

    def _path_of(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise UsageError(f"{digest!r} is no SHA-256; pass the 64 hex digits that put() gave")
        return self._folder / digest
