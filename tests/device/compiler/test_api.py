"""``compile_source``: one source for both targets, the cache, and who may load what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs
import pytest

import ringflow
from ringflow.device.compiler import clang, nvrtc
from ringflow.device.compiler.api import (
    HOST,
    CompiledCode,
    CompileTarget,
    code_from_ptx,
    compile_source,
)
from ringflow.device.compiler.cache import CompileCache
from ringflow.errors import CompileError, DeviceError, EntryPointError, SpecError

SM_80 = CompileTarget("sm_80")
BOTH = pytest.mark.parametrize("target", [HOST, SM_80], ids=lambda target: target.name)
SOURCE = """#include <mine.cuh>
extern "C" __global__ void first(float* p) { p[0] = p[1] * p[2] + N; }
extern "C" __global__ void second(float* p) { p[0] = N; }
"""
HEADERS = {"mine.cuh": "constexpr int N = 3;\n"}


def _compile(
    target: CompileTarget,
    cache: CompileCache | None,
    *,
    source: str = SOURCE,
    entry_point: str = "first",
    headers: Mapping[str, str] = HEADERS,
    float_mode: Literal["reproducible", "fast"] = "reproducible",
    name: str = "kernel.cu",
) -> CompiledCode:
    return compile_source(
        source,
        entry_point=entry_point,
        target=target,
        headers=headers,
        float_mode=float_mode,
        name=name,
        cache=cache,
    )


@BOTH
def test_the_second_time_no_compiler_runs(
    target: CompileTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same code comes from the cache, also for another kernel of it."""
    cache = CompileCache(tmp_path)
    made = _compile(target, cache)
    monkeypatch.delattr(clang, "compile_to_ptx")
    monkeypatch.delattr(nvrtc, "compile_to_cubin")
    again = _compile(target, cache)
    assert (made.cached, again.cached) == (False, True)
    assert again == made
    assert made.format == ("ptx" if target.is_host else "cubin")
    assert _compile(target, cache, entry_point="second").code == made.code


@BOTH
def test_a_damaged_entry_is_compiled_again(target: CompileTarget, tmp_path: Path) -> None:
    """One changed byte of the cache changes nothing but the time it takes."""
    cache = CompileCache(tmp_path)
    made = _compile(target, cache)
    (path,) = tmp_path.iterdir()
    entry = bytearray(path.read_bytes())
    entry[-1] ^= 1
    path.write_bytes(entry)
    again = _compile(target, cache)
    assert not again.cached
    assert again == made
    assert _compile(target, cache).cached


