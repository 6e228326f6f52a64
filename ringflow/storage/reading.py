"""Checkpoint files that somebody hands over: read without a storage, and without trust.

- Only regular files are read, never more of them than a checkpoint may have.
- The header is checked against the file's length before the rest is read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import attrs

from ringflow.errors import CorruptError, NotFoundError, StorageError
from ringflow.storage.checkpoint import Checkpoint
from ringflow.storage.folders import storage_errors
from ringflow.storage.format_v1 import MAX_CHECKPOINT_SIZE, METADATA_END_MAX, decode_head
from ringflow.storage.headers import HEADER_BYTES, CheckpointHeader
from ringflow.storage.metadata import CheckpointMetadata


@attrs.frozen(kw_only=True)
class FileHead:
    """What the beginning of a file says; neither the CRC nor a digest was checked.

    Attributes:
        size_bytes: of the file.
        created_at_us: UNIX time in µs, 0 where nobody said.
    """

    size_bytes: int
    created_at_us: int
    metadata: CheckpointMetadata


def read_regular(path: Path, *, limit_bytes: int) -> bytes:
    """Return the bytes of a regular file of at most ``limit_bytes``.

    Raises:
        NotFoundError: there is no such file.
        StorageError: it is no regular file, too large, or can't be read.
    """
    descriptor, _ = _open(path, limit_bytes)
    with storage_errors("read", path), os.fdopen(descriptor, "rb") as file:
        return file.read(limit_bytes)


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a file, verified; it takes as much memory as the file is long.

    Raises:
        NotFoundError: there is no such file.
        CorruptError: its bytes are damaged, or it is no checkpoint at all.
        StorageError: it is no regular file, of a newer version, or can't be read.
    """
    descriptor, size_bytes = _open(path, MAX_CHECKPOINT_SIZE)
    with storage_errors("read checkpoint", path), os.fdopen(descriptor, "rb") as file:
        head = file.read(HEADER_BYTES)
        CheckpointHeader.from_bytes(head).validate(file_bytes=size_bytes)
        data = bytearray(size_bytes)
        data[: len(head)] = head
        length = len(head) + file.readinto(memoryview(data)[len(head) :])
    if length != size_bytes:
        raise CorruptError(f"checkpoint {str(path)!r} became shorter while it was read; try again")
    return Checkpoint.from_bytes(data)


def read_head(path: Path) -> FileHead:
    """Return what a file says of itself; reads its metadata only, and verifies nothing.

    Raises: as ``read_checkpoint``.
    """
    descriptor, size_bytes = _open(path, MAX_CHECKPOINT_SIZE)
    with storage_errors("read checkpoint", path), os.fdopen(descriptor, "rb") as file:
        data = file.read(METADATA_END_MAX)
    header, metadata = decode_head(data, file_bytes=size_bytes)
    return FileHead(size_bytes=size_bytes, created_at_us=header.created_at, metadata=metadata)


def _open(path: Path, limit_bytes: int) -> tuple[int, int]:
    """Return a descriptor and the size; a pipe or a device is refused before it can block."""
    with storage_errors("open", path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFoundError(f"no file {str(path)!r}; check the path") from None
        status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size <= limit_bytes:
        return descriptor, status.st_size
    os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{str(path)!r} is no regular file; name a checkpoint file")
    raise StorageError(
        f"{str(path)!r} has {status.st_size} bytes, over the limit of {limit_bytes}; "
        "this is no file that ringflow wrote"
    )
