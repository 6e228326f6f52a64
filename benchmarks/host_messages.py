"""The part of ``benchmarks/host_device.py`` that sends: round trips, many messages, many kernels.

All at the level of the device, without an engine, journal or event loop, but for one row.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import anyio
import numpy as np

import ringflow
from benchmarks.host_kernels import ECHO, SINK
from benchmarks.table import Row, at_least, at_most, median
from ringflow.code_source import KernelCodeSource
from ringflow.device.abi import Command
from ringflow.device.api import LaunchStatus
from ringflow.device.compiler.api import HOST, CompiledCode, compile_source
from ringflow.device.host.device import HostDevice
from ringflow.device.host.improve import wait_idle
from ringflow.device.host.pool import shared_pool
from ringflow.device.native import native
from ringflow.device.native.layouts import REPORT
from ringflow.device.posting import Posting, encode_slots
from ringflow.device.pump import Pump
from ringflow.device.resident import ResidentKernel
from ringflow.device.slots import encode_array
from ringflow.spec import KernelSpec, Region

DEADLINE_S: Final = 60.0
BUFFER_BYTES: Final = 1 << 16
PAUSE_S: Final = 0.002
SECONDS: Final = 1e6


@ringflow.message(1)
class Add:
    """What ``sink`` adds to its total."""

    value: ringflow.u64


def compiled(name: str) -> CompiledCode:
    return compile_source(
        {"echo": ECHO, "sink": SINK}[name], entry_point=name, target=HOST, cache=None
    )


def spec_of(name: str, *, ring_slots: int, reply_slots: int) -> KernelSpec:
    """Return the spec of ``echo`` or ``sink``."""
    return KernelSpec(
        kernel_id=name,
        kernel_type=name,
        code=KernelCodeSource.from_cuda({"echo": ECHO, "sink": SINK}[name], name),
        messages=[Add] if name == "sink" else [],
        regions=[Region("total", dtype="uint64", shape=(1,))] if name == "sink" else [],
        block=(32, 1, 1),
        ring_slots=ring_slots,
        reply_slots=reply_slots,
        max_replies=1 if name == "echo" else 0,
        durability="volatile",
    )


def launched(
    device: HostDevice, name: str, *, ring_slots: int = 256, reply_slots: int = 256
) -> ResidentKernel:
    """Return a running kernel, on optimised code."""
    spec = spec_of(name, ring_slots=ring_slots, reply_slots=reply_slots)
    code = device.load(compiled(name))
    wait_idle(DEADLINE_S)
    kernel = ResidentKernel(device, code, spec, grid=(1, 1, 1), base_sequence=0, epoch=1)
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    return kernel


# One message


def trip_rows(*, quick: bool) -> list[Row]:
    """Time a message to its reply: by a worker that spins, by one asleep, by no worker.

    The first calls the pump's native functions; Python's objects for what they say come on top.
    The parked one is waited for by the pump, as an engine does, and includes its objects.
    """
    count = 20 if quick else 2000
    device = HostDevice("host:0")
    kernel = launched(device, "echo")
    trip = NativeTrips(kernel)
    spinning = [trip() for _ in range(count)]
    objects = [_trip_with_objects(kernel) for _ in range(count)]
    parked = []
    pump = Pump()
    pump.register(kernel)
    for _ in range(count // 10):
        time.sleep(PAUSE_S)  # until the worker sleeps
        parked.append(_trip_by_pump(kernel, pump))
    kernel.close()
    device.close()
    stepped = HostDevice("host:0", deterministic_seed=1)
    kernel = launched(stepped, "echo")
    inline = [_trip_with_objects(kernel, stepped) for _ in range(count)]
    kernel.close()
    stepped.close()
    warm = slice(count // 10, None)
    return [
        at_most("round trip, worker spins", SECONDS * median(spinning[warm]), "us", 5.0),
        Row("the same, with Python's objects", SECONDS * median(objects[warm]), "us"),
        at_most("round trip, worker parked", SECONDS * median(parked), "us", 150.0),
        Row("round trip, deterministic, with objects", SECONDS * median(inline[warm]), "us"),
    ]


class NativeTrips:
    """Round trips by the native functions that the pump is made of."""

    def __init__(self, kernel: ResidentKernel) -> None:
        self._kernel = kernel
        self._native = native()
        self._out = ctypes.create_string_buffer(BUFFER_BYTES)

    def __call__(self) -> float:
        """Post a message and poll until its output is there; return the seconds."""
        kernel, collect, out = self._kernel, self._native.collect, ctypes.addressof(self._out)
        entry = kernel.entry_address
        slots = encode_slots(kernel.spec, [Posting(kernel.posted_sequence + 1, 1)])
        start = time.perf_counter()
        kernel.post_slots(slots, 1)
        while collect(entry, out, BUFFER_BYTES) <= REPORT.size_bytes:
            pass
        return time.perf_counter() - start


def _trip_with_objects(kernel: ResidentKernel, stepped: HostDevice | None = None) -> float:
    slots = encode_slots(kernel.spec, [Posting(kernel.posted_sequence + 1, 1)])
    start = time.perf_counter()
    kernel.post_slots(slots, 1)
    if stepped is not None:
        stepped.run_until_idle()
    while (report := kernel.collect()) is None or not report.outputs:
        pass
    return time.perf_counter() - start


def _trip_by_pump(kernel: ResidentKernel, pump: Pump) -> float:
    slots = encode_slots(kernel.spec, [Posting(kernel.posted_sequence + 1, 1)])
    start = time.perf_counter()
    kernel.post_slots(slots, 1)
    while not any(report.outputs for report in pump.wait(DEADLINE_S)):
        pass
    return time.perf_counter() - start


# Many messages


def pipeline_rows(*, quick: bool) -> list[Row]:
    """Time many messages of 8 bytes, encoded by numpy, until the last one is done."""
    count, rounds = (1000, 1) if quick else (200_000, 5)
    rates: dict[str, list[float]] = {"sink": [], "echo": []}
    for name, rate in rates.items():
        device = HostDevice("host:0")
        kernel, pump = launched(device, name, ring_slots=4096, reply_slots=4096), Pump()
        pump.register(kernel)
        for _ in range(rounds):
            start = time.perf_counter()
            _send_all(kernel, pump, np.arange(count, dtype="<u8"))
            rate.append(count / (time.perf_counter() - start) / 1e3)
        kernel.close()
        device.close()
    return [
        at_least("messages in a row, device level", median(rates["sink"]), "k/s", 300.0),
        Row("messages in a row, each with a reply", median(rates["echo"]), "k/s"),
    ]


def _send_all(
    kernel: ResidentKernel, pump: Pump, values: np.ndarray[tuple[int], np.dtype[np.uint64]]
) -> None:
    first = kernel.posted_sequence + 1
    sent, done, last = 0, 0, first + len(values) - 1
    while done < last:
        room = min(kernel.room(), len(values) - sent)
        if room:
            part = values[sent : sent + room]
            slots = encode_array(kernel.spec, part, type=1, first_sequence=first + sent)
            sent += kernel.post_slots(slots, room)
        for report in pump.wait(DEADLINE_S):
            done = report.done_sequence


async def engine_rows(folder: Path, *, quick: bool) -> list[Row]:
    """Time ``send_many`` of an engine to a volatile kernel, until the last one is done."""
    count, rounds = (1000, 1) if quick else (200_000, 5)
    rates = []
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        spec = spec_of("sink", ring_slots=4096, reply_slots=256)
        kernel = await engine.launch(spec, device="host:0")
        wait_idle(DEADLINE_S)
        for _ in range(rounds):
            values = np.zeros(count, np.dtype([("value", "<u8")]))
            start = time.perf_counter()
            receipt = await kernel.send_many(Add, values)
            await receipt.done()
            rates.append(count / (time.perf_counter() - start) / 1e3)
    return [at_least("messages in a row, send_many, volatile", median(rates), "k/s", 300.0)]


# Many kernels


def parked_rows(*, quick: bool) -> list[Row]:
    """What 1,000 kernels cost that wait for messages, and how long it takes to stop them."""
    count, watch_s = (50, 0.1) if quick else (1000, 2.0)
    device = HostDevice("host:0")
    spec = spec_of("echo", ring_slots=2, reply_slots=2)
    code = device.load(compiled("echo"))
    wait_idle(DEADLINE_S)
    shared_pool()
    pump, before = Pump(), resident_bytes()
    kernels = [
        ResidentKernel(device, code, spec, grid=(1, 1, 1), base_sequence=0, epoch=1)
        for _ in range(count)
    ]
    for kernel in kernels:
        kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
        pump.register(kernel)
    while pump.wait(0.05):
        pass
    taken_bytes = resident_bytes() - before
    cpu_s, start = time.process_time(), time.perf_counter()
    assert pump.wait(watch_s) == []
    share = (time.process_time() - cpu_s) / (time.perf_counter() - start)
    start = time.perf_counter()
    for kernel in kernels:
        kernel.command(Command.RETURN)
    for kernel in kernels:
        assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
    stopped_s = time.perf_counter() - start
    for kernel in kernels:
        kernel.close()
    device.close()
    return [
        at_most(f"{count} parked kernels: a core's share", 100 * share, "%", 3.0),
        at_most(f"{count} parked kernels: memory", taken_bytes / 1e6, "MB", 20.0),
        at_most(f"{count} parked kernels: stop all", 1e3 * stopped_s, "ms", 50.0),
    ]


def resident_bytes() -> int:
    """Return how much of the process's memory is in RAM."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# From source to a running kernel

