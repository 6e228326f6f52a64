"""A GPU's speed under ringflow, each figure beside the driver's own calls for the same.

Run it where a GPU is, idle: ``python -m benchmarks.gpu --markdown docs/gpu-results.md`` writes the
table down with the machine's names. The driver's calls (``benchmarks/gpu_bare.py``) run interleaved
with ours; medians count, and a ratio is the median of the rounds' ratios.

- A launch is one block of an empty kernel, until its end is seen.
- The bare round trip is a kernel that answers a word in mapped memory and does nothing else; ours
  goes through both rings, the copy of the message to the device, and the native functions' calls.
- Bulk copies begin and end in memory that no driver has pinned, as a program's arrays do.
- The pauses are those that the engine tells of; beside them stand the copies that can't be left
  out, made bare, and a sync of the journal's disk where the pause holds one.
- With one GPU a kernel is moved to the host instead, and the copies between GPUs are left out.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import anyio
import numpy as np

import ringflow
from benchmarks.gpu_bare import Answering, Bare
from benchmarks.host_kernels import ECHO
from benchmarks.host_messages import NativeTrips
from benchmarks.table import Row, at_least, at_most, choices, finish, median
from ringflow.code_source import KernelCodeSource
from ringflow.device.abi import Command
from ringflow.device.api import Allocation, Device, LaunchStatus
from ringflow.device.compiler.api import compile_source
from ringflow.device.compiler.nvrtc import nvrtc_version
from ringflow.device.cuda.probe import CudaFacts, probe
from ringflow.device.registry import open_device
from ringflow.device.resident import ResidentKernel
from ringflow.spec import KernelSpec, Region

DEADLINE_S: Final = 60.0
US: Final = 1e6
MS: Final = 1e3
MB: Final = 1 << 20
STATE: Final = """
#include <ringflow.cuh>
extern "C" __global__ void state(ringflow::control* control, unsigned* cells) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        if (self.leader()) {
            cells[0] += 1;
            self.reply(m, cells[0]);
        }
    }
}
"""


@ringflow.message(1)
class Count:
    """Counts in the first cell."""


def opened(name: str, size_bytes: int) -> Device:
    return open_device(name, memory_limit_bytes=4 * size_bytes + 64 * MB)


# Launches, messages, commands


def launch_rows(*, quick: bool) -> list[Row]:
    """Time an empty kernel from its launch until its end is seen."""
    count = 3 if quick else 500
    ours, bares = [], []
    device = opened("cuda:0", 0)
    with Bare(0) as bare:
        function = bare.function(device, "nothing")
        code = device.load(
            compile_source(
                'extern "C" __global__ void nothing() {}',
                entry_point="nothing",
                target=device.target,
                cache=None,
            )
        )
        for _ in range(count):
            start = time.perf_counter()
            launch = device.launch(code, "nothing", grid=(1, 1, 1), block=(32, 1, 1), parameters=())
            assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            bare.launch(function)
            bare.wait()
            bares.append(time.perf_counter() - start)
        device.unload(code)
    device.close()
    return [
        Row("launch to its end", US * median(ours), "us"),
        Row("the same, bare", US * median(bares), "us"),
        at_most("launch, over bare", _ratio(ours, bares), "times", 3.0),
    ]


def trip_rows(*, quick: bool) -> list[Row]:
    """Time a message to its reply, and a hold until it is seen, beside a bare word's way."""
    count = 5 if quick else 2000
    ours, bares, holds = [], [], []
    device = opened("cuda:0", 0)
    spec = KernelSpec(
        kernel_id="echo",
        kernel_type="echo",
        code=KernelCodeSource.from_cuda(ECHO, "echo"),
        block=(32, 1, 1),
        durability="volatile",
    )
    with Bare(0) as bare:
        code = device.load(
            compile_source(ECHO, entry_point="echo", target=device.target, cache=None)
        )
        answering = Answering(bare, device)  # nothing is loaded after it
        kernel = ResidentKernel(device, code, spec, grid=(1, 1, 1), base_sequence=0, epoch=1)
        kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
        trip = NativeTrips(kernel)
        for _ in range(count):
            ours.append(trip())
            bares.append(answering.trip())
            holds.append(_hold(kernel))
        answering.end()
        kernel.command(Command.RETURN)
        assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
        busy_us = kernel.busy_ns / kernel.done_sequence / 1000
        kernel.close()
        device.unload(code)
    device.close()
    return [
        Row("round trip through mapped memory", US * median(ours), "us"),
        Row("of it in the kernel, by the GPU's clock, mean", busy_us, "us"),
        Row("a word there and back, bare", US * median(bares), "us"),
        at_most("round trip, over bare", _ratio(ours, bares), "times", 4.0),
        Row("hold until the host sees it", US * median(holds), "us"),
        at_most("hold, over the bare word", _ratio(holds, bares), "times", 4.0),
    ]


