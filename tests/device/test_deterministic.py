"""The deterministic device: one seed, one trace, in any process; the host acts between rounds."""

from __future__ import annotations

import platform
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ringflow
from ringflow.device.abi import Command
from ringflow.device.api import LaunchStatus
from ringflow.device.compiler.api import HOST, compile_source
from ringflow.device.host.device import HostDevice
from ringflow.device.host.launch import HostLaunch
from ringflow.device.host.scheduler_layout import SLOT
from ringflow.device.host.stepper import clocks_as_timers
from ringflow.device.posting import Posting
from ringflow.device.pump import Pump
from ringflow.device.registry import open_device
from ringflow.device.resident import ResidentKernel
from ringflow.errors import KernelStalledError, UsageError
from tests.device.kernels import resident, source, spec

ORDER = """
extern "C" __global__ void order(unsigned* count, unsigned* seen) {
    if (threadIdx.x == 0) seen[atomicAdd(count, 1)] = blockIdx.x;
}

extern "C" __global__ void clocks(unsigned long long* read) {
    if (threadIdx.x) return;
    unsigned long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    read[0] = clock64();
    read[1] = now;
    read[2] = clock64();
    read[3] = (unsigned)clock();
}

extern "C" __global__ void count_rounds(unsigned* counts, unsigned wanted) {
    volatile unsigned* mine = counts + blockIdx.x;
    if (threadIdx.x == 0) while (*mine < wanted) *mine += 1;
}

extern "C" __global__ void await(unsigned* word, unsigned* answer) {
    if (threadIdx.x == 0) while (*(volatile unsigned*)word == 0) __nanosleep(64);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(answer, 1);
}
"""
DEADLINE_S = 30.0
SPIN = 3


@ringflow.message(1)
class Add:
    """What ``counter`` adds to its total."""

    value: ringflow.u64


@pytest.fixture
def device() -> Iterator[HostDevice]:
    made = HostDevice("host:0", deterministic_seed=7, memory_limit_bytes=64 << 20)
    yield made
    for launch in list(made._launches):
        launch.abort()
    made.close()


def launch(device: HostDevice, entry_point: str, grid: int, *parameters: bytes) -> HostLaunch:
    compiled = compile_source(ORDER, entry_point=entry_point, target=HOST, cache=None)
    return device.launch(
        device.load(compiled),
        entry_point,
        grid=(grid, 1, 1),
        block=(32, 1, 1),
        parameters=parameters,
    )


def pointer(address: int) -> bytes:
    return struct.pack("<Q", address)


def order_of_blocks(seed: int) -> tuple[list[int], str]:
    """Return the order in which 16 blocks ran, and the trace."""
    device = HostDevice("host:0", deterministic_seed=seed)
    memory = device.allocate(4 + 4 * 16, label="seen")
    launch(device, "order", 16, pointer(memory.address), pointer(memory.address + 4))
    assert device.run_until_idle()
    device.trace_memory(memory)
    seen = np.frombuffer(device.copy_out(memory), np.uint32)
    digest = device.trace_digest
    device.close()
    return seen[1:].tolist(), digest


def swept(seed: int, *, rounds: int | None = None) -> tuple[str, bytes]:
    """Let several blocks work on a field; return the trace and the field."""
    device = HostDevice("host:0", deterministic_seed=seed)
    kernel = resident(device, "sweep", grid=(5, 1, 1), block=(64, 1, 1))
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    kernel.post([Posting(1, 1, struct.pack("<I", 3)), Posting(2, 1, struct.pack("<I", 4))])
    if rounds is None:
        device.run_until_idle()
    else:
        while device.run_rounds(rounds):
            pass
    device.trace_memory(kernel.regions["field"])
    result = device.trace_digest, bytes(kernel.read_region("field"))
    kernel.command(Command.RETURN)
    assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
    kernel.close()
    device.close()
    return result


PROGRAM = """
from tests.device.test_deterministic import order_of_blocks, swept
print(order_of_blocks(7), swept(7)[0], swept(8)[0])
"""


def test_three_processes_with_one_seed_print_one_digest() -> None:
    """Hash seeds, addresses and the machine's load differ; what is printed doesn't."""
    root = Path(__file__).parent.parent.parent
    printed = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=root
        ).stdout
        for _ in range(3)
    ]
    assert printed[0].count("\n") == 1
    assert printed[0] == printed[1] == printed[2]
    assert printed[0].split()[-1] != printed[0].split()[-2]


