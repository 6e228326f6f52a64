"""The part of ``benchmarks/host_device.py`` that computes: kernels against numpy and g++."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.host_kernels import BARRIERS, ONE_BLOCK, PRODUCT, STENCIL_CPP, persistent
from benchmarks.table import Row, at_least, at_most, median
from ringflow.code_source import KernelCodeSource
from ringflow.device.compiler.api import HOST, compile_source
from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.host.device import HostDevice
from ringflow.device.host.improve import wait_idle
from ringflow.device.host.program import Program
from ringflow.device.host.runner import Dimensions, open_grid, pack_parameters
from ringflow.device.host.translate import translate
from ringflow.device.posting import Posting
from ringflow.device.pump import Pump
from ringflow.device.resident import ResidentKernel
from ringflow.spec import Argument, KernelSpec, Region

Array = np.ndarray[Any, np.dtype[np.float32]]
Work = Callable[[], None]
CPP_FLAGS: Final = ("-O3", "-march=native", "-shared", "-fPIC")
FACTOR: Final = np.float32(0.2)
BUDGET: Final = 1 << 30
DEADLINE_S: Final = 60.0


def interleaved(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Time each piece of work once a round, after one round that doesn't count; in seconds."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def over(ours: list[float], peer: list[float]) -> float:
    """Return how many times as fast as the peer we are: the median of each round's ratio."""
    return median([theirs / mine for mine, theirs in zip(ours, peer, strict=True)])


# Kernels of one grid, in the calling thread


def program(source: str, *, preempt: bool = True, memcheck: bool = False) -> Program:
    """Return native code that is optimised already."""
    ptx, _ = compile_to_ptx(source, name="benchmark.cu")
    return translate(ptx, preempt=preempt, memcheck=memcheck)


def on_one_core(
    code: Program, entry: str, grid: Dimensions, block: Dimensions, *values: Array | int
) -> Work:
    """Return a piece of work that runs a grid in the calling thread."""
    packed = [
        struct.pack("<Q", value.ctypes.data)
        if isinstance(value, np.ndarray)
        else struct.pack("<i", value)
        for value in values
    ]
    parameters = pack_parameters(code, entry, *packed)

    def work() -> None:
        running = open_grid(code, entry, grid, block, parameters)
        while not running.done:
            running.round(BUDGET)

    return work


def cpp_library(source: str) -> ctypes.CDLL | None:
    """Compile C++ with g++, ``None`` where there is none."""
    if shutil.which("g++") is None:
        return None
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "peer.cpp"
        path.write_text(source, encoding="utf-8")
        made = path.with_suffix(".so")
        subprocess.run(["g++", *CPP_FLAGS, "-o", str(made), str(path)], check=True)
        return ctypes.CDLL(str(made))


def numpy_step(a: Array, b: Array) -> None:
    """One step as an expression, the way one writes it."""
    around = a[1:-1, :-2] + a[1:-1, 2:] + a[:-2, 1:-1] + a[2:, 1:-1]
    b[1:-1, 1:-1] = FACTOR * (a[1:-1, 1:-1] + around)


def numpy_out_step(a: Array, b: Array) -> None:
    """One step in place: numpy at its best."""
    sums = b[1:-1, 1:-1]
    np.add(a[1:-1, 1:-1], a[1:-1, :-2], out=sums)
    for part in (a[1:-1, 2:], a[:-2, 1:-1], a[2:, 1:-1]):
        np.add(sums, part, out=sums)
    np.multiply(sums, FACTOR, out=sums)


def repeated(step: Callable[[Array, Array], None], a: Array, b: Array, turns: int) -> Work:
    def work() -> None:
        source, target = a, b
        for _ in range(turns):
            step(source, target)
            source, target = target, source

    return work


def peers_of_stencil(a: Array, b: Array, turns: int) -> dict[str, Work]:
    """Return the same steps by numpy and, where installed, by g++ -O3."""
    works = {
        "numpy": repeated(numpy_step, a, b, turns),
        "numpy with out=": repeated(numpy_out_step, a, b, turns),
    }
    if (library := cpp_library(STENCIL_CPP)) is not None:
        pointers = [ctypes.c_void_p(field.ctypes.data) for field in (a, b)]
        ny, nx = a.shape
        works["g++ -O3"] = lambda: library.direct(*pointers, nx, ny, turns)
    return works


def cached_rows(*, quick: bool) -> list[Row]:
    """Steps of a field of 256 KiB by one block; what safety costs, on the same kernels."""
    turns, rounds, side = (3, 1, 258) if quick else (300, 9, 258)
    a = np.random.default_rng(1).random((side, side), np.float32)
    b = a.copy()
    works = peers_of_stencil(a, b, turns)
    forms = {
        "": program(ONE_BLOCK),
        ", not preempted": program(ONE_BLOCK, preempt=False),
        ", memcheck": program(ONE_BLOCK, memcheck=True),
    }
    for form, code in forms.items():
        for entry, threads in (("direct", side - 2), ("tiled", 256)):
            nx = side if entry == "direct" else 256
            arguments = (a, b, nx, side, turns)
            works[entry + form] = on_one_core(code, entry, (1, 1, 1), (threads, 1, 1), *arguments)
    times = interleaved(works, rounds)
    cells = {"tiled": 254 * 256 * turns}
    rows = []
    for name, taken in times.items():
        count = cells.get(name.split(",")[0], 256 * 256 * turns)
        rows.append(Row(f"stencil in cache: {name}", count / median(taken) / 1e6, "Mcells/s"))
    for entry, goal, share in (("direct", 4.0, 1.0), ("tiled", 1.3, 254 / 256)):
        ratio = share * over(times[entry], numpy_at_best(times))
        rows.append(at_least(f"stencil in cache, {entry}, over numpy", ratio, "times", goal))
    for entry in ("direct", "tiled"):
        preempted = over(times[f"{entry}, not preempted"], times[entry])
        checked = over(times[entry], times[f"{entry}, memcheck"])
        rows.append(Row(f"{entry}: time with preemption over without", preempted, "times"))
        rows.append(Row(f"{entry}: time with memcheck over without", checked, "times"))
    return rows


