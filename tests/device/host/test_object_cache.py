"""The object cache, and the shipped runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.host import runtime
from ringflow.device.host import translate as module
from ringflow.device.host.jit import ObjectCache
from ringflow.device.host.translate import default_cache, translate
from tests.device.host.programs import run

SOURCE = """
extern "C" __global__ void fill(int* out, int value) { out[threadIdx.x] = value; }
__device__ int kept = 7;
extern "C" __device__ int answer(int x) { return x * 2; }
"""


@pytest.fixture
def ptx() -> str:
    return compile_to_ptx(SOURCE, name="test.cu")[0]


def filled(ptx: str, cache: ObjectCache) -> tuple[bool, list[int]]:
    program = translate(ptx, cache=cache)
    out = np.zeros(3, np.int32)
    run(program, "fill", 1, 3, out, 5)
    assert program.function("answer")
    assert program.globals["kept"].size_bytes == 4
    return program.cached, out.tolist()


def test_a_second_load_comes_from_the_cache(
    ptx: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither parsed nor compiled again, and it does the same."""
    assert filled(ptx, ObjectCache(tmp_path)) == (False, [5, 5, 5])

    def refuse(text: str) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(module, "parse", refuse)
    assert filled(ptx, ObjectCache(tmp_path)) == (True, [5, 5, 5])


def test_damaged_entries_are_discarded(ptx: str, tmp_path: Path) -> None:
    """Each damage leads to a fresh translation, and the entry is whole again."""
    filled(ptx, ObjectCache(tmp_path))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-1], whole[:100] + b"\0" + whole[101:]):
        path.write_bytes(damaged)
        assert filled(ptx, ObjectCache(tmp_path)) == (False, [5, 5, 5])
        assert path.read_bytes() == whole


def test_options_and_texts_have_entries_of_their_own(ptx: str, tmp_path: Path) -> None:
    """A kernel that may not be preempted is other code."""
    cache = ObjectCache(tmp_path)
    translate(ptx, cache=cache)
    assert not translate(ptx, cache=cache, preempt=False).cached
    assert not translate(ptx + "\n// changed\n", cache=cache).cached
    assert translate(ptx, cache=cache).cached
    assert len(list(tmp_path.iterdir())) == 3


def test_the_oldest_entries_are_evicted(tmp_path: Path) -> None:
    """The folder stays bounded."""
    cache = ObjectCache(tmp_path, entries_max=3)
    for index in range(6):
        cache.put(cache.key(str(index)), bytes([index]))
        os.utime(tmp_path / cache.key(str(index)), ns=(index, index))
    found = [cache.get(cache.key(str(index))) for index in range(6)]
    assert found == [None, None, None, b"\3", b"\4", b"\5"]


def test_bytes_are_bounded_too(tmp_path: Path) -> None:
    """Large entries push out more of the old ones, an entry over the bound itself included."""
    cache = ObjectCache(tmp_path, bytes_max=1000)
    for index in range(6):
        cache.put(cache.key(str(index)), bytes(300))
        os.utime(tmp_path / cache.key(str(index)), ns=(index, index))
    cache.put(cache.key("small"), bytes(10))
    found = [cache.get(cache.key(str(index))) is not None for index in range(6)]
    assert found == [False] * 4 + [True] * 2
    cache.put(cache.key("large"), bytes(2000))
    assert list(tmp_path.iterdir()) == []


def test_what_is_used_is_kept(tmp_path: Path) -> None:
    """A hit counts as a use: the scheduler's own code is the oldest and the last to go."""
    cache = ObjectCache(tmp_path, entries_max=2)
    for index in range(3):
        assert index == 0 or cache.get(cache.key("0")) is not None
        cache.put(cache.key(str(index)), bytes([index]))
        for age, path in enumerate(sorted(tmp_path.iterdir(), key=lambda p: p.stat().st_mtime_ns)):
            os.utime(path, ns=(age, age))
    assert [cache.get(cache.key(str(i))) for i in range(3)] == [b"\0", None, b"\2"]


WRITER = """
import sys
from pathlib import Path
from ringflow.device.host.jit import ObjectCache

cache = ObjectCache(Path(sys.argv[1]), entries_max=4)
for turn in range(300):
    key = cache.key(str(turn % 8))
    found = cache.get(key)
    assert found is None or found == bytes([turn % 8]) * 5000, turn
    cache.put(key, bytes([turn % 8]) * 5000)
"""


def test_processes_may_write_and_evict_at_once(tmp_path: Path) -> None:
    """Each finds an entry whole or not at all, and the bound holds in the end."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(3)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    assert 0 < len(list(tmp_path.iterdir())) <= 4


def test_a_folder_that_cannot_be_written_is_no_error(ptx: str, tmp_path: Path) -> None:
    """The cache only saves time."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert filled(ptx, ObjectCache(blocked / "objects")) == (False, [5, 5, 5])


def test_the_default_cache_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RINGFLOW_CACHE_DIR wins; without a home it is a folder of this user's own."""
    default_cache.cache_clear()
    monkeypatch.setenv("RINGFLOW_CACHE_DIR", str(tmp_path))
    assert default_cache().folder == tmp_path / "objects"
    default_cache.cache_clear()
    for name in ("RINGFLOW_CACHE_DIR", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = default_cache().folder.parent
    assert folder.stat().st_uid == os.getuid()
    assert not folder.stat().st_mode & 0o022
    default_cache.cache_clear()


def test_the_shipped_runtime_is_what_clang_makes_of_its_source() -> None:
    """The PTX files are rebuilt and compared, so that source and code cannot drift apart."""
    folder = Path(runtime.__file__).parent
    headers = {"cta.cuh": (folder / "cta.cuh").read_text("utf-8")}
    for name in ("cta", "log", "memcheck"):
        source = (folder / f"{name}.cu").read_text("utf-8")
        built, _ = compile_to_ptx(source, name=f"{name}.cu", headers=headers)
        assert built == (folder / f"{name}.ptx").read_text("utf-8"), name