_COMPILE: Final = """
import sys, time
from benchmarks.host_kernels import ECHO, persistent
from ringflow.device.compiler.api import HOST, compile_source
from ringflow.device.compiler.cache import CompileCache
from ringflow.device.host.device import HostDevice
from ringflow.device.host.improve import wait_idle

device, cache = HostDevice("host:0"), CompileCache.default()

def load(source, entry_point):
    compiled = compile_source(source, entry_point=entry_point, target=HOST, cache=cache)
    device.load(compiled)

load(ECHO, "echo")
wait_idle(60.0)
start = time.perf_counter()
name = sys.argv[1]
load(persistent("direct").replace("direct(", name + "("), name)
print(time.perf_counter() - start)
wait_idle(60.0)
print(time.perf_counter() - start)
"""


def compile_rows(*, quick: bool) -> list[Row]:
    """Time source to loaded code of a persistent stencil; another kernel was loaded before."""
    cold, optimised, cached = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(1 if quick else 5):
            name = f"direct{turn}"
            first, best = _compile_in_child(folder, name)
            cold.append(first)
            optimised.append(best)
            cached.append(_compile_in_child(folder, name)[0])
    return [
        at_most("kernel from source, cold", 1e3 * median(cold), "ms", 300.0),
        Row("the same until it is optimised", 1e3 * median(optimised), "ms"),
        at_most("kernel from source, cached", 1e3 * median(cached), "ms", 20.0),
    ]


def _compile_in_child(folder: str, name: str) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, name],
        env={**os.environ, "RINGFLOW_CACHE_DIR": folder},
        check=True,
        capture_output=True,
        text=True,
    )
    first, best = map(float, done.stdout.split())
    return first, best


def message_rows(*, quick: bool) -> list[Row]:
    """Return all rows of this part."""
    with tempfile.TemporaryDirectory() as name:
        sent = anyio.run(lambda: engine_rows(Path(name) / "state", quick=quick))
    return [
        *trip_rows(quick=quick),
        *pipeline_rows(quick=quick),
        *sent,
        *parked_rows(quick=quick),
        *compile_rows(quick=quick),
    ]
