"""The worker pool, with step functions written in CUDA C++ for the test instead of kernels."""

from __future__ import annotations

import ctypes
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ringflow.device.api import LaunchStatus
from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.host.memory import HostAllocation
from ringflow.device.host.pool import SLOTS_MAX, Pool, default_worker_count
from ringflow.device.host.scheduler_layout import SLOT
from ringflow.device.host.translate import Program, translate
from ringflow.device.native import native
from ringflow.errors import LimitExceededError, UsageError

DEADLINE_S = 20.0
STEPS = """
struct context { unsigned wanted, seen; unsigned* word; unsigned steps; };

static __device__ unsigned load(unsigned* word) { return atomicAdd(word, 0); }

// Ends when the word has the wanted value; until then it is idle.
extern "C" __device__ int await_value(context* cta, int budget) {
    cta->steps += 1;
    return load(cta->word) == cta->wanted ? 0 : 1;
}

// Counts the word up to the wanted value.
extern "C" __device__ int count_up(context* cta, int budget) {
    cta->steps += 1;
    return atomicAdd(cta->word, 1) + 1 >= cta->wanted ? 0 : 2;
}

extern "C" __device__ int endless(context* cta, int budget) { cta->steps += 1; return 4; }
extern "C" __device__ int trapping(context* cta, int budget) { cta->steps += 1; return 3; }
"""
CONTEXT = struct.Struct("<IIQI4x")


@pytest.fixture(scope="module")
def steps() -> Program:
    return translate(compile_to_ptx(STEPS)[0])


@pytest.fixture
def memory() -> HostAllocation:
    """Four words, then contexts."""
    return HostAllocation(1 << 16, label="test")


@pytest.fixture(params=[1, 2])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    made = Pool(request.param)
    yield made
    made.close()


def contexts(memory: HostAllocation, count: int, *, wanted: int, first: int = 0) -> list[int]:
    """Fill contexts that share the first word."""
    addresses = []
    for index in range(first, first + count):
        offset = 64 + index * CONTEXT.size
        CONTEXT.pack_into(memory.view, offset, wanted, 0, memory.address, 0)
        addresses.append(memory.address + offset)
    return addresses


def steps_of(address: int) -> int:
    return ctypes.c_uint32.from_address(address + 16).value


def test_launch_completes_when_its_last_cta_is_done(
    steps: Program, pool: Pool, memory: HostAllocation
) -> None:
    """Several CTAs count one word up; the status changes once, to completed."""
    launch = pool.launch(steps.function("count_up"), contexts(memory, 8, wanted=1000))
    assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    (value,) = struct.unpack_from("<I", memory.view, 0)
    assert 1000 <= value <= 1008


def test_idle_ctas_are_parked_and_a_ring_wakes_them(
    steps: Program, pool: Pool, memory: HostAllocation
) -> None:
    """Workers sleep on 200 idle CTAs, and not one round is made until somebody rings."""
    launch = pool.launch(steps.function("await_value"), contexts(memory, 200, wanted=7))
    while not all(worker.sleeps for worker in pool.statistics):
        assert launch.wait(0.01) is LaunchStatus.RUNNING
    settled = [-1]
    while settled != (settled := [worker.rounds for worker in pool.statistics]):
        assert launch.wait(0.1) is LaunchStatus.RUNNING
    native().store_u32(memory.address, 7)
    native().ring_workers(native().room)
    assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED


def test_progress_of_one_worker_wakes_the_others(steps: Program, memory: HostAllocation) -> None:
    """A CTA that waits on one worker goes on after another worker's CTA wrote its word."""
    pool = Pool(2)
    try:
        for turn in range(50):
            struct.pack_into("<I", memory.view, 0, 0)
            waiting = pool.launch(steps.function("await_value"), contexts(memory, 2, wanted=500))
            if turn % 2:
                waiting.wait(0.003)
            counting = pool.launch(
                steps.function("count_up"), contexts(memory, 1, wanted=500, first=10)
            )
            assert counting.wait(DEADLINE_S) is LaunchStatus.COMPLETED
            assert waiting.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    finally:
        pool.close()


def test_endless_cta_leaves_others_their_turn_and_can_be_aborted(
    steps: Program, pool: Pool, memory: HostAllocation
) -> None:
    """A CTA that never ends is stepped in turns, and dropped on abort."""
    endless = pool.launch(steps.function("endless"), contexts(memory, 2, wanted=0))
    counting = pool.launch(steps.function("count_up"), contexts(memory, 1, wanted=1000, first=2))
    assert counting.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    assert endless.status is LaunchStatus.RUNNING
    assert endless.abort() is LaunchStatus.ABORTED
    assert all(statistics.ctas == 0 for statistics in pool.statistics)


