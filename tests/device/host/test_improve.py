"""Code that is replaced while it runs: quick at first, optimised soon, the same all along."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import numpy as np
import pytest

from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.host import improve, translate
from ringflow.device.host.jit import ObjectCache
from tests.device.host.programs import cuda, run, start

SOURCE = r"""
extern "C" __global__ void relax(float* cells, int n, int rounds) {
    __shared__ float border[2];
    for (int round = 0; round < rounds; ++round) {
        if (threadIdx.x == 0) { border[0] = cells[0]; border[1] = cells[n - 1]; }
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += blockDim.x)
            cells[i] = cells[i] * 0.5f + (i & 1 ? border[0] : border[1]);
        __syncthreads();
    }
}
"""
WITH_GLOBAL = 'extern "C" { __device__ int count; __global__ void tick() { ++count; } }'


def ptx_of(source: str) -> str:
    return compile_to_ptx(source, name="test.cu")[0]


def assert_opens(gate: threading.Event) -> None:
    assert gate.wait(60)


def runs_of(program: translate.Program) -> list[int]:
    """Return the regions' functions as the runtime finds them."""
    address = program._code.variable("runs.relax")
    count = program.entries["relax"].region_count
    return list((ctypes.c_uint64 * count).from_address(address))


def test_code_is_replaced_between_two_steps_of_a_running_grid() -> None:
    """State and resume points mean the same in both, so the result has the same bits."""
    expected = np.linspace(0, 1, 300, dtype=np.float32)
    run(cuda(SOURCE), "relax", 1, 64, expected, 300, 40)
    program = translate.translate(ptx_of(SOURCE), background=True)
    cells = np.linspace(0, 1, 300, dtype=np.float32)
    grid = start(program, "relax", 1, 64, cells, 300, 40)
    for _ in range(20):
        grid.round(1)
    assert not grid.done
    assert improve.wait_idle(60)
    while not grid.done:
        grid.round(1)
    assert cells.tobytes() == expected.tobytes()


def test_the_regions_functions_are_others_afterwards() -> None:
    """Otherwise the test above would prove nothing."""
    gate = threading.Event()
    improve.improve(lambda: assert_opens(gate))
    program = translate.translate(ptx_of(SOURCE), background=True)
    quick = runs_of(program)
    gate.set()
    assert improve.wait_idle(60)
    assert program._better is not None
    assert not set(quick) & set(runs_of(program))


def test_the_optimised_code_is_what_the_cache_keeps(tmp_path: Path) -> None:
    """A later load gets it at once."""
    cache = ObjectCache(tmp_path)
    translate.translate(ptx_of(SOURCE), cache=cache, background=True)
    assert improve.wait_idle(60)
    again = translate.translate(ptx_of(SOURCE), cache=cache, background=True)
    assert again.cached
    assert again._better is None


def test_code_with_globals_of_its_own_is_compiled_once() -> None:
    """Two copies of a variable would be two variables."""
    program = translate.translate(ptx_of(WITH_GLOBAL), background=True)
    assert improve.wait_idle(60)
    assert program._better is None
    run(program, "tick", 3, 1)
    assert ctypes.c_int.from_address(program.globals["count"].address).value == 3


def test_a_failing_job_does_not_stop_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that it was raised in ends; the queue goes on with another."""
    raised: list[object] = []
    monkeypatch.setattr("threading.excepthook", lambda args: raised.append(args.exc_value))

    def fail() -> None:
        raise ValueError("no")

    done: list[int] = []
    improve.improve(fail)
    assert improve.wait_idle(10)
    improve.improve(lambda: done.append(1))
    assert improve.wait_idle(10)
    assert (done, [str(error) for error in raised]) == ([1], ["no"])