def _hold(kernel: ResidentKernel) -> float:
    start = time.perf_counter()
    kernel.await_generation(kernel.command(Command.HOLD), DEADLINE_S)
    taken_s = time.perf_counter() - start
    kernel.await_generation(kernel.command(Command.RUN), DEADLINE_S)
    return taken_s


# Bulk


def copy_rows(*, quick: bool) -> list[Row]:
    """Time copies in and out, and digests, beside bare copies of the same bytes."""
    size_bytes, rounds = (MB, 1) if quick else (256 * MB, 9)
    device = opened("cuda:0", size_bytes)
    memory, other = (device.allocate(size_bytes, label=label) for label in ("bulk", "other"))
    data = np.random.default_rng(5).integers(0, 255, size_bytes, np.uint8)
    back = np.zeros(size_bytes, np.uint8)
    times: dict[str, list[float]] = {}
    with Bare(0) as bare:
        place, pinned = bare.allocate(size_bytes), bare.pinned(size_bytes)
        beside = bare.allocate(size_bytes)
        ctypes.memset(pinned, 1, size_bytes)
        works: dict[str, Callable[[], object]] = {
            "in": lambda: device.copy_in(memory, data.data),
            "bare in": lambda: bare.copy_in(place, data.ctypes.data, size_bytes),
            "pinned in": lambda: bare.copy_in(place, pinned, size_bytes),
            "out": lambda: device.copy_out(memory),
            "bare out": lambda: bare.copy_out(back.ctypes.data, place, size_bytes),
            "pinned out": lambda: bare.copy_out(pinned, place, size_bytes),
            "digest": lambda: device.digest_blocks(memory),
            "within": lambda: device.copy_to_peer(memory, device, other),
            "bare within": lambda: bare.copy(beside, place, size_bytes),
        }
        for _ in range(rounds):
            for name, work in works.items():
                times.setdefault(name, []).append(_seconds(work))
    device.free(memory)
    device.free(other)
    device.close()
    gigabytes = size_bytes / 1e9
    return [
        Row("copy in", gigabytes / median(times["in"]), "GB/s"),
        Row("copy in, bare, from pinned memory", gigabytes / median(times["pinned in"]), "GB/s"),
        at_least("copy in, over bare", _ratio(times["bare in"], times["in"]), "times", 0.8),
        Row("copy out", gigabytes / median(times["out"]), "GB/s"),
        Row("copy out, bare, to pinned memory", gigabytes / median(times["pinned out"]), "GB/s"),
        at_least("copy out, over bare", _ratio(times["bare out"], times["out"]), "times", 0.8),
        Row("digest", MS * median(times["digest"]) / gigabytes, "ms/GB"),
        at_least(
            "digest, over the bare copy out to pinned memory",
            _ratio(times["pinned out"], times["digest"]),
            "times",
            2.0,
        ),
        Row("copy within the GPU", gigabytes / median(times["within"]), "GB/s"),
        Row("copy within the GPU, bare", gigabytes / median(times["bare within"]), "GB/s"),
        at_least(
            "copy within the GPU, over bare",
            _ratio(times["bare within"], times["within"]),
            "times",
            0.8,
        ),
    ]


def peer_rows(*, quick: bool) -> list[Row]:
    """Time copies between two GPUs beside bare ones of the same bytes."""
    size_bytes, rounds = (MB, 1) if quick else (256 * MB, 9)
    device, peer = opened("cuda:0", size_bytes), opened("cuda:1", size_bytes)
    source: Allocation = device.allocate(size_bytes, label="source")
    target: Allocation = peer.allocate(size_bytes, label="target")
    ours, bares, path = [], [], ""
    with Bare(1) as there, Bare(0) as here:
        place = here.allocate(size_bytes)
        there.enter()
        far = there.allocate(size_bytes)
        here.enter()
        for _ in range(rounds):
            start = time.perf_counter()
            path = device.copy_to_peer(source, peer, target)
            ours.append(time.perf_counter() - start)
            bares.append(_seconds(lambda: here.copy_to(there, far, place, size_bytes)))
    device.free(source)
    peer.free(target)
    device.close()
    peer.close()
    return [
        Row(f"copy to the other GPU ({path})", size_bytes / 1e9 / median(ours), "GB/s"),
        Row("the same, bare", size_bytes / 1e9 / median(bares), "GB/s"),
        at_least("copy to the other GPU, over bare", _ratio(bares, ours), "times", 0.9),
    ]