def test_trap_ends_its_launch_only(steps: Program, pool: Pool, memory: HostAllocation) -> None:
    """The launch says which CTA trapped; another launch goes on."""
    waiting = pool.launch(steps.function("await_value"), contexts(memory, 2, wanted=9, first=10))
    (address,) = contexts(memory, 1, wanted=0)
    trapped = pool.launch(steps.function("trapping"), [address])
    assert trapped.wait(DEADLINE_S) is LaunchStatus.TRAPPED
    assert trapped.trapped_context == address
    assert trapped.abort() is LaunchStatus.TRAPPED
    assert waiting.status is LaunchStatus.RUNNING
    assert waiting.abort() is LaunchStatus.ABORTED


def test_places_are_used_again(steps: Program, pool: Pool, memory: HostAllocation) -> None:
    """Many launches one after the other don't fill the tables."""
    for _ in range(300):
        struct.pack_into("<I", memory.view, 0, 0)
        launch = pool.launch(steps.function("count_up"), contexts(memory, 100, wanted=3))
        assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    assert sum(worker.ctas for worker in pool.statistics) == 0


def test_forgotten_launch_still_runs(steps: Program, pool: Pool, memory: HostAllocation) -> None:
    """A launch that nobody keeps is kept by the pool until it ends."""
    pool.launch(steps.function("count_up"), contexts(memory, 4, wanted=100_000))
    waiting = pool.launch(
        steps.function("await_value"), contexts(memory, 1, wanted=100_003, first=8)
    )
    assert waiting.wait(DEADLINE_S) is LaunchStatus.COMPLETED


def test_stepped_pool_runs_in_the_calling_thread(steps: Program, memory: HostAllocation) -> None:
    """With no workers nothing moves between steps, and each step is one round."""
    pool = Pool(0)
    (address,) = contexts(memory, 1, wanted=3)
    launch = pool.launch(steps.function("count_up"), [address])
    assert steps_of(address) == 0
    assert [pool.step(), pool.step(), pool.step(), pool.step()] == [True, True, True, False]
    assert steps_of(address) == 3
    assert launch.status is LaunchStatus.COMPLETED
    waiting = pool.launch(steps.function("await_value"), contexts(memory, 1, wanted=77))
    assert waiting.abort() is LaunchStatus.ABORTED
    pool.close()


def test_pool_with_workers_cannot_be_stepped(pool: Pool) -> None:
    """Two threads must never step one table."""
    with pytest.raises(UsageError, match="has workers"):
        pool.step()


def test_too_many_ctas_are_refused(steps: Program, memory: HostAllocation) -> None:
    """A grid that doesn't fit into the tables changes nothing."""
    pool = Pool(0)
    addresses = contexts(memory, 1, wanted=1) * (SLOTS_MAX + 1)
    with pytest.raises(LimitExceededError, match="smaller grid"):
        pool.launch(steps.function("await_value"), addresses)
    assert pool.statistics[0].ctas == 0
    pool.close()


def test_slots_are_as_the_native_side_counts_them(steps: Program, memory: HostAllocation) -> None:
    """The steps that a slot counts are those of its CTA."""
    pool = Pool(0)
    (address,) = contexts(memory, 1, wanted=5)
    pool.launch(steps.function("count_up"), [address])
    while pool.step():
        pass
    table = pool._workers[0].table
    assert struct.unpack_from("<Q", table.view, SLOT["steps"])[0] == steps_of(address) == 5
    pool.close()


def test_worker_count_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """RINGFLOW_HOST_WORKERS counts; nonsense in it is refused."""
    monkeypatch.setenv("RINGFLOW_HOST_WORKERS", "3")
    assert default_worker_count() == 3
    for nonsense in ("0", "-1", "many", ""):
        monkeypatch.setenv("RINGFLOW_HOST_WORKERS", nonsense)
        with pytest.raises(UsageError, match="positive number"):
            default_worker_count()
    monkeypatch.delenv("RINGFLOW_HOST_WORKERS")
    assert default_worker_count() >= 1


def test_process_ends_while_workers_run() -> None:
    """The shared pool's workers are stopped before the interpreter goes."""
    program = (
        "from ringflow.device.host.pool import shared_pool\n"
        "pool = shared_pool()\n"
        "print('workers', pool.worker_count >= 1)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "workers True\n", "")
