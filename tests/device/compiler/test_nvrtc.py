"""NVRTC as the GPUs' front end: cubins with no driver, positions with columns, a deadline."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest

from ringflow.device.compiler.entries import cubin_kernels
from ringflow.device.compiler.nvrtc import compile_to_cubin, nvrtc_version
from ringflow.errors import CompileError, DeviceError


def _kernel(expression: str) -> str:
    return f'extern "C" __global__ void k(float* p) {{ p[0] = {expression}; }}\n'


def _cubin(expression: str, float_mode: Literal["reproducible", "fast"] = "reproducible") -> bytes:
    return compile_to_cubin(_kernel(expression), architecture="sm_80", float_mode=float_mode)[0]


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_90a", "sm_100"])
def test_a_kernel_becomes_a_cubin_without_a_driver(architecture: str) -> None:
    """Each architecture gives an ELF file that has the kernel."""
    cubin, log = compile_to_cubin(_kernel("p[1]"), architecture=architecture)
    assert cubin_kernels(cubin) == ("k",)
    assert log == ""


def test_offsets_need_no_builtin_of_newer_compilers() -> None:
    """NVRTC 13.0, which PyTorch installs, has none; the shipped headers are full of them."""
    source = """
    #include <cstddef>
    #ifndef __builtin_offsetof
    #error it is the compiler's own
    #endif
    struct Inner { char a; short b[3]; };
    struct Outer { char a; Inner inner; double d; };
    static_assert(__builtin_offsetof(Outer, d) == 16, "d");
    static_assert(offsetof(Outer, inner.b[2]) == 8, "b");
    """
    compile_to_cubin(source + _kernel("1"), architecture="sm_90")


def test_only_fast_mode_fuses() -> None:
    """Reproducible code is that of a multiplication and an addition that may not be fused."""
    apart = _cubin("__fadd_rn(__fmul_rn(p[1], p[2]), p[3])")
    assert _cubin("p[1] * p[2] + p[3]") == apart
    assert _cubin("p[1] * p[2] + p[3]", "fast") != apart


def test_an_error_names_file_line_and_column() -> None:
    """NVRTC itself gives no column: it is where its caret points."""
    with pytest.raises(CompileError) as caught:
        compile_to_cubin(
            "\n\n  " + _kernel("  missing"), architecture="sm_80", name="my (1) wave.cu"
        )
    assert caught.value.log.startswith("my (1) wave.cu:3:53: error: ")


def test_every_message_of_a_log_has_its_column() -> None:
    """Warnings and errors after the first are rewritten too, and nothing is lost."""
    source = "__device__ int f() {}\n" + _kernel("a") + "  " + _kernel("b").replace(" k(", " l(")
    with pytest.raises(CompileError) as caught:
        compile_to_cubin(source, architecture="sm_80")
    lines = caught.value.log.splitlines()
    heads = [line.split(": ")[:2] for line in lines if line.startswith("kernel.cu:")]
    assert ["kernel.cu:2:49", "error"] in heads
    assert ["kernel.cu:3:51", "error"] in heads
    assert any(kind.startswith("warning") for _, kind in heads)
    assert not any(line.startswith("kernel.cu(") for line in lines)


def test_given_headers_are_found() -> None:
    """By name, in folders too, and before the shipped ones."""
    headers = {"parts/mine.cuh": "constexpr int N = 4;\n", "float.h": "constexpr int M = 5;\n"}
    source = "#include <parts/mine.cuh>\n#include <float.h>\nstatic_assert(N + M == 9);\n"
    compile_to_cubin(source, architecture="sm_80", headers=headers)


def test_a_compile_past_its_deadline_is_stopped() -> None:
    """NVRTC runs in this process: it is asked to stop, and does."""
    body = "".join(f"p[{n}] = sinf(p[{n + 1}]) + powf(p[{n}], 3.1f);" for n in range(300))
    source = f'extern "C" __global__ void k(float* p) {{ {body} }}\n'
    with pytest.raises(CompileError, match=r"no result within 0\.05 s"):
        compile_to_cubin(source, architecture="sm_80", deadline_s=0.05)


@pytest.mark.parametrize("architecture", ["compute_80", "sm_80 ", "host", "", "80", "sm_"])
def test_only_exact_architectures_are_taken(architecture: str) -> None:
    """A virtual architecture would give PTX."""
    with pytest.raises(DeviceError, match="not an exact one"):
        compile_to_cubin(_kernel("1"), architecture=architecture)


def test_an_unknown_architecture_is_a_device_error() -> None:
    """It is the compiler that is too old or too new, not the source that is wrong."""
    with pytest.raises(DeviceError, match="cannot compile for sm_12345") as caught:
        compile_to_cubin(_kernel("1"), architecture="sm_12345")
    assert not isinstance(caught.value, CompileError)


def test_compiles_side_by_side_do_not_mix() -> None:
    """Worker threads compile different kernels at once."""
    with ThreadPoolExecutor(4) as pool:
        cubins = list(pool.map(lambda n: _cubin(f"{n}.0f"), range(4)))
    assert cubins == [_cubin(f"{n}.0f") for n in range(4)]
    assert len(set(cubins)) == 4


def test_without_nvrtc_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cuda-python, or no library behind it: the message is the command that helps."""
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(DeviceError, match=r"pip install 'ringflow\[cuda13\]'"):
        nvrtc_version()
