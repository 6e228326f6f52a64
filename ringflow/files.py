"""The file-system seam: every durable byte of ringflow passes through ``FileSystem``.

- Calls are synchronous and may block; async code runs them in worker threads.
- Each primitive is one crash point; ``write_atomic`` is composed from them.
- Nothing is durable before ``fsync``/``datasync`` of the file and ``fsync_folder`` of its folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from ringflow.errors import FolderInUseError, NotFoundError, StorageError, UsageError

Buffer = bytes | bytearray | memoryview


class OpenFile(Protocol):
    """A file that is open for writing, one piece after the other from its end on."""

    def write(self, data: Buffer) -> None:
        """Write all of ``data`` behind what was written; raises ``OSError`` as the system does."""

    def reserve(self, size_bytes: int) -> None:
        """Write zeros behind what was written; ``write`` then replaces them.

        To sync what replaces bytes is cheaper than to sync a file that grows.
        """

    def trim(self) -> None:
        """Cut what is reserved and was not written; durable with the next sync."""

    def datasync(self) -> None:
        """Make all that was written durable, with the length (fdatasync)."""

    def close(self) -> None: ...


class FolderLock(Protocol):
    def check(self) -> None:
        """Raise ``OSError`` if the lock file is not the one that was locked any more.

        Somebody moved or deleted it, so another process may have locked another one.
        """

    def release(self) -> None: ...


class FileSystem(Protocol):
    """The primitives on files that ringflow needs; ``simulate.files`` has one that crashes."""

    def make_folder(self, path: Path) -> None: ...
    def create(self, path: Path) -> OpenFile:
        """Open a file that must not exist yet; raises ``FileExistsError``."""

    def append(self, path: Path) -> OpenFile:
        """Open an existing file at its end."""

    def read(self, path: Path, *, size_bytes: int = -1) -> bytes:
        """Return a file's bytes, at most the first ``size_bytes``; raises ``NotFoundError``."""

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder, sorted; an absent folder has none."""

    def exists(self, path: Path) -> bool: ...
    def size_bytes(self, path: Path) -> int: ...
    def rename(self, source: Path, target: Path) -> None:
        """Replace ``target`` by ``source`` in one step."""

    def truncate(self, path: Path, size_bytes: int) -> None:
        """Cut a file and make its new length durable."""

    def rewrite(self, path: Path, offset_bytes: int, data: Buffer) -> None:
        """Write again what a file holds from ``offset_bytes`` on, and make it durable.

        What was read may be in the system's cache only: a writer was killed before its sync, or
        the sync failed, after which the system counts the pages as clean and syncs them no more.
        """

    def delete(self, path: Path) -> None: ...
    def fsync_folder(self, path: Path) -> None: ...
    def free_bytes(self, path: Path) -> int: ...
    def lock(self, path: Path) -> FolderLock:
        """Take the lock file ``path``.

        Raises:
            FolderInUseError: another process has it.
            StorageError: it can't be made, or opened for writing.
            UsageError: the folder is on a network file system.
        """


TEMPORARY_SUFFIX: Final = ".tmp"


def write_atomic(files: FileSystem, path: Path, pieces: Iterable[Buffer]) -> None:
    """Write ``path`` so that a crash leaves the old file or the whole new one, never a part."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    if files.exists(temporary):
        files.delete(temporary)
    file = files.create(temporary)
    try:
        for piece in pieces:
            file.write(piece)
        file.datasync()
    finally:
        file.close()
    files.rename(temporary, path)
    files.fsync_folder(path.parent)


def ensure_folder(files: FileSystem, folder: Path) -> None:
    """Make a folder and those above it, so that a crash can't lose what is put into it later."""
    missing = []
    for path in (folder, *folder.parents):
        if files.exists(path):
            break
        missing.append(path)
    if not missing:
        return
    files.make_folder(folder)
    for path in reversed(missing):
        files.fsync_folder(path.parent)


class _SystemFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(self._descriptor, view) :]

    def reserve(self, size_bytes: int) -> None:
        at, end = self._position(), self._position() + size_bytes
        zeros = bytes(size_bytes)
        while at < end:
            at += os.pwrite(self._descriptor, zeros[: end - at], at)

    def trim(self) -> None:
        os.ftruncate(self._descriptor, self._position())

    def _position(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def datasync(self) -> None:
        os.fdatasync(self._descriptor) if hasattr(os, "fdatasync") else os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class _SystemLock:
    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def check(self) -> None:
        try:
            if os.path.samestat(os.stat(self._path), os.fstat(self._descriptor)):
                return
        except FileNotFoundError:
            pass
        raise lock_lost(self._path)

    def release(self) -> None:
        os.close(self._descriptor)


def lock_lost(path: Path) -> OSError:
    """Return the error of a lock whose file was moved or deleted."""
    reason = "the lock file was moved or deleted, another process may have the folder"
    return OSError(errno.ESTALE, reason, str(path))


NETWORK_TYPES: Final = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "glusterfs", "afs", "fuse.sshfs")
)


def mount_type(path: Path, mountinfo: str) -> str:
    """Return the type of the file system that holds ``path``, e.g. ``"ext4"``; "" if unknown.

    Args:
        path: absolute, links resolved.
        mountinfo: the text of ``/proc/self/mountinfo`` (proc(5)); later mounts cover earlier ones.
    """
    best, found = -1, ""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split()[4].replace("\\040", " ") if len(fields.split()) > 4 else ""
        if rest and path.is_relative_to(point) and len(Path(point).parts) >= best:
            best, found = len(Path(point).parts), rest.split()[0]
    return found


def file_system_type(folder: Path) -> str:
    """Return the type of the file system that a folder is on; "" if the system doesn't say."""
    mounts = Path("/proc/self/mountinfo")
    return mount_type(folder.resolve(), mounts.read_text()) if mounts.exists() else ""


def _refuse_network(folder: Path) -> None:
    kind = file_system_type(folder)
    if kind in NETWORK_TYPES:
        raise UsageError(
            f"folder {str(folder)!r} is on a network file system ({kind}), whose locks and syncs "
            "can't be relied on; use a local disk"
        )


class SystemFiles:
    """``FileSystem`` on the operating system's files."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path) -> OpenFile:
        return _SystemFile(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))

    def append(self, path: Path) -> OpenFile:
        descriptor = os.open(path, os.O_WRONLY)
        os.lseek(descriptor, 0, os.SEEK_END)
        return _SystemFile(descriptor)

    def read(self, path: Path, *, size_bytes: int = -1) -> bytes:
        try:
            with path.open("rb") as file:
                return file.read(size_bytes)
        except FileNotFoundError:
            raise NotFoundError(f"no file {str(path)!r}; check the path") from None

    def names(self, folder: Path) -> list[str]:
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def exists(self, path: Path) -> bool:
        return path.exists()

    def size_bytes(self, path: Path) -> int:
        return path.stat().st_size

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def truncate(self, path: Path, size_bytes: int) -> None:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, size_bytes)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rewrite(self, path: Path, offset_bytes: int, data: Buffer) -> None:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            view = memoryview(data).cast("B")
            while view:
                written = os.pwrite(descriptor, view, offset_bytes)
                view, offset_bytes = view[written:], offset_bytes + written
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def fsync_folder(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, path: Path) -> int:
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def lock(self, path: Path) -> FolderLock:
        _refuse_network(path.parent)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError(
                f"the lock {str(path)!r} can't be opened: {error.strerror}; an engine needs a "
                "folder of its own on a disk that can be written: mend that and try again"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise FolderInUseError(str(path.parent)) from None
        return _SystemLock(path, descriptor)