def numpy_at_best(times: Mapping[str, list[float]]) -> list[float]:
    """Return the faster form of each round."""
    pairs = zip(times["numpy"], times["numpy with out="], strict=True)
    return [min(pair) for pair in pairs]


def product_rows(*, quick: bool) -> list[Row]:
    """A tiled matrix product: 32×8 threads a block, four elements for each."""
    n, rounds = (64, 1) if quick else (512, 9)
    generator = np.random.default_rng(2)
    a, b = (generator.random((n, n), np.float32) for _ in range(2))
    c = np.zeros((n, n), np.float32)
    grid = (n // 32, n // 32, 1)
    works: dict[str, Work] = {
        "ours": on_one_core(program(PRODUCT), "product", grid, (32, 8, 1), a, b, c, n),
        "numpy": lambda: np.copyto(c, np.matmul(a, b)),
    }
    times = interleaved(works, rounds)
    operations = 2e-9 * n**3
    return [
        at_least(f"matrix product {n}²", operations / median(times["ours"]), "GFLOP/s", 5.0),
        Row("the same by numpy's BLAS", operations / median(times["numpy"]), "GFLOP/s"),
    ]


def barrier_rows(*, quick: bool) -> list[Row]:
    """Barriers of a block of 256 threads: all at one place, or at two."""
    turns, rounds, threads = (20, 1, 256) if quick else (2000, 9, 256)
    out = np.zeros(threads, np.float32)
    code = program(BARRIERS)
    works = {
        entry: on_one_core(code, entry, (1, 1, 1), (threads, 1, 1), out, turns)
        for entry in ("uniform", "halves", "neighbours")
    }
    each = {
        entry: 1e9 * median(taken) / turns / threads
        for entry, taken in interleaved(works, rounds).items()
    }
    return [
        at_most("barrier, a thread: uniform", each["uniform"], "ns", 1.0),
        at_most("barrier, a thread: divergent", each["halves"], "ns", 8.0),
        Row("barrier, a thread: all neighbours apart", each["neighbours"], "ns"),
    ]


# Persistent kernels, on one worker


def persistent_rows(*, quick: bool) -> list[Row]:
    """Steps of a field of 4 MiB, by messages to a kernel on one worker."""
    turns, rounds = (2, 1) if quick else (20, 9)
    rows: list[Row] = []
    for entry, blocks, goal in (("direct", 4, 1.3), ("tiled", 4, 1.0)):
        nx = 4 * 256 + 2 if entry == "direct" else 4 * 254 + 2
        ny = 1026
        a = np.random.default_rng(3).random((ny, nx), np.float32)
        device = HostDevice("host:0")
        kernel, pump = stencil_kernel(device, entry, (ny, nx), blocks), Pump()
        kernel.write_region("from", a.tobytes())
        kernel.write_region("to", a.tobytes())
        pump.register(kernel)
        works = peers_of_stencil(a, a.copy(), turns)
        works[entry] = steps_by_message(kernel, pump, turns)
        times = interleaved(works, rounds)
        cells = (nx - 2) * (ny - 2) * turns
        for name, taken in times.items():
            if name == entry or entry == "direct":
                rate = cells / median(taken) / 1e6
                rows.append(Row(f"persistent stencil, 1 M cells: {name}", rate, "Mcells/s"))
        ratio = over(times[entry], numpy_at_best(times))
        rows.append(at_least(f"persistent stencil, {entry}, over numpy", ratio, "times", goal))
        kernel.close()
        device.close()
    return rows


def stencil_kernel(
    device: HostDevice, entry: str, shape: tuple[int, int], blocks: int
) -> ResidentKernel:
    """Return a launched stencil kernel whose code is optimised."""
    source = persistent(entry)
    spec = KernelSpec(
        kernel_id=entry,
        kernel_type=entry,
        code=KernelCodeSource.from_cuda(source, entry),
        regions=[Region(name, dtype="float32", shape=shape) for name in ("from", "to")],
        arguments=[
            Argument(name, "int32", struct.pack("<i", value))
            for name, value in (("nx", shape[1]), ("ny", shape[0]))
        ],
        block=(256, 1, 1),
    )
    code = device.load(compile_source(source, entry_point=entry, target=HOST, cache=None))
    wait_idle(DEADLINE_S)
    kernel = ResidentKernel(device, code, spec, grid=(blocks, 1, 1), base_sequence=0, epoch=1)
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    return kernel


def steps_by_message(kernel: ResidentKernel, pump: Pump, turns: int) -> Work:
    """Return work that posts one message for many steps and waits until it is done."""

    def work() -> None:
        sequence = kernel.posted_sequence + 1
        kernel.post([Posting(sequence, 1, struct.pack("<I", turns))])
        while not any(report.done_sequence >= sequence for report in pump.wait(DEADLINE_S)):
            pass

    return work


def compute_rows(*, quick: bool) -> list[Row]:
    """Return all rows of this part."""
    return [
        *cached_rows(quick=quick),
        *persistent_rows(quick=quick),
        *product_rows(quick=quick),
        *barrier_rows(quick=quick),
    ]
