"""The contract of ``FileSystem``, held by the system's files and by the double that crashes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ringflow.errors import FolderInUseError, NotFoundError, StorageError, UsageError
from ringflow.files import FileSystem, SystemFiles, mount_type, write_atomic
from ringflow.simulate.files import SECTOR_BYTES, CrashError, CrashingFiles, Loss


@pytest.fixture(params=["system", "double"])
def files(request: pytest.FixtureRequest) -> FileSystem:
    """Each implementation in turn."""
    return SystemFiles() if request.param == "system" else CrashingFiles()


def put(files: FileSystem, path: Path, data: bytes) -> None:
    """Write a whole file durably."""
    file = files.create(path)
    file.write(data)
    file.datasync()
    file.close()


def test_files_are_created_once_and_appended_to(files: FileSystem, tmp_path: Path) -> None:
    """Creating over an existing file is refused; appending goes on at its end."""
    folder = tmp_path / "a" / "b"
    files.make_folder(folder)
    files.make_folder(folder)
    put(files, folder / "x", b"one")
    with pytest.raises(FileExistsError):
        files.create(folder / "x")
    with pytest.raises(FileNotFoundError):
        files.append(folder / "y")
    file = files.append(folder / "x")
    file.write(memoryview(b"two"))
    file.write(bytearray(b"!"))
    file.close()
    assert files.read(folder / "x") == b"onetwo!"
    assert files.size_bytes(folder / "x") == 7


def test_reserved_zeros_are_replaced_and_the_rest_is_cut(files: FileSystem, tmp_path: Path) -> None:
    """Writing goes on where it was, also past what is reserved; an opened file starts behind it."""
    files.make_folder(tmp_path)
    file = files.create(tmp_path / "x")
    file.write(b"one")
    file.reserve(8)
    assert files.read(tmp_path / "x") == b"one" + bytes(8)
    file.write(b"two")
    assert files.read(tmp_path / "x") == b"onetwo" + bytes(5)
    file.trim()
    assert files.read(tmp_path / "x") == b"onetwo"
    file.reserve(2)
    file.write(b"three")
    file.trim()
    file.reserve(1)
    file.close()
    assert files.read(tmp_path / "x") == b"onetwothree\0"
    file = files.append(tmp_path / "x")
    file.write(b"end")
    file.close()
    assert files.read(tmp_path / "x") == b"onetwothree\0end"


def test_names_are_sorted_and_absent_things_are_said_to_be(
    files: FileSystem, tmp_path: Path
) -> None:
    """Folders and files are listed together; an absent folder is empty, an absent file an error."""
    files.make_folder(tmp_path / "folder" / "inner")
    for name in ("c", "a", "b"):
        put(files, tmp_path / "folder" / name, b"")
    assert files.names(tmp_path / "folder") == ["a", "b", "c", "inner"]
    assert files.names(tmp_path / "nowhere") == []
    assert files.exists(tmp_path / "folder" / "a")
    assert not files.exists(tmp_path / "folder" / "d")
    with pytest.raises(NotFoundError):
        files.read(tmp_path / "folder" / "d")


def test_rename_truncate_and_delete(files: FileSystem, tmp_path: Path) -> None:
    """A rename replaces, a cut keeps the front, deleting twice is once."""
    files.make_folder(tmp_path)
    put(files, tmp_path / "a", b"new")
    put(files, tmp_path / "b", b"old")
    files.rename(tmp_path / "a", tmp_path / "b")
    files.truncate(tmp_path / "b", 2)
    files.fsync_folder(tmp_path)
    assert files.names(tmp_path) == ["b"]
    assert files.read(tmp_path / "b") == b"ne"
    files.delete(tmp_path / "b")
    files.delete(tmp_path / "b")
    assert files.names(tmp_path) == []
    assert files.free_bytes(tmp_path) > 0


def test_a_lock_is_held_by_one(files: FileSystem, tmp_path: Path) -> None:
    """The second asker is refused until the first lets go."""
    files.make_folder(tmp_path)
    lock = files.lock(tmp_path / "lock")
    with pytest.raises(FolderInUseError):
        files.lock(tmp_path / "lock")
    lock.release()
    files.lock(tmp_path / "lock").release()


@pytest.mark.parametrize(
    ("code", "said"), [(errno.EROFS, "Read-only file system"), (errno.EACCES, "Permission denied")]
)
def test_a_place_for_no_lock_is_told(
    code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that can't be written, and under a file: in our words, with what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/lock'.*Not a directory; .* folder of its own"):
        SystemFiles().lock(tmp_path / "file" / "lock")

    def refuse(path: Path, *_: int) -> int:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=rf"{said}; .* can be written: mend that"):
        SystemFiles().lock(tmp_path / "lock")


def test_a_lock_whose_file_is_gone_is_lost(files: FileSystem, tmp_path: Path) -> None:
    """Whoever takes the next one has the folder; the first is told when it asks."""
    files.make_folder(tmp_path)
    lost = files.lock(tmp_path / "lock")
    lost.check()
    files.delete(tmp_path / "lock")
    with pytest.raises(OSError, match="moved or deleted"):
        lost.check()
    held = files.lock(tmp_path / "lock")
    held.check()


def test_write_atomic_leaves_the_old_or_the_whole_new() -> None:
    """Whatever step the power goes at, and whatever unsynced sectors survive."""
    folder, path = Path("/f"), Path("/f/x")
    old, new = b"o" * 2000, b"n" * 3000
    seen = set()
    for step in range(6):
        for loss in Loss:
            files = CrashingFiles()
            files.make_folder(folder)
            write_atomic(files, path, [old])
            files.crash_before_step(len(files.steps) + step)
            try:
                write_atomic(files, path, [new[:1000], new[1000:]])
                finished = True
            except CrashError:
                finished = False
            found = files.after_crash(loss).read(path)
            assert found == new if finished else found in (old, new)
            seen.add(found)
    assert seen == {old, new}


def test_the_double_loses_tears_and_keeps_what_was_not_synced() -> None:
    """Each way of losing is as its name says; what was synced always stays."""
    files = CrashingFiles()
    files.make_folder(Path("/f"))
    put(files, Path("/f/x"), b"s" * 100)
    files.fsync_folder(Path("/f"))
    file = files.append(Path("/f/x"))
    file.write(b"u" * 2000)
    put(files, Path("/f/y"), b"named too late")

    def after(loss: Loss) -> bytes:
        return files.after_crash(loss).read(Path("/f/x"))

    assert after(Loss.ALL) == after(Loss.NAMES_ONLY) == b"s" * 100
    assert after(Loss.NONE) == b"s" * 100 + b"u" * 2000
    assert after(Loss.TAIL) == b"s" * 100 + b"u" * (2 * SECTOR_BYTES - 100)
    holes = after(Loss.HOLES)
    assert len(holes) == 2100
    assert holes[:100] == b"s" * 100
    assert set(holes[100:SECTOR_BYTES]) == {0}
    assert set(holes[SECTOR_BYTES : 2 * SECTOR_BYTES]) == {ord("u")}
    assert files.after_crash(Loss.ALL).names(Path("/f")) == ["x"]
    assert files.after_crash(Loss.NONE).names(Path("/f")) == ["x", "y"]


def test_the_double_loses_what_replaced_synced_bytes() -> None:
    """Sectors that were overwritten and not synced read as they were, each for itself."""
    files = CrashingFiles()
    files.make_folder(Path("/f"))
    file = files.create(Path("/f/x"))
    file.write(b"s" * 100)
    file.reserve(3 * SECTOR_BYTES)
    file.datasync()
    files.fsync_folder(Path("/f"))
    file.write(b"u" * 1000)
    zeros = 3 * SECTOR_BYTES - 1000

    def after(loss: Loss) -> bytes:
        return files.after_crash(loss).read(Path("/f/x"))

    assert after(Loss.ALL) == b"s" * 100 + bytes(3 * SECTOR_BYTES)
    assert after(Loss.NONE) == b"s" * 100 + b"u" * 1000 + bytes(zeros)
    kept = SECTOR_BYTES - 100
    assert after(Loss.TAIL) == b"s" * 100 + b"u" * kept + bytes(1000 - kept + zeros)
    holes = after(Loss.HOLES)
    assert holes[:SECTOR_BYTES] == b"s" * 100 + bytes(kept)
    assert set(holes[SECTOR_BYTES : 2 * SECTOR_BYTES]) == {ord("u")}


def test_the_double_never_writes_pages_of_a_failed_sync() -> None:
    """A repeated fsync succeeds and still loses them, as on Linux."""
    files = CrashingFiles()
    files.make_folder(Path("/f"))
    put(files, Path("/f/x"), b"kept")
    files.fsync_folder(Path("/f"))
    file = files.append(Path("/f/x"))
    file.write(b"lost")
    files.fail("datasync", at=1, error=OSError(5, "no"))
    with pytest.raises(OSError, match="no"):
        file.datasync()
    file.datasync()
    assert files.after_crash(Loss.NONE).read(Path("/f/x")) == b"kept"


MOUNTS = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:40 / /data rw - nfs4 server:/export rw
31 30 0:41 / /data/local\\040disk rw - xfs /dev/vdb rw
broken
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/x", "ext4"),
        ("/data", "nfs4"),
        ("/data/a", "nfs4"),
        ("/database", "ext4"),
        ("/data/local disk/e", "xfs"),
    ],
)
def test_the_longest_mount_point_decides(path: str, kind: str) -> None:
    """As proc(5) describes the table."""
    assert mount_type(Path(path), MOUNTS) == kind


def test_a_network_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks and syncs there don't hold what the journal promises."""
    monkeypatch.setattr("ringflow.files.mount_type", lambda path, mountinfo: "nfs4")
    with pytest.raises(UsageError, match="local disk"):
        SystemFiles().lock(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()
