"""Compile, translate and run small programs."""

from __future__ import annotations

import ctypes
import functools
import struct

import numpy as np

from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.host.program import Program
from ringflow.device.host.runner import Dimensions, Grid, open_grid, pack_parameters, run_grid
from ringflow.device.host.translate import translate

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"


@functools.cache
def cuda(source: str, *, preempt: bool = True) -> Program:
    """Return the program of CUDA C++ text."""
    ptx, _ = compile_to_ptx(source, name="test.cu")
    return translate(ptx, preempt=preempt)


def value_bytes(value: Array | np.generic | int | float) -> bytes:
    """Return a parameter's bytes: arrays by address, numpy's scalars, int as i32, float as f32."""
    if isinstance(value, np.ndarray):
        return struct.pack("<Q", value.ctypes.data)
    if isinstance(value, np.generic):
        return bytes(value.tobytes())
    return struct.pack("<i", value) if isinstance(value, int) else struct.pack("<f", value)


def parameters(program: Program, entry: str, *values: Array | np.generic | int | float) -> bytes:
    return pack_parameters(program, entry, *map(value_bytes, values))


def run(
    program: Program,
    entry: str,
    grid: int | Dimensions,
    block: int | Dimensions,
    *values: Array | np.generic | int | float,
    shared_bytes: int = 0,
    budget: int = 64,
) -> None:
    """Run a kernel to its end."""
    grid = (grid, 1, 1) if isinstance(grid, int) else grid
    block = (block, 1, 1) if isinstance(block, int) else block
    packed = parameters(program, entry, *values)
    run_grid(program, entry, grid, block, packed, shared_bytes, budget=budget)


def start(program: Program, entry: str, grid: int, block: int, *values: Array | int) -> Grid:
    """Return a grid that has not run yet."""
    packed = parameters(program, entry, *values)
    return open_grid(program, entry, (grid, 1, 1), (block, 1, 1), packed)


def plain(body: str, *, registers: str = "") -> Program:
    """Return a module with ``run(out, a, b, c)``, all 64-bit; out points to 64-bit words."""
    text = f"""{HEAD}
.visible .func run(.param .b64 out, .param .b64 a, .param .b64 b, .param .b64 c)
{{
    .reg .b64 %out, %a, %b, %c, %d;
    .reg .b32 %wa, %wb, %wc, %w;
    .reg .b16 %ha, %hb, %h;
    .reg .pred %p, %q;
    {registers}
    ld.param.b64 %out, [out];
    ld.param.b64 %a, [a];
    ld.param.b64 %b, [b];
    ld.param.b64 %c, [c];
    cvt.u32.u64 %wa, %a;
    cvt.u32.u64 %wb, %b;
    cvt.u32.u64 %wc, %c;
    cvt.u16.u64 %ha, %a;
    cvt.u16.u64 %hb, %b;
    {body}
    ret;
}}
"""
    return translate(text)


_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)


def call(program: Program, count: int, a: int, b: int, c: int) -> list[int]:
    """Call ``run`` and return the words it wrote."""
    out = np.zeros(count, np.uint64)
    mask = (1 << 64) - 1
    _RUN(program.function("run"))(out.ctypes.data, a & mask, b & mask, c & mask)
    return [int(word) for word in out]
