"""Kernels and parameters read from PTX and cubins."""

from __future__ import annotations

import struct

import pytest

from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.compiler.entries import (
    ParameterInfo,
    cubin_kernels,
    entry_parameters,
    ptx_kernels,
)
from ringflow.device.compiler.nvrtc import compile_to_cubin
from ringflow.errors import CorruptError, EntryPointError

SOURCE = """
struct __align__(16) Pair { double a; char b; };
struct Three { char x[3]; };
__device__ __noinline__ int helper(int* p) { return p[1]; }
extern "C" __global__ void all(float* __restrict__ p, const int* q, Pair s, Three t, char c,
                               short h, unsigned n, long long l, double d) {
  p[0] = q[0] + s.a + t.x[1] + c + h + n + l + d;
}
extern "C" __global__ void none() {}
__global__ void mangled(int* p) { *p = helper(p); }
"""


def test_parameters_have_size_and_alignment() -> None:
    """Pointers, structs by value and narrow scalars, in their order."""
    ptx, _ = compile_to_ptx(SOURCE)
    sizes = [(p.size_bytes, p.alignment_bytes) for p in entry_parameters(ptx, "all")]
    assert sizes == [(8, 8), (8, 8), (16, 16), (3, 1), (1, 1), (2, 2), (4, 4), (8, 8), (8, 8)]
    assert entry_parameters(ptx, "none") == ()


def test_all_forms_of_a_parameter_are_read() -> None:
    """What other compilers write: pointers with a space, comments, several on a line."""
    ptx = """
    // .entry not_this(.param .u64 a)
    .visible .entry k ( .param .u64 .ptr .global .align 16 k_a, /* .param .u8 x, */ .param .f32 b,
        .param .align 4 .b8 c[12], .param .u64 .ptr d
    ) .maxntid 128 { ret; }
    .weak .entry w { ret; }
    """
    assert ptx_kernels(ptx) == ("k", "w")
    assert entry_parameters(ptx, "w") == ()
    assert entry_parameters(ptx, "k") == (
        ParameterInfo("k_a", 8, 8),
        ParameterInfo("b", 4, 4),
        ParameterInfo("c", 12, 4),
        ParameterInfo("d", 8, 8),
    )


def test_a_missing_kernel_is_named_with_those_there_are() -> None:
    """The error lists the kernels, and knows a mangled name when it sees one."""
    ptx, _ = compile_to_ptx(SOURCE)
    with pytest.raises(EntryPointError, match="it has: all, none, _Z7mangledPi; correct"):
        entry_parameters(ptx, "wave")
    with pytest.raises(EntryPointError, match='declare it extern "C" __global__ void mangled'):
        entry_parameters(ptx, "mangled")
    with pytest.raises(EntryPointError, match="it has: none; add"):
        entry_parameters("", "wave")


def test_a_cubin_lists_its_kernels_and_no_other_function() -> None:
    """Device functions are in the file too, but are not kernels."""
    cubin, _ = compile_to_cubin(SOURCE, architecture="sm_80")
    assert sorted(cubin_kernels(cubin)) == ["_Z7mangledPi", "all", "none"]


def test_a_cut_cubin_is_never_read_past_its_end() -> None:
    """A cut before the end of the sections' table is refused; later ones lose no name."""
    cubin, _ = compile_to_cubin(SOURCE, architecture="sm_80")
    (table_offset,) = struct.unpack_from("<Q", cubin, 40)
    for end in range(table_offset + 1):
        with pytest.raises(CorruptError):
            cubin_kernels(cubin[:end])
