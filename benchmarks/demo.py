"""The main job's speed: the step against numpy, compiling, round trips, the import, the demo.

The kernel runs on one worker. Peers and limits run interleaved with it, several times; medians
count, ratios are of the same round.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import attrs

import ringflow
from benchmarks.table import Choices, Row, at_least, at_most, choices, finish, median
from ringflow.code_source import KernelCodeSource
from ringflow.demo.kernels import code, first_spec, second_regions
from ringflow.demo.reference import Waves, apply
from ringflow.demo.script import OPEN_SEA, Disturb, Step
from ringflow.demo.seafloor import Seafloor, make_seafloor
from ringflow.spec import Durability, KernelSpec

WORKERS = "RINGFLOW_HOST_WORKERS"
ECHO = """
#include <ringflow.cuh>
extern "C" __global__ void echo(ringflow::control* control) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        if (self.leader()) self.reply(m, m.data, m.size);
    }
}
"""


@ringflow.message(1)
class Ping:
    """An empty message."""


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# The step, against numpy's


async def step_rows(folder: Path, *, quick: bool) -> list[Row]:
    """Compare the time of a step of either version with numpy's for the same step."""
    seafloor = make_seafloor(0.2 if quick else 1.0)
    rows: list[Row] = []
    for version in ("v1", "v2"):
        ours, numpys = await _step_times(folder / version, seafloor, version, quick=quick)
        ratio = median([b / a for a, b in zip(ours, numpys, strict=True)])
        rows += [
            Row(f"step {version}, one worker", 1e3 * median(ours), "ms"),
            Row(f"step {version}, numpy", 1e3 * median(numpys), "ms"),
            at_least(f"step {version}, speed over numpy's", ratio, "times", 1.5),
        ]
    return rows


async def _step_times(
    folder: Path, seafloor: Seafloor, version: str, *, quick: bool
) -> tuple[list[float], list[float]]:
    count, rounds = (2, 3) if quick else (20, 9)
    spec = attrs.evolve(first_spec(seafloor), durability="volatile")
    waves = Waves(seafloor)
    if version == "v2":
        spec = attrs.evolve(spec, code=code("v2"), regions=second_regions(seafloor))
        waves.absorb()
    wave = Disturb(*OPEN_SEA.on(seafloor.shape), seafloor.shape[1] / 50, 2.0)
    waves.disturb(wave)
    ours, numpys = [], []
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        kernel = await engine.launch(spec, device="host:0")
        await kernel.call(wave, timeout_s=60.0)
        await kernel.call(Step(count), timeout_s=60.0)
        for _ in range(rounds):
            start = time.perf_counter()
            await kernel.call(Step(count), timeout_s=60.0)
            ours.append((time.perf_counter() - start) / count)
            numpys.append(seconds(lambda: apply(waves, Step(count))) / count)
    return ours, numpys


# Compiling

_COMPILE = """
import sys, time
from ringflow.demo.kernels import code
from ringflow.demo.script import COMMANDS
from ringflow.device.registry import open_device
from ringflow.device.compiler.api import HOST, compile_source
from ringflow.device.compiler.cache import CompileCache
from ringflow.device.compiler.headers import messages_header
from ringflow.messages import layout_of

device = open_device("host:0")
source = code(sys.argv[1])
headers = {"ringflow_messages.cuh": messages_header(layout_of(c) for c in COMMANDS)}
start = time.perf_counter()
compiled = compile_source(
    source.text, entry_point=source.entry_point, target=HOST, headers=headers,
    cache=CompileCache.default(),
)
device.load(compiled)
print(time.perf_counter() - start)
"""


def compile_rows(*, quick: bool) -> list[Row]:
    """Time source to loaded native code, in fresh processes: with an empty cache, then again."""
    rows = []
    for version in ("v1",) if quick else ("v1", "v2", "v3"):
        cold, warm = [], []
        for _ in range(1 if quick else 3):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(_compile_in_child(version, cache))
                warm.append(_compile_in_child(version, cache))
        rows.append(at_most(f"compile {version}, cold", median(cold), "s", 1.0))
        rows.append(at_most(f"compile {version}, cached", 1e3 * median(warm), "ms", 50.0))
    return rows


