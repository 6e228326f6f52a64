"""A file system in memory that crashes, tears, runs full and reports failed syncs.

- What was not synced may be lost in a crash: bytes since the last ``datasync`` of their file, names
  since the last ``fsync_folder`` of their folder. Folders themselves are durable at once.
- Unsynced bytes survive in sectors of 512 bytes, each for itself: ``Loss`` says which.
- Every call that changes something is one step; a crash can be put before each of them.
- After a failed ``datasync`` the pages count as clean, as Linux has it: a repeated call succeeds
  and writes nothing of them; only what is written again can be synced.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from ringflow.errors import FolderInUseError, NotFoundError
from ringflow.files import Buffer, lock_lost

SECTOR_BYTES: Final = 512


class CrashError(OSError):
    """The power goes off: this call may have been on its way, later ones have no effect."""


class PowerOffError(CrashError):
    """The power is off already."""


class Loss(enum.Enum):
    """What a crash leaves of the unsynced sectors."""

    ALL = "all of them are lost, names too"
    NONE = "all of them are kept"
    NAMES_ONLY = "names are kept, bytes are lost: files may be empty"
    TAIL = "the first half of the sectors is kept"
    HOLES = "every second sector is kept, the others read as zeros"
    REORDERED = "names and the second half of the sectors are kept, the first reads as before"


@attrs.define(eq=False)
class _Inode:
    """A file: its bytes, those that are durable, and from where to where they may differ."""

    content: bytearray = attrs.field(factory=bytearray)
    synced: bytearray = attrs.field(factory=bytearray)
    lost_pages: bool = False
    changed: tuple[int, int] | None = None

    def put(self, at: int, data: bytes) -> None:
        self.content[at : at + len(data)] = data
        begin, end = self.changed or (at, at)
        self.changed = min(begin, at), max(end, at + len(data))

    def cut(self, size_bytes: int) -> None:
        self.changed = min(size_bytes, *(self.changed or (size_bytes,))), len(self.content)
        del self.content[size_bytes:]

    def sync(self) -> None:
        if self.changed is not None:
            begin, end = self.changed
            del self.synced[len(self.content) :]
            self.synced.extend(bytes(max(0, begin - len(self.synced))))
            self.synced[begin:end] = self.content[begin:end]
            self.changed = None

    def lose_pages(self) -> None:
        """Forget what was to be synced: it can be read until the next boot."""
        self.lost_pages, self.changed = True, None

    def survivors(self, loss: Loss) -> bytes:
        """Return the bytes after a crash; the length may have grown without its content."""
        if loss in (Loss.ALL, Loss.NAMES_ONLY) or self.lost_pages:
            return bytes(self.synced)
        if loss is Loss.NONE or len(self.content) < len(self.synced):
            return bytes(self.content)
        kept, old = bytearray(self.content), bytes(self.synced).ljust(len(self.content), b"\0")
        begins = self._unsynced_sectors(old)
        half = len(begins) // 2
        lost = {Loss.TAIL: begins[half:], Loss.REORDERED: begins[: len(begins) - half]}.get(
            loss, begins[::2]
        )
        for begin in lost:
            kept[begin : begin + SECTOR_BYTES] = old[begin : begin + SECTOR_BYTES]
        if loss is Loss.TAIL and lost:
            grown = [begin for begin in lost if begin + SECTOR_BYTES > len(self.synced)]
            del kept[max(len(self.synced), min(grown, default=len(kept))) :]
        return bytes(kept)

    def _unsynced_sectors(self, old: bytes) -> list[int]:
        """Return where the sectors begin whose bytes or presence a sync would change."""
        return [
            begin
            for begin in range(0, len(self.content), SECTOR_BYTES)
            if begin + SECTOR_BYTES > len(self.synced) < len(self.content)
            or self.content[begin : begin + SECTOR_BYTES] != old[begin : begin + SECTOR_BYTES]
        ]


class _SimulatedFile:
    def __init__(self, files: CrashingFiles, path: Path, inode: _Inode) -> None:
        self._files = files
        self._path = path
        self._inode = inode
        self._at = len(inode.content)
        self.closed = False

    def write(self, data: Buffer) -> None:
        assert not self.closed
        view = bytes(data)
        try:
            self._files.step("write", self._path)
        except PowerOffError:
            raise
        except CrashError:
            self._put(view)  # on its way when the power went
            raise
        except OSError:
            self._put(view[: len(view) // 2])
            raise
        self._put(view)

    def _put(self, view: bytes) -> None:
        self._inode.put(self._at, view)
        self._at += len(view)

    def reserve(self, size_bytes: int) -> None:
        assert not self.closed
        try:
            self._files.step("reserve", self._path)
        except PowerOffError:
            raise
        except CrashError:
            self._fill(size_bytes)
            raise
        except OSError:
            self._fill(size_bytes // 2)
            raise
        self._fill(size_bytes)

    def _fill(self, size_bytes: int) -> None:
        self._inode.put(self._at, bytes(size_bytes))

    def trim(self) -> None:
        assert not self.closed
        self._files.step("trim", self._path)
        self._inode.cut(self._at)

    def datasync(self) -> None:
        assert not self.closed
        try:
            self._files.step("datasync", self._path)
        except CrashError:
            raise
        except OSError:
            self._inode.lose_pages()
            raise
        if not self._files.lies:
            self._inode.sync()

    def close(self) -> None:
        self.closed = True


class _SimulatedLock:
    def __init__(self, files: CrashingFiles, path: Path) -> None:
        self._files = files
        self._path = path

    def check(self) -> None:
        if self._path not in self._files.locks:
            raise lock_lost(self._path)

    def release(self) -> None:
        self._files.locks.discard(self._path)


class CrashingFiles:
    """``FileSystem`` in memory.

    Attributes:
        steps: the changing calls so far, by name and in order.
        lies: ``datasync`` returns without doing anything.
        free: what ``free_bytes`` returns.
        watch: is called before each changing call with its name and path; what it raises is what
            the call raises.
    """

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.lies = False
        self.free = 2**40
        self.watch: Callable[[str, Path], None] = lambda call, path: None
        self.locks: set[Path] = set()
        self._names: dict[Path, _Inode] = {}
        self._synced_names: dict[Path, _Inode] = {}
        self._folders: set[Path] = set()
        self._crash_at: int | None = None
        self._faults: dict[tuple[str, int], OSError] = {}
        self._counts: Counter[str] = Counter()
        self._off = False

    # Arming and crashing

    def crash_before_step(self, index: int) -> None:
        """Switch the power off before the changing call ``index`` (counted from 0)."""
        self._crash_at = index

    def fail(self, call: str, *, at: int, error: OSError) -> None:
        """Let the call named ``call`` fail when it is made for the ``at``-th time from now."""
        self._faults[call, self._counts[call] + at] = error

    def after_crash(self, loss: Loss = Loss.ALL) -> CrashingFiles:
        """Return the file system as the next boot finds it."""
        kept = loss in (Loss.NONE, Loss.NAMES_ONLY, Loss.REORDERED)
        names = self._names if kept else self._synced_names
        files = CrashingFiles()
        files._folders = set(self._folders)
        copies: dict[_Inode, _Inode] = {}
        for path, inode in names.items():
            content = inode.survivors(loss)
            copies.setdefault(inode, _Inode(bytearray(content), bytearray(content)))
            files._names[path] = files._synced_names[path] = copies[inode]
        return files

    @property
    def has_crashed(self) -> bool:
        """Whether the power is off."""
        return self._off or (self._crash_at is not None and len(self.steps) >= self._crash_at)

    def power_off(self) -> None:
        """Let no later call have any effect; what each raises is a ``CrashError``."""
        self._off = True

    def step(self, call: str, path: Path) -> None:
        """Count one changing call; raises what is armed for it."""
        if self._off:
            raise PowerOffError("the power is off")
        if self.has_crashed:
            self._off = True
            raise CrashError("the power is off")
        self.watch(call, path)
        self.steps.append(call)
        self._counts[call] += 1
        fault = self._faults.pop((call, self._counts[call]), None)
        if fault is not None:
            raise fault

    # Bytes behind the back of the code under test

    def poke(self, path: Path, content: bytes) -> None:
        """Replace a file's bytes, durably."""
        self._names[path] = self._synced_names[path] = _Inode(
            bytearray(content), bytearray(content)
        )

    def erase(self, path: Path) -> None:
        """Remove a file, durably."""
        del self._names[path]
        self._synced_names.pop(path, None)

    def remove(self, path: Path) -> None:
        """Remove a file, durably."""
        del self._names[path]
        self._synced_names.pop(path, None)

    def snapshot(self) -> dict[Path, bytes]:
        """Return all files' bytes."""
        return {path: bytes(inode.content) for path, inode in self._names.items()}

    # FileSystem

    def make_folder(self, path: Path) -> None:
        self._folders.update((path, *path.parents))

    def create(self, path: Path) -> _SimulatedFile:
        if path in self._names:
            raise FileExistsError(path)
        assert path.parent in self._folders
        self.step("create", path)
        self._names[path] = _Inode()
        return _SimulatedFile(self, path, self._names[path])

    def append(self, path: Path) -> _SimulatedFile:
        if path not in self._names:
            raise FileNotFoundError(path)
        return _SimulatedFile(self, path, self._names[path])

    def read(self, path: Path, *, size_bytes: int = -1) -> bytes:
        if path not in self._names:
            raise NotFoundError(f"no file {str(path)!r}; check the path")
        content = bytes(self._names[path].content)
        return content if size_bytes < 0 else content[:size_bytes]

    def names(self, folder: Path) -> list[str]:
        entries = (*self._names, *self._folders)
        return sorted({path.name for path in entries if path.parent == folder != path})

    def exists(self, path: Path) -> bool:
        return path in self._names or path in self._folders

    def size_bytes(self, path: Path) -> int:
        return len(self._names[path].content)

    def rename(self, source: Path, target: Path) -> None:
        self.step("rename", target)
        self._names[target] = self._names.pop(source)

    def truncate(self, path: Path, size_bytes: int) -> None:
        self.step("truncate", path)
        inode = self._names[path]
        inode.cut(size_bytes)
        inode.sync()

    def rewrite(self, path: Path, offset_bytes: int, data: Buffer) -> None:
        self.step("rewrite", path)
        inode = self._names[path]
        assert inode.content[offset_bytes : offset_bytes + len(data)] == data
        inode.put(offset_bytes, bytes(data))
        inode.sync()

    def delete(self, path: Path) -> None:
        self.step("delete", path)
        self._names.pop(path, None)
        self.locks.discard(path)

    def fsync_folder(self, path: Path) -> None:
        self.step("fsync_folder", path)
        for known in [known for known in self._synced_names if known.parent == path]:
            del self._synced_names[known]
        for known, inode in self._names.items():
            if known.parent == path:
                self._synced_names[known] = inode

    def free_bytes(self, path: Path) -> int:
        return self.free

    def lock(self, path: Path) -> _SimulatedLock:
        if path in self.locks:
            raise FolderInUseError(str(path.parent))
        self.locks.add(path)
        return _SimulatedLock(self, path)
