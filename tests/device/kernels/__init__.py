"""Kernels of the device tests: compiled once a process for each target, and loaded."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from ringflow.code_source import KernelCodeSource
from ringflow.device.api import Device
from ringflow.device.compiler.api import HOST, CompiledCode, CompileTarget, compile_source
from ringflow.device.resident import ResidentKernel
from ringflow.spec import Argument, Dim3, KernelSpec, Region

FOLDER = Path(__file__).parent
LARGE_CELLS = 200 * 16384 + 5  # 200 blocks of 64 KiB and a piece
REGIONS: dict[str, list[tuple[str, str, tuple[int, ...]]]] = {
    "arrays": [("latch", "uint32", (1,))],
    "echo": [],
    "silent": [],
    "whole": [],
    "timed": [],
    "greeting": [],
    "counter": [("total", "uint64", (2,)), ("saved", "uint64", (1,))],
    "sweep": [("field", "uint32", (1000,)), ("next", "uint32", (1000,)), ("sums", "uint64", (1,))],
    "trouble": [("stop", "uint32", (16,))],
    "free": [("steps", "uint64", (1,))],
    "ticker": [("ticks", "uint64", (1,))],
    "marker": [("large", "uint32", (LARGE_CELLS,)), ("small", "uint32", (16,))],
}
ENTRY_POINTS = {"free": "free_running"}
ARGUMENTS = {
    "sweep": [Argument("length", "uint32", np.uint32(1000).tobytes())],
    "marker": [Argument("length", "uint32", np.uint32(LARGE_CELLS).tobytes())],
}


def source(name: str) -> str:
    return (FOLDER / f"{name}.cu").read_text(encoding="utf-8")


def spec(name: str, *, block: Dim3 = (32, 1, 1), **changes: Any) -> KernelSpec:
    """Return the spec of a test kernel."""
    entry_point = ENTRY_POINTS.get(name, name)
    return KernelSpec(
        kernel_id=name,
        kernel_type=name,
        code=KernelCodeSource.from_cuda(source(name), entry_point),
        regions=[Region(n, dtype=d, shape=s) for n, d, s in REGIONS[name]],
        arguments=ARGUMENTS.get(name, []),
        block=block,
        **changes,
    )


@functools.cache
def compiled(name: str, target: CompileTarget = HOST) -> CompiledCode:
    """Return a test kernel as a device's code, by default clang's PTX."""
    return compile_source(
        source(name),
        entry_point=ENTRY_POINTS.get(name, name),
        target=target,
        name=f"{name}.cu",
        cache=None,
    )


def resident(
    device: Device,
    name: str,
    *,
    grid: Dim3 = (1, 1, 1),
    block: Dim3 = (32, 1, 1),
    base_sequence: int = 0,
    epoch: int = 1,
    **changes: Any,
) -> ResidentKernel:
    """Return a test kernel on a device, not yet launched."""
    return ResidentKernel(
        device,
        device.load(compiled(name, device.target)),
        spec(name, block=block, **changes),
        grid=grid,
        base_sequence=base_sequence,
        epoch=epoch,
    )
