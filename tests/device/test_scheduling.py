"""Kernels on the scheduler: many blocks on few workers, together, and asleep while they wait."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pytest

from ringflow.device.api import LaunchStatus, LoadedCode
from ringflow.device.compiler.api import HOST, compile_source
from ringflow.device.host.device import HostDevice
from ringflow.device.host.launch import HostLaunch
from ringflow.device.host.pool import Pool

DEADLINE_S = 60.0
SOURCE = """
// All blocks meet, often: a block that is never stepped would keep the others waiting for ever.
extern "C" __global__ void meet(unsigned* count, unsigned* seen, unsigned turns) {
    for (unsigned turn = 1; turn <= turns; ++turn) {
        if (threadIdx.x == 0) {
            atomicAdd(count, 1);
            while (*(volatile unsigned*)count < turn * gridDim.x) __nanosleep(32);
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) seen[blockIdx.x] = *(volatile unsigned*)count;
}

// Each thread sums what the block wrote, in one way for all, or in three at once.
extern "C" __global__ void uniform(unsigned* sums, unsigned turns) {
    __shared__ unsigned cells[64];
    unsigned sum = 0, t = threadIdx.x;
    for (unsigned turn = 0; turn < turns; ++turn) {
        cells[t] = t + turn + blockIdx.x;
        __syncthreads();
        sum += cells[(t + 1) % blockDim.x];
        __syncthreads();
    }
    sums[blockIdx.x * blockDim.x + t] = sum;
}

extern "C" __global__ void divergent(unsigned* sums, unsigned turns) {
    __shared__ unsigned cells[64];
    unsigned sum = 0, t = threadIdx.x;
    for (unsigned turn = 0; turn < turns; ++turn) {
        if ((t + turn) % 3 == 0) {
            cells[t] = t + turn + blockIdx.x;
            __syncthreads();
        } else if (t % 2) {
            cells[t] = t + turn + blockIdx.x;
            __syncthreads();
        } else {
            cells[t] = turn + t + blockIdx.x;
            __syncthreads();
        }
        sum += cells[(t + 1) % blockDim.x];
        __syncthreads();
    }
    sums[blockIdx.x * blockDim.x + t] = sum;
}

// Takes turns with whoever has the other parity.
extern "C" __global__ void turns(unsigned* word, unsigned parity, unsigned last) {
    if (threadIdx.x) return;
    volatile unsigned* turn = word;
    for (unsigned now = parity; now < last; now += 2) {
        while (*turn != now) __nanosleep(32);
        *turn = now + 1;
    }
}

extern "C" __global__ void await_word(unsigned* word, unsigned* answers) {
    if (threadIdx.x == 0) while (*(volatile unsigned*)word == 0) __nanosleep(64);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(answers, 1);
}

extern "C" __global__ void wait_for_time(unsigned* done, unsigned long long ticks) {
    unsigned long long start = clock64();
    while (clock64() - start < ticks) __nanosleep(100);
    if (threadIdx.x == 0) done[0] = 1;
}
"""


class Host(HostDevice):  # type: ignore[misc]  # final for users, not for these tests
    """A device with a pool of its own, and the code of this file."""

    def __init__(self, pool: Pool) -> None:
        super().__init__("host:0", memory_limit_bytes=64 << 20)
        self._own_pool = pool
        self._code: dict[str, LoadedCode] = {}

    def start(
        self, entry_point: str, grid: int, block: int, *parameters: int | bytes
    ) -> HostLaunch:
        """Launch a kernel; numbers are uint32 parameters."""
        code = self._code.get(entry_point)
        if code is None:
            compiled = compile_source(SOURCE, entry_point=entry_point, target=HOST, cache=None)
            code = self._code[entry_point] = self.load(compiled)
        packed = tuple(p if isinstance(p, bytes) else struct.pack("<I", p) for p in parameters)
        return self.launch(
            code, entry_point, grid=(grid, 1, 1), block=(block, 1, 1), parameters=packed
        )

    def words(self, count: int) -> tuple[bytes, np.ndarray[tuple[int], np.dtype[np.uint32]]]:
        """Return uint32[count] in the device's memory: a pointer parameter, and the words."""
        allocation = self.allocate(4 * count, label="words")
        view = self.view(allocation)
        assert view is not None
        return struct.pack("<Q", allocation.address), np.frombuffer(view, np.uint32)


@pytest.fixture(params=["1 worker", "3 workers", "seed 1", "seed 2"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Real workers, and the stepped pool in two orders."""
    kind, number = request.param.rsplit(" ", 1)[0], request.param
    pool = Pool(0, seed=int(number[-1])) if kind == "seed" else Pool(int(number[0]))
    made = Host(pool)
    yield made
    for launch in list(made._launches):
        launch.abort()
    made.close()
    pool.close()


@pytest.fixture
def stepped() -> Iterator[Host]:
    made = Host(Pool(0))
    yield made
    for launch in list(made._launches):
        launch.abort()
    made.close()


def test_hundreds_of_blocks_meet_on_few_workers(host: Host) -> None:
    """600 blocks wait for each other 20 times: none has a thread of its own."""
    count, counted = host.words(1)
    seen, counts = host.words(600)
    launch = host.start("meet", 600, 32, count, seen, 20)
    assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    assert counted[0] == 600 * 20
    assert (counts == 600 * 20).all()


@pytest.mark.parametrize("path", ["uniform", "divergent"])
def test_uniform_and_divergent_blocks_compute_the_same(host: Host, path: str) -> None:
    """One way through a barrier or three: each thread sees what all wrote before it."""
    sums, got = host.words(20 * 64)
    assert host.start(path, 20, 64, sums, 9).wait(DEADLINE_S) is LaunchStatus.COMPLETED
    block, thread, turn = np.ogrid[:20, :64, :9]
    wanted = ((thread + 1) % 64 + turn + block).sum(axis=2)
    assert np.array_equal(got.reshape(20, 64), wanted)


def test_kernels_that_take_turns_go_on_together(host: Host) -> None:
    """Two kernels hand a word to each other 2,000 times, beside 100 blocks that only wait."""
    word, value = host.words(1)
    never, _ = host.words(2)
    waiting = host.start("await_word", 100, 32, never, never)
    launches = [host.start("turns", 1, 32, word, parity, 4000) for parity in (0, 1)]
    for launch in launches:
        assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    assert value[0] == 4000
    assert waiting.status is LaunchStatus.RUNNING


def test_a_turn_costs_a_round_at_most(stepped: Host) -> None:
    """How long a kernel waits for its neighbours has a bound, and it is counted in rounds."""
    word, value = stepped.words(1)
    for parity in (0, 1):
        stepped.start("turns", 1, 32, word, parity, 1000)
    stepper = stepped.stepping
    assert stepper is not None
    before = stepper.rounds
    while value[0] < 1000:
        seen = int(value[0])
        stepped.run_rounds(2)
        assert value[0] > seen
    assert stepper.rounds - before <= 1001


def test_blocks_that_wait_sleep_until_their_word_comes(host: Host) -> None:
    """500 blocks wait for a word that another kernel writes; all of them answer."""
    word, value = host.words(1)
    answers, answered = host.words(1)
    waiting = host.start("await_word", 500, 32, word, answers)
    if host.stepping is not None:
        assert host.run_until_idle()
    else:
        while not all(worker.sleeps for worker in host._pool.statistics):
            waiting.wait(0.01)
        rounds = -1
        while rounds != (rounds := sum(w.rounds for w in host._pool.statistics)):
            waiting.wait(0.1)
    assert answered[0] == 0
    host.start("turns", 1, 32, word, 0, 1).wait(DEADLINE_S)
    assert waiting.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    assert (value[0], answered[0]) == (1, 500)


@pytest.mark.parametrize("threads", [1, 64])
def test_who_waits_for_a_time_is_not_idle(host: Host, threads: int) -> None:
    """Nobody rings when a clock has come so far: such a block must not be parked."""
    done, value = host.words(1)
    launch = host.start("wait_for_time", 1, threads, done, struct.pack("<Q", 2_000_000))
    assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    assert value[0] == 1


def test_grid_fills_the_workers() -> None:
    """``grid="fill"`` is one block for each worker; a stepped pool counts as one."""
    for pool, fits in ((Pool(3), 3), (Pool(0), 1)):
        host = Host(pool)
        code = host.load(compile_source(SOURCE, entry_point="meet", target=HOST, cache=None))
        assert host.grid_that_fits(code, "meet", (32, 1, 1)) == fits
        host.close()
        pool.close()