def test_other_seeds_make_other_interleavings() -> None:
    """Each seed orders the blocks in its own way, none of them runs twice, none is left out."""
    orders = {seed: order_of_blocks(seed)[0] for seed in range(6)}
    assert all(sorted(order) == list(range(16)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 6
    assert orders[3] == order_of_blocks(3)[0]


def test_other_interleavings_end_in_the_same_state() -> None:
    """A kernel without races computes the same whatever the order; its traces differ."""
    traces, fields = zip(*(swept(seed) for seed in range(4)), strict=True)
    assert len(set(traces)) == 4
    assert len(set(fields)) == 1


def test_trace_holds_the_memory_that_it_is_given(device: HostDevice) -> None:
    """The same steps over other bytes give another digest."""
    memory = device.allocate(64, label="words")
    digests = {device.trace_digest}
    for data in (b"\0", b"\1", b"\1"):
        device.copy_in(memory, data)
        device.trace_memory(memory)
        digests.add(device.trace_digest)
    assert len(digests) == 4


def test_nothing_moves_between_calls(device: HostDevice) -> None:
    """A launch has not started when it was made, and a round is one step of each block."""
    memory = device.allocate(64, label="counts")
    started = launch(device, "count_rounds", 3, pointer(memory.address), struct.pack("<I", 10**6))
    before = bytes(device.copy_out(memory))
    assert before == bytes(64)
    assert device.run_rounds(1)
    first = np.frombuffer(device.copy_out(memory), np.uint32)[:3]
    assert bytes(device.copy_out(memory)) == bytes(device.copy_out(memory))
    assert device.run_rounds(1)
    second = np.frombuffer(device.copy_out(memory), np.uint32)[:3]
    assert (first > 0).all()
    assert (second == 2 * first).all()
    assert started.status is LaunchStatus.RUNNING


def test_rounds_one_by_one_are_rounds_at_once() -> None:
    """The trace doesn't depend on how many rounds a call makes, idle ones aside."""

    def trace(portions: list[int]) -> tuple[str, int]:
        device = HostDevice("host:0", deterministic_seed=3)
        memory = device.allocate(64, label="counts")
        for wanted in (2000, 500):
            launch(device, "count_rounds", 4, pointer(memory.address), struct.pack("<I", wanted))
        for count in portions:
            device.run_rounds(count)
        result = device.trace_digest, device.virtual_time_ns
        for started in device._launches:
            started.abort()
        device.close()
        return result

    assert trace([12]) == trace([1] * 12) == trace([5, 7])
    assert trace([11]) != trace([12])


def test_kernels_that_run_together_go_on_together(device: HostDevice) -> None:
    """However many blocks each has, a round steps every block of every kernel once."""
    memory = device.allocate(4096, label="counts")
    for place, blocks in ((0, 1), (64, 40), (1024, 7)):
        at = pointer(memory.address + place)
        launch(device, "count_rounds", blocks, at, struct.pack("<I", 10**6))
    device.run_rounds(25)
    assert device._own_pool is not None
    table = device._own_pool._workers[0].table.view
    steps = [
        struct.unpack_from("=Q", table, place * SLOT.size_bytes + SLOT["steps"])[0]
        for place in range(48)
    ]
    assert steps == [25] * 48


def test_idle_is_exact(device: HostDevice) -> None:
    """Blocks that wait make no progress in any round until their word changes, then all do."""
    memory = device.allocate(64, label="words")
    started = launch(device, "await", 300, pointer(memory.address), pointer(memory.address + 4))
    assert device.run_until_idle()
    assert [device.run_rounds(1) for _ in range(20)] == [False] * 20
    device.copy_in(memory, struct.pack("<I", 1))
    assert device.run_rounds(1)
    device.run_until_idle()
    assert started.status is LaunchStatus.COMPLETED
    assert struct.unpack_from("<I", device.copy_out(memory), 4) == (300,)


def read_clocks(seed: int, rounds_before: int) -> list[int]:
    device = HostDevice("host:0", deterministic_seed=seed)
    memory = device.allocate(64, label="read")
    device.run_rounds(rounds_before)
    launch(device, "clocks", 1, pointer(memory.address))
    device.run_until_idle()
    read: list[int] = np.frombuffer(device.copy_out(memory), np.uint64)[:4].tolist()
    assert device.virtual_time_ns > read[2]
    device.close()
    return read


def test_clocks_are_virtual() -> None:
    """They tell the rounds and the reads so far: the same numbers in every run, ever rising."""
    early, late = read_clocks(1, 0), read_clocks(1, 5)
    assert sorted(early) == [1, 2, 3, 4]
    assert [b - a for a, b in zip(early, late, strict=True)] == [5000] * 4
    assert read_clocks(2, 0) == early


def test_clocks_without_a_cycle_counter_are_the_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On aarch64 reading the counter would end the process: kernels read the time instead."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    device = HostDevice("host:0")
    memory = device.allocate(64, label="read")
    before_ns = time.time_ns()
    started = launch(device, "clocks", 1, pointer(memory.address))
    assert started.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    clock, timer, _ = np.frombuffer(device.copy_out(memory), np.uint64)[:3].tolist()
    assert before_ns <= clock <= time.time_ns()
    assert before_ns <= timer <= time.time_ns()
    device.close()


def test_cycle_counters_become_timers_of_their_width() -> None:
    """Names that only start alike are left alone."""
    text = "mov.u64 %a, %clock64; mov.u32 %b, %clock; mov.u32 %c, %clock_hi; mov.u32 %d, %clocks;"
    assert clocks_as_timers(text) == (
        "mov.u64 %a, %globaltimer; mov.u32 %b, %globaltimer_lo; "
        "mov.u32 %c, %globaltimer_hi; mov.u32 %d, %clocks;"
    )


def opened(device: HostDevice, name: str, **options: object) -> ResidentKernel:
    kernel = resident(device, name, **options)  # type: ignore[arg-type]
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    return kernel


def test_messages_are_handled_inline(device: HostDevice) -> None:
    """Post, run until idle, collect: no thread is needed and none runs."""
    kernel = opened(device, "counter", grid=(2, 1, 1))
    assert kernel.collect() is not None
    for number in range(1, 200):
        assert kernel.post([Posting(number, 1, struct.pack("<Q", number))]) == 1
        assert kernel.collect() is None
        assert device.run_until_idle()
        report = kernel.collect()
        assert report is not None
        (output,) = report.outputs
        assert struct.unpack_from("<Q", output.payload) == (number * (number + 1) // 2,)
    kernel.close()


def test_pump_moves_the_kernels_that_it_watches(device: HostDevice) -> None:
    """A wait lets them go on until there is news, and a wake still ends it."""
    other = HostDevice("host:1", deterministic_seed=1)
    kernels, pump = [opened(device, "echo"), opened(other, "echo")], Pump()
    keys = [pump.register(kernel) for kernel in kernels]
    while pump.wait(0.0):
        pass
    for key, kernel in zip(keys, kernels, strict=True):
        kernel.post([Posting(1, 5, b"news")])
        (report,) = [r for r in pump.wait(DEADLINE_S) if r.outputs]
        assert (report.key, report.outputs[0].payload) == (key, b"news")
    while pump.wait(0.0):
        pass
    pump.wake()
    assert pump.wait(DEADLINE_S) == []
    for kernel in kernels:
        kernel.close()
    other.close()


def test_endless_loop_ends_at_its_virtual_deadline(device: HostDevice) -> None:
    """The time counts the fuel that it burns, so a deadline needs no clock."""
    kernel = opened(device, "trouble")
    kernel.post([Posting(1, SPIN)])
    device.run_rounds(10)
    before_ns = device.virtual_time_ns
    with pytest.raises(KernelStalledError, match=r"message boundary within 0\.05 s"):
        kernel.await_generation(kernel.command(Command.HOLD), 0.05)
    assert 50_000_000 <= device.virtual_time_ns - before_ns < 51_000_000
    kernel.close()


def test_kernel_that_runs_free_is_never_idle(device: HostDevice) -> None:
    """It is left as it is after the virtual time, and a boundary is reached without idleness."""
    kernel = opened(device, "free")
    assert not device.run_until_idle(0.001)
    assert struct.unpack("<Q", kernel.read_region("steps")) > (500,)
    kernel.await_generation(kernel.command(Command.HOLD), DEADLINE_S)
    assert device.run_until_idle()
    kernel.command(Command.RETURN)
    assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
    kernel.close()


def test_device_with_workers_is_not_stepped() -> None:
    """The error says how to open one that is."""
    with_workers = HostDevice("host:0")
    with pytest.raises(UsageError, match="deterministic_seed"):
        with_workers.run_rounds(1)
    with pytest.raises(UsageError, match="deterministic_seed"):
        _ = with_workers.trace_digest
    with_workers.close()


@pytest.mark.anyio
async def test_engine_runs_on_a_deterministic_device(folder: Path) -> None:
    """Launch, messages, a migration between two of them: the pump moves their kernels."""
    devices = [open_device(f"host:{n}", deterministic_seed=n) for n in range(2)]
    async with ringflow.open_engine(folder, devices=devices) as engine:
        counter = ringflow.KernelSpec(
            kernel_id="counter",
            kernel_type="counter",
            code=ringflow.KernelCodeSource.from_cuda(source("counter"), "counter"),
            messages=[Add],
            regions=spec("counter").regions,
        )
        kernel = await engine.launch(counter, device="host:0")
        totals = []
        for number in range(1, 6):
            if number == 4:
                await engine.migrate("counter", to="host:1", reason="test", actor="test")
            answer = await kernel.call(Add(number), timeout_s=DEADLINE_S)
            totals.append(struct.unpack_from("<Q", answer.payload)[0])
        assert totals == [1, 3, 6, 10, 15]
    for one in devices:
        one.close()
