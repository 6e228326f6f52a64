"""What is FileStorage's own: where files lie, what is left alone, damage, the system's errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringflow.errors import CorruptError, NotFoundError, StorageError
from ringflow.files import SystemFiles
from ringflow.storage import CheckpointBuilder, FileStorage
from ringflow.storage.file import read_whole

pytestmark = pytest.mark.anyio
CHECKPOINT = CheckpointBuilder("wave", "wave_2d").step(5).device_memory("h", b"data").build()


async def test_file_has_the_formats_bytes_under_the_formats_suffix(tmp_path: Path) -> None:
    """Other tools find a plain .rkcp file; no temporary file stays."""
    storage = FileStorage(tmp_path / "a" / "b")
    await storage.save(CHECKPOINT, "step_5")
    assert SystemFiles().names(storage.path) == ["step_5.rkcp"]
    assert storage.path_of("step_5").read_bytes() == CHECKPOINT.to_bytes()


async def test_files_of_others_are_not_listed(tmp_path: Path) -> None:
    """Notes and leftovers of a crashed save are no checkpoints."""
    storage = FileStorage(tmp_path)
    await storage.save(CHECKPOINT, "step_5")
    (tmp_path / "step_6.rkcp.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "a b.rkcp").write_bytes(b"")
    assert await storage.list() == ("step_5",)


async def test_leftover_of_a_crashed_save_does_not_stop_the_next(tmp_path: Path) -> None:
    """The temporary file of a crash is written anew, not appended to."""
    (tmp_path / "step_5.rkcp.tmp").write_bytes(b"half")
    storage = FileStorage(tmp_path)
    await storage.save(CHECKPOINT, "step_5")
    assert await storage.load("step_5") == CHECKPOINT
    assert SystemFiles().names(tmp_path) == ["step_5.rkcp"]


async def test_damaged_file_is_corrupt(tmp_path: Path) -> None:
    """A flipped byte is found on load."""
    storage = FileStorage(tmp_path)
    await storage.save(CHECKPOINT, "step_5")
    data = bytearray(storage.path_of("step_5").read_bytes())
    data[-1] ^= 1
    storage.path_of("step_5").write_bytes(data)
    with pytest.raises(CorruptError, match="CRC-32"):
        await storage.load("step_5")


async def test_too_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A sparse file of terabytes costs nothing."""
    with (tmp_path / "huge.rkcp").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CorruptError, match="1099511627776"):
        await FileStorage(tmp_path).load("huge")


async def test_systems_errors_are_storage_errors(tmp_path: Path) -> None:
    """A folder that can't be made, or a file that is a folder, is told in our words."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="could not save checkpoint"):
        await FileStorage(tmp_path / "file" / "below").save(CHECKPOINT, "a")
    (tmp_path / "folder.rkcp").mkdir()
    with pytest.raises(StorageError, match="could not load checkpoint"):
        await FileStorage(tmp_path).load("folder")


async def test_read_whole_reads_under_both_backends(tmp_path: Path) -> None:
    """One function reads a file whichever loop runs, and asks any other file system itself."""
    (tmp_path / "f").write_bytes(b"bytes")
    assert await read_whole(SystemFiles(), tmp_path / "f") == b"bytes"
    with pytest.raises(NotFoundError):
        await read_whole(SystemFiles(), tmp_path / "g")


async def test_aiofiles_reads_under_asyncio_only(
    tmp_path: Path, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiofiles fails under trio, where the seam's own read serves; a double is always asked."""

    def refuse(self: SystemFiles, path: Path, *, size_bytes: int = -1) -> bytes:
        raise OSError("the seam was asked")

    class Double(SystemFiles):
        read = refuse

    (tmp_path / "f").write_bytes(b"bytes")
    with pytest.raises(OSError, match="the seam was asked"):
        await read_whole(Double(), tmp_path / "f")
    monkeypatch.setattr(SystemFiles, "read", refuse)
    if anyio_backend == "asyncio":
        assert await read_whole(SystemFiles(), tmp_path / "f") == b"bytes"
    else:
        with pytest.raises(OSError, match="the seam was asked"):
            await read_whole(SystemFiles(), tmp_path / "f")
