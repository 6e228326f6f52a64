"""The variables of a cubin: which are state, and that what is known of them stays with the code."""

from __future__ import annotations

import pytest

from ringflow.device.compiler import clang
from ringflow.device.compiler.api import CompileTarget, compile_source
from ringflow.device.compiler.entries import cubin_kernels, cubin_variables
from ringflow.device.compiler.nvrtc import compile_to_cubin
from ringflow.device.compiler.state import CodeState, CodeVariable, split_state, with_state
from ringflow.errors import CorruptError

TARGET = CompileTarget("sm_90")
SOURCE = """
__device__ float table[4] = {1, 2, 3, 4};
__constant__ int constants[4] = {1, 2, 3, 4};
static __device__ int hidden = 3;
namespace ns { __device__ unsigned deep[2]; namespace { __device__ int anonymous; } }
extern "C" __global__ void k(int* out, int i) {
    static __device__ int calls;
    if (i < 0) printf("%d of %s\\n", i, i < -1 ? "one" : "two");
    hidden += 1; ns::deep[1] += 2; ns::anonymous += 1; calls += 1;
    out[0] = table[i] + constants[i] + hidden + calls + ns::anonymous + ns::deep[1];
}
"""
NAMELESS = """
__device__ int real;
extern "C" __global__ void k(int i) {
    assert(i < 3);
    if (i < 0) printf("%s\\n", __func__);
    real += i;
}
"""
POINTER = """
__device__ int target; __device__ int* pointer;
extern "C" __global__ void k() { pointer = &target; *pointer = 3; }
"""


def state_of(source: str) -> CodeState:
    code = compile_source(source, entry_point="k", target=TARGET, cache=None)
    return split_state(code.code)[1]


def test_written_variables_are_state_and_tables_are_not() -> None:
    """Static, nested, anonymous and a function's own ones, under the names of the source."""
    state = state_of(SOURCE)
    assert state.unlisted == ""
    assert {one.name: one.size_bytes for one in state.variables} == {
        "hidden": 4,
        "ns::deep": 8,
        "ns::anonymous": 4,
        "k::calls": 4,
    }
    cubin, _ = compile_to_cubin(SOURCE, architecture="sm_90")
    variables = cubin_variables(cubin)
    assert {one.symbol for one in state.variables} < set(variables)
    assert variables["table"] == 16
    assert "constants" not in variables


def test_what_holds_addresses_is_unlisted() -> None:
    """It would point to nothing on another device."""
    assert "'pointer' holds the address of target" in state_of(POINTER).unlisted


def test_code_without_variables_needs_no_second_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """With variables, and no clang to tell them apart, the state is not listed."""
    monkeypatch.setattr(clang, "_ziglang", lambda: None)
    monkeypatch.setattr(clang, "_system_clang", lambda: None)
    clang.find_clang.cache_clear()
    try:
        assert state_of('extern "C" __global__ void k() {}') == CodeState()
        unlisted = state_of(SOURCE).unlisted
    finally:
        clang.find_clang.cache_clear()
    assert "hidden" in unlisted
    assert "only clang can tell" in unlisted


def test_what_the_compiler_names_is_no_variable() -> None:
    """``assert`` and ``__func__`` put constants there, beside a variable of the source."""
    cubin, _ = compile_to_cubin(NAMELESS, architecture="sm_90")
    assert cubin_variables(cubin) == {"real": 4}
    state = state_of(NAMELESS)
    assert (state.unlisted, [one.name for one in state.variables]) == ("", ["real"])


def test_a_note_goes_with_the_cubin_and_damage_is_told() -> None:
    """The cubin comes out as it went in, and its kernels are read with the note behind it."""
    cubin, _ = compile_to_cubin(SOURCE, architecture="sm_90")
    state = CodeState((CodeVariable("hidden", "hidden", "int32", 4),), "why")
    noted = with_state(cubin, state)
    assert split_state(noted) == (cubin, state)
    assert cubin_kernels(noted) == ("k",)
    assert "ns::deep" in split_state(cubin)[1].unlisted
    with pytest.raises(CorruptError, match="compile it again"):
        split_state(noted[: len(cubin)] + noted[len(cubin) + 1 :])
