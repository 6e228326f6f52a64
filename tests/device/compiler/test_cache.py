"""The compile cache: whole entries or none, bounded, shared by processes, never an error."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from pathlib import Path

import pytest

from ringflow.device.compiler.cache import CompileCache, cache_folder

KEY = "ab" * 32


def _entry(cache: CompileCache, key: str = KEY) -> Path:
    return cache.folder / f"{key}.code"


def test_what_was_put_is_got(tmp_path: Path) -> None:
    """Code and log come back byte for byte, also empty ones."""
    cache = CompileCache(tmp_path / "cache")
    assert cache.get(KEY) is None
    for code, log in ((b"\x00code\xff", "warning: naïve\n"), (b"", "")):
        assert cache.put(KEY, code, log)
        assert cache.get(KEY) == (code, log)


def test_any_damaged_byte_discards_the_entry(tmp_path: Path) -> None:
    """Each byte flipped in turn, and each cut: the entry is not used, and is gone."""
    cache = CompileCache(tmp_path)
    cache.put(KEY, b"code", "log")
    whole = _entry(cache).read_bytes()
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for entry in [*damaged, *(whole[:end] for end in range(len(whole))), whole + b"x"]:
        _entry(cache).write_bytes(entry)
        assert cache.get(KEY) is None
        assert not _entry(cache).exists()
    _entry(cache).write_bytes(whole)
    assert cache.get(KEY) == (b"code", "log")


def test_the_entry_used_longest_ago_goes_first(tmp_path: Path) -> None:
    """Past the bound the oldest goes; reading makes an entry young."""
    cache = CompileCache(tmp_path, size_bytes_max=3_300)
    for age, key in ((30, "a"), (20, "b"), (10, "c")):
        cache.put(key, bytes(1_000), "")
        os.utime(_entry(cache, key), (1_000_000 - age, 1_000_000 - age))
    assert cache.get("a") is not None
    cache.put("d", bytes(1_000), "")
    assert {path.stem for path in tmp_path.iterdir()} == {"a", "c", "d"}
    assert cache.statistics().entry_count == 3
    assert cache.statistics().size_bytes <= cache.size_bytes_max


def test_an_abandoned_temporary_file_is_removed(tmp_path: Path) -> None:
    """What a killed process left goes; what another process writes now stays."""
    cache = CompileCache(tmp_path)
    old, new = tmp_path / ".tmp-old", tmp_path / ".tmp-new"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (0, 0))
    cache.put(KEY, b"code", "")
    assert not old.exists()
    assert new.exists()


def test_a_folder_that_cannot_be_is_no_error(tmp_path: Path) -> None:
    """Nothing is kept, and nobody fails for it."""
    (tmp_path / "file").write_bytes(b"")
    cache = CompileCache(tmp_path / "file" / "cache")
    assert not cache.put(KEY, b"code", "")
    assert cache.get(KEY) is None


def _put_many(folder: Path) -> None:
    cache = CompileCache(folder, size_bytes_max=20_000)
    for number in range(200):
        key = f"{number % 7}"
        assert cache.put(key, key.encode() * 4_000, key)
        got = cache.get(key)
        assert got is None or got == (key.encode() * 4_000, key)


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    """Both write and evict the same keys; each sees whole entries or none."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_put_many, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert not list(tmp_path.glob(".tmp-*"))


def test_the_folder_is_chosen_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """RINGFLOW_CACHE_DIR wins, then XDG_CACHE_HOME, then HOME."""
    home, xdg, own = (tmp_path / name for name in ("home", "xdg", "own"))
    home.mkdir()
    monkeypatch.delenv("RINGFLOW_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    assert cache_folder().is_relative_to(home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(xdg))
    assert cache_folder() == xdg / "ringflow"
    monkeypatch.setenv("RINGFLOW_CACHE_DIR", str(own))
    assert cache_folder() == own


@pytest.mark.parametrize("home", [None, "", "/proc/nobody", "/dev/null"])
def test_without_a_usable_home_it_is_a_private_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str | None
) -> None:
    """A missing, empty or unwritable HOME is no error."""
    _only_temporary(monkeypatch, tmp_path, home)
    folder = cache_folder()
    assert folder == tmp_path / f"ringflow-{os.getuid()}"
    assert folder.stat().st_mode & 0o077 == 0
    assert CompileCache.default().put(KEY, b"code", "")


def test_a_temporary_folder_that_others_can_write_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Code that another user may have put there must not be run."""
    _only_temporary(monkeypatch, tmp_path, None)
    planted = tmp_path / f"ringflow-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    folder = cache_folder()
    assert folder != planted
    assert folder.stat().st_mode & 0o077 == 0


def _only_temporary(monkeypatch: pytest.MonkeyPatch, folder: Path, home: str | None) -> None:
    for variable in ("RINGFLOW_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
