"""clang as the host's front end: what it gives, how it fails, and what it must not see."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ringflow.device.compiler import clang
from ringflow.device.compiler.clang import ClangProgram, compile_to_ptx, find_clang
from ringflow.errors import CompileError, DeviceError

SCALE = """extern "C" __global__ void scale(float* data, float factor) {
  data[threadIdx.x] = data[threadIdx.x] * factor + 1.0f;
}
"""


def test_a_kernel_becomes_ptx() -> None:
    """The result is the text of an entry, with no word from the compiler."""
    ptx, log = compile_to_ptx(SCALE)
    assert ".visible .entry scale(" in ptx
    assert ".target sm_80" in ptx
    assert log == ""


def test_only_fast_mode_fuses() -> None:
    """Reproducible code multiplies, then adds; fast code may do both at once."""
    reproducible, _ = compile_to_ptx(SCALE)
    fast, _ = compile_to_ptx(SCALE, float_mode="fast")
    assert "mul.rn.f32" in reproducible
    assert "fma" not in reproducible
    assert "fma.rn.f32" in fast


def test_an_error_names_the_users_file_line_and_column() -> None:
    """Positions are those of the user's text, not of what stands around it."""
    source = '\nextern "C" __global__ void k(int* p) {\n  *p = missing;\n}\n'
    with pytest.raises(CompileError) as caught:
        compile_to_ptx(source, name='wave "1".cu')
    assert caught.value.log.startswith('wave "1".cu:3:8: error: ')


def test_an_error_in_a_header_names_the_header_alone() -> None:
    """A given header is called by its name; the folder where it lay for a moment is not shown."""
    headers = {"parts/mine.cuh": "\nint wrong = nothing;\n"}
    with pytest.raises(CompileError) as caught:
        compile_to_ptx("#include <parts/mine.cuh>\n", headers=headers)
    assert "\nparts/mine.cuh:2:13: error: " in caught.value.log


def test_a_warning_is_in_the_log() -> None:
    """What clang says about good code is handed over."""
    _, log = compile_to_ptx('#warning "look here"\n' + SCALE)
    assert log.startswith("kernel.cu:1:2: warning: ")


def test_extra_flags_come_last() -> None:
    """A caller's flags win over the usual ones."""
    ptx, _ = compile_to_ptx(SCALE, extra_flags=["-ffp-contract=fast"])
    assert "fma.rn.f32" in ptx


@pytest.mark.parametrize("include", ["<vector>", "<stdio.h>", '"pyproject.toml"'])
def test_headers_of_the_machine_are_not_seen(include: str) -> None:
    """The result cannot depend on what is installed, or on the folder one stands in."""
    with pytest.raises(CompileError, match="file not found"):
        compile_to_ptx(f"#include {include}\n")


def test_no_home_and_an_empty_environment_suffice(tmp_path: Path) -> None:
    """A service without HOME and PATH compiles, from a folder that it cannot write."""
    here = tmp_path / "here"
    here.mkdir()
    here.chmod(0o500)
    code = (
        "from ringflow.device.compiler.clang import compile_to_ptx\n"
        f"print(compile_to_ptx({SCALE!r})[0])"
    )
    package = Path(clang.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=here,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ".entry scale(" in done.stdout
    assert list(here.iterdir()) == []


def test_the_callers_environment_does_not_reach_clang(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Variables that change what a compiler does change nothing."""
    (tmp_path / "sneaky.h").write_text("")
    monkeypatch.setenv("CPATH", str(tmp_path))
    monkeypatch.setenv("CPLUS_INCLUDE_PATH", str(tmp_path))
    monkeypatch.setenv("CCC_OVERRIDE_OPTIONS", "+-O0")
    assert compile_to_ptx(SCALE)[0] == _plain_ptx()
    with pytest.raises(CompileError):
        compile_to_ptx("#include <sneaky.h>\n")


def _plain_ptx() -> str:
    with pytest.MonkeyPatch.context() as patch:
        for variable in list(os.environ):
            patch.delenv(variable)
        return compile_to_ptx(SCALE)[0]


def test_dates_do_not_enter_the_code() -> None:
    """The same source gives the same code tomorrow."""
    ptx, _ = compile_to_ptx("__device__ const char* day() { return __DATE__; }\n" + SCALE)
    again, _ = compile_to_ptx('__device__ const char* day() { return "Jan  1 1970"; }\n' + SCALE)
    assert ptx == again


def test_eight_at_once_give_the_same() -> None:
    """Compiles side by side share nothing that one could spoil for another."""
    headers = {"factor.cuh": "constexpr int FACTOR = 3;\n"}
    source = "#include <factor.cuh>\n" + SCALE
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: compile_to_ptx(source, headers=headers)[0], range(8)))
    assert len(set(results)) == 1
    assert ".entry scale(" in results[0]


def test_a_compile_past_its_deadline_is_killed() -> None:
    """Source that takes for ever ends in an error, and no process stays."""
    endless = "template <int N> struct F { F<N + 1> next; };\n" + "".join(
        f"__device__ float f{n}(float x) {{ return sinf(x) + {n}.0f; }}\n" for n in range(40_000)
    )
    with pytest.raises(CompileError, match=r"no result within 0\.1 s"):
        compile_to_ptx(endless + SCALE, deadline_s=0.1)


def test_without_any_clang_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither ziglang nor a clang: the message is the command that helps."""
    monkeypatch.setattr(clang, "_ziglang", lambda: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DeviceError, match=r"pip install 'ringflow\[host\]'"):
        find_clang.__wrapped__()


def _put_clang(folder: Path, name: str, version_line: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{version_line}'\n")
    path.chmod(0o755)
    return path


def test_a_system_clang_serves_where_ziglang_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An old clang and Apple's are passed over for one that has what is needed."""
    _put_clang(tmp_path, "clang", "Apple clang version 21.0.0")
    good = _put_clang(tmp_path, "clang-19", "Debian clang version 19.1.7 (3)")
    _put_clang(tmp_path, "clang-18", "Debian clang version 18.1.8")
    monkeypatch.setattr(clang, "_ziglang", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_clang.__wrapped__() == ClangProgram((str(good),), "clang version 19.1.7")


def test_an_old_system_clang_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A clang without the PTX version that is asked for is as good as none."""
    _put_clang(tmp_path, "clang", "clang version 17.0.6")
    monkeypatch.setattr(clang, "_ziglang", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="18 or newer"):
        find_clang.__wrapped__()


def test_a_clang_that_vanished_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that was there when it was found, and is not any more."""
    assert shutil.which("no-such-clang") is None
    monkeypatch.setattr(clang, "find_clang", lambda: ClangProgram(("/no-such-clang",), "none"))
    with pytest.raises(DeviceError, match="cannot run /no-such-clang"):
        compile_to_ptx(SCALE)