# Pauses


def pause_rows(folder: Path, *, peers: bool, quick: bool) -> list[Row]:
    """Time the pauses of a kernel with much state, beside the bare copies in them."""
    size_bytes, rounds = (MB, 1) if quick else (256 * MB, 5)
    with Bare(0) as bare:
        pinned, one = bare.pinned(size_bytes), bare.allocate(size_bytes)
        other = bare.allocate(size_bytes)
        out_s = [_seconds(lambda: bare.copy_out(pinned, one, size_bytes)) for _ in range(rounds)]
        copy_s = [_seconds(lambda: bare.copy(other, one, size_bytes)) for _ in range(rounds)]
    sync_s = [_seconds(lambda: _sync(folder / "sync")) for _ in range(rounds)]
    move_s = out_s
    if peers:
        with Bare(1) as there, Bare(0) as here:
            place = here.allocate(size_bytes)
            there.enter()
            far = there.allocate(size_bytes)
            here.enter()
            move_s = [
                _seconds(lambda: here.copy_to(there, far, place, size_bytes)) for _ in range(rounds)
            ]
    target = "cuda:1" if peers else "host:0"
    devices = [opened(name, size_bytes) for name in ("cuda:0", target)]
    snapshot, move, reload = anyio.run(lambda: _pauses(folder, devices, size_bytes, rounds))
    for device in devices:
        device.close()
    moved_s = [a + b for a, b in zip(move_s, sync_s, strict=True)]
    reloaded_s = [a + b for a, b in zip(copy_s, sync_s, strict=True)]
    way = f"{devices[0].name} to {target}"
    return [
        Row("pause of a snapshot", MS * median(snapshot), "ms"),
        at_most("snapshot, over the bare copy out", _ratio(snapshot, out_s), "times", 3.0),
        Row(f"pause of a migration, {way}", MS * median(move), "ms"),
        at_most("migration, over bare copy and sync", _ratio(move, moved_s), "times", 4.0),
        Row("pause of a reload", MS * median(reload), "ms"),
        at_most("reload, over bare copy and sync", _ratio(reload, reloaded_s), "times", 4.0),
    ]


async def _pauses(
    folder: Path, devices: Sequence[Device], size_bytes: int, rounds: int
) -> tuple[list[float], list[float], list[float]]:
    """Return the seconds of so many snapshots, migrations and reloads."""
    here, there = (device.name for device in devices)
    spec = KernelSpec(
        kernel_id="state",
        kernel_type="state",
        code=KernelCodeSource.from_cuda(STATE, "state"),
        messages=[Count],
        regions=[Region("cells", dtype="uint32", shape=(size_bytes // 4,))],
        block=(256, 1, 1),
    )
    snapshots, moves, reloads = [], [], []
    async with ringflow.open_engine(folder / "state", devices=devices) as engine:
        kernel = await engine.launch(spec, device=here)
        for turn in range(rounds):
            await kernel.call(Count(), timeout_s=DEADLINE_S)
            snapshots.append((await engine.checkpoint("state")).pause_s)
            code = KernelCodeSource.from_cuda(f"// {turn}\n{STATE}", "state", version_id=str(turn))
            reloads.append((await engine.reload("state", code, probation_messages=0)).pause_s)
            moves.append((await engine.migrate("state", to=there)).pause_s)
            await engine.migrate("state", to=here)
        await engine.stop("state")
    return snapshots, moves, reloads


def _sync(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(4096))
        file.flush()
        os.fdatasync(file.fileno())


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _ratio(over: Sequence[float], under: Sequence[float]) -> float:
    return median([a / b for a, b in zip(over, under, strict=True)])


def measure(facts: CudaFacts, *, quick: bool) -> list[Row]:
    """Return all rows that the machine's GPUs allow."""
    peers = len(facts.gpus) > 1
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        return [
            *launch_rows(quick=quick),
            *trip_rows(quick=quick),
            *copy_rows(quick=quick),
            *(peer_rows(quick=quick) if peers else ()),
            *pause_rows(Path(name), peers=peers, quick=quick),
        ]


def machine(facts: CudaFacts) -> str:
    """Return what the figures are of."""
    gpus = ", ".join(gpu.model for gpu in facts.gpus)
    return f"{gpus}; driver for CUDA {facts.driver}, {nvrtc_version()}, {platform.machine()}"


if __name__ == "__main__":
    asked, found = choices(__doc__), probe()
    if found.missing:
        sys.exit(f"no figures: {found.missing}")
    sys.exit(finish(machine(found), measure(found, quick=asked.quick), asked))
