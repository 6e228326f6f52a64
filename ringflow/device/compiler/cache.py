"""Compiled code on disk, found again by the digest of all that it was made from.

- An entry appears whole or not at all, and is checked by its own digest each time it is read.
- The cache is a convenience: a damaged entry is discarded, and where nothing can be written,
  nothing is kept; neither is an error.
- Any number of processes may share a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import attrs

CACHE_BYTES_MAX: Final = 256 << 20
ABANDONED_S: Final = 3600.0

_MAGIC: Final = b"ringflow-code-1\n"
_SUFFIX: Final = ".code"
_TEMPORARY: Final = ".tmp-"
_DIGEST_BYTES: Final = 32
_LOG_SIZE: Final = struct.Struct("<Q")


@attrs.frozen
class CacheStatistics:
    """What a cache folder holds."""

    entry_count: int
    size_bytes: int


class CompileCache:
    """A folder of compiled code, bounded in size; the entries used longest ago go first."""

    def __init__(self, folder: Path, *, size_bytes_max: int = CACHE_BYTES_MAX) -> None:
        self.folder = folder
        self.size_bytes_max = size_bytes_max

    @classmethod
    def default(cls) -> CompileCache:
        """Return the cache in the user's cache folder."""
        return cls(cache_folder() / "compile")

    def get(self, key: str) -> tuple[bytes, str] | None:
        """Return the code and the compiler's log kept under a key (hex), if they are whole."""
        path = self._path(key)
        try:
            entry = path.read_bytes()
        except OSError:
            return None
        parts = _decode(entry)
        if parts is None:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return parts

    def put(self, key: str, code: bytes, log: str) -> bool:
        """Keep code and log under a key (hex); return whether they could be kept."""
        try:
            write_whole(self._path(key), _encode(code, log))
            self._evict()
        except OSError:
            return False
        return True

    def statistics(self) -> CacheStatistics:
        """Return the number of entries and their size."""
        sizes = [size_bytes for _, size_bytes, _ in self._entries()]
        return CacheStatistics(len(sizes), sum(sizes))

    def _path(self, key: str) -> Path:
        return self.folder / (key + _SUFFIX)

    def _entries(self) -> list[tuple[float, int, str]]:
        """Return time of last use, size and path of each entry, oldest first."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as listing:
            for item in listing:
                with contextlib.suppress(FileNotFoundError):
                    status = item.stat(follow_symlinks=False)
                    if item.name.endswith(_SUFFIX):
                        found.append((status.st_mtime, status.st_size, item.path))
                    elif item.name.startswith(_TEMPORARY) and _is_abandoned(status.st_mtime):
                        os.unlink(item.path)
        return sorted(found)

    def _evict(self) -> None:
        entries = self._entries()
        excess_bytes = sum(size_bytes for _, size_bytes, _ in entries) - self.size_bytes_max
        for _, size_bytes, path in entries:
            if excess_bytes <= 0:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            excess_bytes -= size_bytes


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, and the folders above it; raises ``OSError``.

    For what can be made again: nothing is synced.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def cache_folder() -> Path:
    """Return a folder for what can be made again, one that this user can write.

    ``RINGFLOW_CACHE_DIR``, else the platform's cache folder, else a private one among the
    temporary files.
    """
    for folder in _candidates():
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    return _temporary_folder()


def _candidates() -> list[Path]:
    chosen = os.environ.get("RINGFLOW_CACHE_DIR")
    if chosen:
        return [Path(chosen).absolute()]
    folders = []
    xdg, home = os.environ.get("XDG_CACHE_HOME", ""), os.environ.get("HOME", "")
    if os.path.isabs(xdg):
        folders.append(Path(xdg, "ringflow"))
    if os.path.isabs(home) and os.path.isdir(home):
        caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
        folders.append(Path(home, caches, "ringflow"))
    return folders


def _temporary_folder() -> Path:
    """Return this user's folder among the temporary files; a new one if another made it first."""
    folder = Path(tempfile.gettempdir(), f"ringflow-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
        return folder
    return Path(tempfile.mkdtemp(prefix="ringflow-"))


def _encode(code: bytes, log: str) -> bytes:
    text = log.encode()
    body = _LOG_SIZE.pack(len(text)) + text + code
    return _MAGIC + hashlib.sha256(body).digest() + body


def _decode(entry: bytes) -> tuple[bytes, str] | None:
    start = len(_MAGIC) + _DIGEST_BYTES
    digest, body = entry[len(_MAGIC) : start], entry[start:]
    if not entry.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        return None
    (log_bytes,) = _LOG_SIZE.unpack_from(body)
    log_end = _LOG_SIZE.size + log_bytes
    return body[log_end:], body[_LOG_SIZE.size : log_end].decode()


def _is_abandoned(modified_s: float) -> bool:
    return time.time() - modified_s > ABANDONED_S
