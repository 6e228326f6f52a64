"""The tables of docs/cuda-names.md, held to the two compilers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.compiler.headers import cuda_names_texts, shipped_headers
from ringflow.device.compiler.nvrtc import compile_to_cubin
from ringflow.errors import CompileError

TEXT: Final = (Path(__file__).parents[3] / "docs" / "cuda-names.md").read_text(encoding="utf-8")
NO_NAMES: Final = ("extern", "_block", "_system", "ll")
EXPRESSIONS: Final = {
    **{name: f"{name}(f[1])" for name in ("erfinvf", "erfcinvf", "erfcxf", "normcdfinvf")},
    **{name: f"{name}(f[1])" for name in ("j0f", "y0f", "cyl_bessel_i0f")},
    "normf": "normf(3, f)",
    "remquof": "remquof(f[1], f[2], i)",
    "__viaddmax_s32": "__viaddmax_s32(i[1], i[2], i[3])",
    "__vimax3_s32": "__vimax3_s32(i[1], i[2], i[3])",
    "atomicAdd": "atomicAdd(reinterpret_cast<float2*>(f), make_float2(1, 2)).x",
    "malloc": "malloc(16) != nullptr",
    "free": "1; free(f)",
    "__prof_trigger": "1; __prof_trigger(1)",
    "__CUDACC_RTC__": "__CUDACC_RTC__",
    "__CUDACC_VER_MAJOR__": "__CUDACC_VER_MAJOR__",
}


def _section(title: str) -> str:
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def _names(column: int, text: str) -> list[str]:
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row[column])]


NAMES: Final = sorted(set(_names(1, _section("What there is"))) - {*NO_NAMES})


def test_the_tables_are_read() -> None:
    """Neither is empty by a changed title."""
    assert len(NAMES) > 150
    assert {"warpSize", "__dp4a", "printf", "exp10"} <= set(NAMES)


def test_every_given_name_is_known_to_both() -> None:
    """A name that is a macro or a keyword is there; any other one can be named in an expression."""
    keywords = {name for name in NAMES if name.startswith("__") and name.endswith("__")}
    plain = [name for name in NAMES if name not in keywords and re.fullmatch(r"\w+", name)]
    types = {"dim3", "char1", "ulonglong4", "float1", "double4"}
    values = {"threadIdx", "blockIdx", "blockDim", "gridDim", "warpSize"}
    functions = [n for n in plain if n not in {*types, *values, "assert", "inline"}]
    lines = "".join(f"using ::{name};\n" for name in functions)
    source = (
        f"namespace everything {{\n{lines}}}\n" + 'extern "C" __global__ void k(unsigned* u) {\n'
    )
    source += "".join(f"{name} v_{name}; (void)v_{name};\n" for name in sorted(types))
    source += "u[0] = threadIdx.x + blockIdx.x + blockDim.x + gridDim.x + warpSize;\n}\n"
    compile_to_ptx(source)
    compile_to_cubin(source, architecture="sm_90")


@pytest.mark.parametrize("name", _names(0, _section("What only NVRTC takes")))
def test_what_only_nvrtc_takes(name: str) -> None:
    """clang refuses it, NVRTC does not; each name of the table has its expression here."""
    if name in ("float2", "float4"):
        return
    source = f"""extern "C" __global__ void k(float* f, int* i) {{ f[0] = {EXPRESSIONS[name]}; }}"""
    with pytest.raises(CompileError):
        compile_to_ptx(source)
    compile_to_cubin(source, architecture="sm_90")


@pytest.mark.parametrize(
    "statement",
    [
        "f[0] = _Float16(f[1])",
        "i[0] = __builtin_popcount(i[1])",
        "auto g = [=] __device__ { return 1; }; i[0] = g()",
        "f[0] = __ldg(reinterpret_cast<float3*>(f)).x",
    ],
)
def test_what_only_clang_takes(statement: str) -> None:
    """NVRTC refuses it."""
    source = f"""extern "C" __global__ void k(float* f, int* i) {{ {statement}; }}"""
    compile_to_ptx(source)
    with pytest.raises(CompileError):
        compile_to_cubin(source, architecture="sm_90")


def test_every_header_that_is_named_is_shipped() -> None:
    """And every shipped one is named."""
    named = re.search(r"Headers that both compilers find: (.*)", TEXT)
    assert named is not None
    found = set(re.findall(r"`<([^>]+)>`", named[1]))
    assert found == set(shipped_headers())


def test_the_parts_of_the_names_are_clangs_alone() -> None:
    """NVRTC is handed none of them; a changed part is another digest."""
    assert len(cuda_names_texts()) > 3
    assert not any("cuda_names" in name for name in shipped_headers())