def _compile_in_child(version: str, cache: str) -> float:
    environment = {**os.environ, "RINGFLOW_CACHE_DIR": cache}
    return float(_child("-c", _COMPILE, version, environment=environment))


def _child(*arguments: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout


# Round trips


def echo_spec(durability: Durability) -> KernelSpec:
    """Return a kernel that answers at once."""
    return KernelSpec(
        kernel_id="echo",
        kernel_type="echo",
        code=KernelCodeSource.from_cuda(ECHO, "echo"),
        messages=[Ping],
        block=(32, 1, 1),
        durability=durability,
    )


async def trip_rows(folder: Path, *, quick: bool) -> list[Row]:
    """Time an empty message to its reply: volatile, and durable against fdatasync alone."""
    count = 50 if quick else 2000
    volatile = await _trips(folder / "volatile", "volatile", count, sync_path=None)
    durable = await _trips(folder / "durable", "durable", count // 4, sync_path=folder / "sync")
    trip, sync = [pair[0] for pair in durable], [pair[1] for pair in durable]
    return [
        at_most("round trip, volatile", 1e6 * median([pair[0] for pair in volatile]), "us", 200.0),
        Row("round trip, durable", 1e6 * median(trip), "us"),
        Row("fdatasync of a record", 1e6 * median(sync), "us"),
        at_most("durable over fdatasync", median(trip) / median(sync), "times", 2.0),
    ]


async def _trips(
    folder: Path, durability: Durability, count: int, *, sync_path: Path | None
) -> list[tuple[float, float]]:
    """Return pairs of round trip and fdatasync, taken in turn, in seconds."""
    descriptor = os.open(sync_path, os.O_WRONLY | os.O_CREAT) if sync_path else None
    record, pairs = b"x" * 600, []

    def sync() -> None:
        if descriptor is not None:
            os.write(descriptor, record)
            os.fdatasync(descriptor)

    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        kernel = await engine.launch(echo_spec(durability), device="host:0")
        for _ in range(count):
            start = time.perf_counter()
            await kernel.call(Ping(), timeout_s=10.0)
            pairs.append((time.perf_counter() - start, seconds(sync)))
    if descriptor is not None:
        os.close(descriptor)
    return pairs[len(pairs) // 10 :]


# The import and the demo


def import_row(*, quick: bool) -> Row:
    """Time ``import ringflow`` in fresh processes."""
    timed = "import time; s = time.perf_counter(); import ringflow; print(time.perf_counter() - s)"
    times = [float(_child("-c", timed)) for _ in range(2 if quick else 7)]
    return at_most("import ringflow", median(times), "s", 0.3)


def demo_row(folder: Path, *, quick: bool) -> Row:
    """Time the demo as a user starts it, without the installation."""
    size = ["--scale", "0.1", "--messages", "60"] if quick else []
    environment = {name: text for name, text in os.environ.items() if name != WORKERS}
    program = ("-c", "import ringflow.cli; ringflow.cli.main()")
    command = (*program, "demo", "--out", str(folder / "demo"), *size)
    time_s = seconds(lambda: _child(*command, environment=environment))
    return at_most("ringflow demo", time_s, "s", 90.0)


async def measure(given: Choices) -> list[Row]:
    """Return all rows; the pool of workers starts with the first engine."""
    os.environ[WORKERS] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            *await step_rows(folder, quick=given.quick),
            *compile_rows(quick=given.quick),
            *await trip_rows(folder, quick=given.quick),
            import_row(quick=given.quick),
            demo_row(folder, quick=given.quick),
        ]


if __name__ == "__main__":
    asked = choices(__doc__)
    sys.exit(finish("The main job", anyio.run(measure, asked), asked))