@BOTH
def test_the_digest_covers_all_that_matters(
    target: CompileTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of source, header, mode, name, compiler or target is another digest."""
    made = [
        _compile(target, None),
        _compile(target, None, source=SOURCE + "\n"),
        _compile(target, None, headers={"mine.cuh": "constexpr int N = 4;\n"}),
        _compile(target, None, headers={**HEADERS, "other.cuh": ""}),
        _compile(target, None, float_mode="fast"),
        _compile(target, None, name="other.cu"),
        _compile(CompileTarget("sm_90"), None),
    ]
    if target.is_host:
        found = attrs.evolve(clang.find_clang(), version="another")
        monkeypatch.setattr(clang, "find_clang", lambda: found)
    else:
        monkeypatch.setattr(nvrtc, "nvrtc_version", lambda: "another")
    made.append(_compile(target, None))
    assert len({code.source_digest for code in made}) == len(made)


def test_a_changed_shipped_header_is_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new ringflow does not run code that an old one's headers made."""
    from ringflow.device.compiler import api

    before = [_compile(target, None).source_digest for target in (HOST, SM_80)]
    monkeypatch.setattr(api, "shipped_headers", lambda: {"new.cuh": ""})
    after = [_compile(target, None).source_digest for target in (HOST, SM_80)]
    assert not set(before) & set(after)


@BOTH
def test_a_missing_kernel_is_refused_also_from_the_cache(
    target: CompileTarget, tmp_path: Path
) -> None:
    """The error names the kernels that there are."""
    cache = CompileCache(tmp_path)
    for _ in range(2):
        with pytest.raises(EntryPointError, match=r"no kernel 'third' .* it has: .*second"):
            _compile(target, cache, entry_point="third")


@BOTH
def test_refused_source_is_not_kept(target: CompileTarget, tmp_path: Path) -> None:
    """An error leaves no entry, and says file, line and column each time."""
    cache = CompileCache(tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(CompileError) as caught:
            _compile(target, cache, source="\n__device__ int f() { return n; }\n", name="my.cu")
        assert caught.value.log.startswith("my.cu:2:29: error: ")
    assert cache.statistics().entry_count == 0


@BOTH
@pytest.mark.parametrize(
    "include", ['#include "/etc/hostname"', "  # include <a/../../b.h>", '#embed "../x"']
)
def test_includes_by_path_are_refused(target: CompileTarget, include: str) -> None:
    """The digest does not cover such files: the cache would hand out old code."""
    with pytest.raises(CompileError, match=r"kernel\.cu:2:1: error: an include by a path"):
        _compile(target, None, source=f"\n{include}\n{SOURCE}")
    with pytest.raises(CompileError, match=r"mine\.cuh:1:1: error: an include by a path"):
        _compile(target, None, headers={"mine.cuh": include})


@pytest.mark.parametrize("name", ["", "cuda:0", "compute_80", "sm_", "sm_80x", "HOST"])
def test_a_target_is_the_host_or_an_exact_architecture(name: str) -> None:
    """Anything else is refused when it is named."""
    with pytest.raises(SpecError, match="neither 'host' nor"):
        CompileTarget(name)


@pytest.mark.parametrize(("format", "target"), [("ptx", "sm_80"), ("cubin", "host")])
def test_neither_front_ends_code_goes_to_the_others_device(
    format: Literal["ptx", "cubin"], target: str
) -> None:
    """clang's PTX is wrong on a GPU, NVRTC's output may not be translated: no such value exists."""
    with pytest.raises(SpecError, match="compile the source for that target"):
        CompiledCode(format=format, target=target, code=b"", entry_point="k", source_digest="")


def test_a_users_own_ptx_is_taken_for_the_host() -> None:
    """It needs no compiler, and has to have the kernel."""
    text = _compile(HOST, None).code.decode()
    code = code_from_ptx(text, entry_point="second")
    assert (code.format, code.target, code.code) == ("ptx", "host", text.encode())
    with pytest.raises(EntryPointError, match="it has: first, second"):
        code_from_ptx(text, entry_point="third")


def test_a_missing_front_end_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user reads which extra to install."""

    def nothing() -> None:
        raise DeviceError("pip install 'ringflow[host]'")

    monkeypatch.setattr(clang, "find_clang", nothing)
    with pytest.raises(DeviceError, match="pip install"):
        _compile(HOST, None)


def _loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_compiling_for_the_host_loads_nothing_of_cuda() -> None:
    """The host's path works where cuda-python is not installed, and never meets NVRTC."""
    modules = _loaded_after(
        "from ringflow.device.compiler.api import HOST, compile_source\n"
        "compile_source('extern \"C\" __global__ void k() {}', "
        "entry_point='k', target=HOST, cache=None)"
    )
    assert "ringflow.device.compiler.clang" in modules
    assert not {name for name in modules if name.split(".")[0] in ("cuda", "llvmlite", "numpy")}
    assert "ringflow.device.compiler.nvrtc" not in modules


def _names_in(path: Path) -> set[str]:
    """Return every name, attribute, string and imported module in a Python file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                names.add(name)
            case ast.ImportFrom(module=str(name)) | ast.Constant(value=str(name)):
                names.add(name)
    return names


def test_nvrtc_gives_cubins_only() -> None:
    """The licence rule: no call of the module can bring out PTX or another portable form."""
    used = {name for name in _names_in(Path(nvrtc.__file__)) if name.startswith("nvrtcGet")}
    assert used == {"nvrtcGetProgramLog", "nvrtcGetCUBIN", "nvrtcGetSupportedArchs"}


def test_no_other_file_reaches_nvrtc() -> None:
    """The licence rule: only ``compile_source`` imports it; the host's translator never does."""
    package = Path(ringflow.__file__).parent
    compiler = package / "device" / "compiler"
    cuda = package / "device" / "cuda"
    importers = {
        path
        for path in package.rglob("*.py")
        if any("nvrtc" in name.lower().split(" ")[0] for name in _names_in(path))
        and not path.is_relative_to(cuda)
    }
    # These two ask whether it is there, and compile nothing.
    asking = (package / "cli" / f"{name}.py" for name in ("checks", "devices"))
    assert importers == {*asking, *(compiler / f"{name}.py" for name in ("api", "check", "nvrtc"))}
    said = {name for name in _names_in(compiler / "check.py") if "nvrtc" in name.lower()}
    names = {name for name in said if " " not in name}
    assert names == {"nvrtc", "ringflow.device.compiler.nvrtc"}, "a word, and why it is not there"
