"""The worker pool of the host device: one a process, native workers on Python's threads.

- A worker thread spends its life inside one native call, without Python's lock.
- A launch's CTAs are spread over the workers' tables, the emptiest first, and stay there.
- A launch is held by the pool until its last CTA has left the tables, whoever forgets it.
- Workers are stopped and joined before the interpreter goes.
- A pool without workers has a ``Stepper``: nothing moves but in a call of its owner.
"""

from __future__ import annotations

import atexit
import ctypes
import heapq
import os
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, final

import attrs

from ringflow.device.api import LaunchStatus
from ringflow.device.host.memory import HostAllocation
from ringflow.device.host.pieces import Piece
from ringflow.device.host.scheduler_layout import LAUNCH, SLOT, WORKER
from ringflow.device.host.stepper import Stepper
from ringflow.device.native import load_native, native, timeout_ns
from ringflow.errors import LimitExceededError, UsageError

SLOTS_MAX: Final = 16384
STEP_BUDGET: Final = 64
SPIN_NS: Final = 5_000
YIELD_NS: Final = 200_000
STOP_DEADLINE_S: Final = 10.0


@attrs.frozen
class WorkerStatistics:
    """Counts of one worker since its start.

    Attributes:
        rounds: passes over its table.
        sleeps: times that it slept.
        ctas: CTAs in its table now.
    """

    rounds: int
    sleeps: int
    ctas: int


@final
class PoolLaunch:
    """CTAs that the pool steps until they are done."""

    def __init__(
        self, pool: Pool, number: int, cta_count: int, *, watch: int, keep: Sequence[object]
    ) -> None:
        self._pool = pool
        self.number = number
        self._keep: Sequence[object] = keep
        self._memory = Piece(LAUNCH.size_bytes, label="launch")
        struct.pack_into("=I", self._memory.view, LAUNCH["remaining"], cta_count)
        struct.pack_into("=Q", self._memory.view, LAUNCH["watch"], watch)
        self.slots: list[tuple[int, int]] = []

    @property
    def address(self) -> int:
        return self._memory.address

    @property
    def status_address(self) -> int:
        return self._memory.address + LAUNCH["status"]

    @property
    def status(self) -> LaunchStatus:
        return LaunchStatus(native().load_u32(self.status_address))

    @property
    def trapped_context(self) -> int:
        """The address of the context of the CTA that trapped first, 0 if none did."""
        return native().load(self._memory.address + LAUNCH["trapped"])

    def wait(self, timeout_s: float) -> LaunchStatus:
        """Block until the last CTA has left the tables or the time is up; return the status.

        On a pool without workers the time is virtual, and the rounds are made here.
        """
        if self._pool.stepper is not None:
            self._pool.stepper.run_until(self._ended, timeout_s)
            return self.status
        functions = native()
        return LaunchStatus(
            functions.await_status(self._pool.room, self.status_address, timeout_ns(timeout_s))
        )

    def abort(self) -> LaunchStatus:
        """Ask the workers to drop the CTAs, wait until they have, and return the status."""
        functions = native()
        functions.store_u32(self._memory.address + LAUNCH["abort"], 1)
        functions.ring_workers(self._pool.room)
        return self.wait(STOP_DEADLINE_S)

    def _ended(self) -> bool:
        return self.status is not LaunchStatus.RUNNING


class _Worker:
    """A table of slots, and the thread that steps it."""

    def __init__(self, room: int) -> None:
        self.memory = HostAllocation(WORKER.size_bytes, label="worker")
        self.table = HostAllocation(SLOTS_MAX * SLOT.size_bytes, label="worker's table")
        self.free: list[int] = []
        self.end = 0
        self.active = 0
        for name, kind, value in (
            ("slots", "Q", self.table.address),
            ("room", "Q", room),
            ("spin_ns", "I", SPIN_NS),
            ("yield_ns", "I", YIELD_NS),
        ):
            struct.pack_into("=" + kind, self.memory.view, WORKER[name], value)

    def add(self, step: int, cta: int, launch: PoolLaunch, index: int, budget: int) -> int:
        """Put a CTA in the lowest free place of the table and return it.

        The lowest, so that it doesn't depend on when the ended launches were found to have ended.
        """
        if self.free:
            place = heapq.heappop(self.free)
        else:
            place, self.end = self.end, self.end + 1
        offset = place * SLOT.size_bytes
        struct.pack_into("=QQQI", self.table.view, offset, step, cta, launch.address, budget)
        struct.pack_into(
            "=II", self.table.view, offset + SLOT["launch_number"], launch.number, index
        )
        self.active += 1
        functions = native()
        functions.store_u32(self.table.address + offset + SLOT["active"], 1)
        functions.store_u32(self.memory.address + WORKER["used"], self.end)
        return place

    def remove(self, place: int) -> None:
        """Note that the native side has left a place."""
        heapq.heappush(self.free, place)
        self.active -= 1
        if self.active == 0:
            self.free.clear()
            self.end = 0
            native().store_u32(self.memory.address + WORKER["used"], 0)

    @property
    def statistics(self) -> WorkerStatistics:
        rounds, sleeps = struct.unpack_from("=QQ", self.memory.view, WORKER["rounds"])
        return WorkerStatistics(rounds, sleeps, self.active)


@final
class Pool:
    """Workers that step CTAs; with none, ``step`` does it in the calling thread.

    Attributes:
        room: address of the waiting room where its workers sleep and its kernels ring.
        stepper: of a pool without workers.
    """

    def __init__(self, worker_count: int, *, seed: int = 0, room: int = 0) -> None:
        """Start the workers.

        Args:
            seed: of the order in which a pool without workers steps its CTAs.
            room: by default the process's own. Kernels with another one don't wake its pumps,
                which have to poll for their news as they do for a GPU's.
        """
        self._program = load_native(Path(__file__).parent / "scheduler.ptx")
        self._native = native()
        self.room = room or self._native.room
        self._run: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(
            self._program.function("ringflow_worker_run")
        )
        self._lock = threading.Lock()
        self._launches: list[PoolLaunch] = []
        self._launch_count = 0
        self._workers = [_Worker(self.room) for _ in range(max(worker_count, 1))]
        self.stepper: Stepper | None = None
        if worker_count == 0:
            self.stepper = Stepper(
                self._program,
                worker=self._workers[0].memory.address,
                slots_max=SLOTS_MAX,
                seed=seed,
            )
        self._threads = [
            threading.Thread(
                target=self._work, args=(worker,), name=f"ringflow-worker-{index}", daemon=True
            )
            for index, worker in enumerate(self._workers[:worker_count])
        ]
        for thread in self._threads:
            thread.start()

    @property
    def worker_count(self) -> int:
        return len(self._threads)

    @property
    def statistics(self) -> tuple[WorkerStatistics, ...]:
        self._reap()
        return tuple(worker.statistics for worker in self._workers)

    def launch(
        self, step: int, contexts: Sequence[int], *, watch: int = 0, keep: Sequence[object] = ()
    ) -> PoolLaunch:
        """Start to step CTAs.

        Args:
            step: address of ``int step(void* cta, int budget)``.
            contexts: addresses of the CTAs' contexts.
            watch: address of a control block whose news wake the host, or 0.
            keep: what must live as long as the CTAs run.
        Raises:
            LimitExceededError: the workers' tables are full.
        """
        with self._lock:
            self._check_room_locked(len(contexts))
            number = self._launch_count
            self._launch_count += 1
            made = PoolLaunch(self, number, len(contexts), watch=watch, keep=keep)
            self._launches.append(made)
            share = -(-len(contexts) // len(self._workers))
            budget = max(1, STEP_BUDGET // share)
            for index, context in enumerate(contexts):
                which = min(range(len(self._workers)), key=lambda i: self._workers[i].active)
                place = self._workers[which].add(step, context, made, index, budget)
                made.slots.append((which, place))
        self._native.ring_workers(self.room)
        return made

    def check_room(self, count: int) -> None:
        """Raise ``LimitExceededError`` if so many CTAs have no room beside those that there are."""
        with self._lock:
            self._check_room_locked(count)

    def _check_room_locked(self, count: int) -> None:
        self._reap_locked()
        limit = SLOTS_MAX * len(self._workers)
        taken = sum(worker.active for worker in self._workers)
        if taken + count > limit:
            raise LimitExceededError(
                f"the number of blocks on all host devices together ({count} of this grid, {taken} "
                "of kernels that run)",
                taken + count,
                limit,
                "launch a smaller grid",
            )

    def step(self) -> bool:
        """Step every CTA once in the calling thread; return whether one of them went on.

        Raises:
            UsageError: the pool has workers of its own.
        """
        if self.stepper is None:
            raise UsageError("this pool has workers; make one with none to step it")
        return self.stepper.run_rounds(1)

    def _reap(self) -> None:
        with self._lock:
            self._reap_locked()

    def _reap_locked(self) -> None:
        """Forget the launches that have ended, and take their places back."""
        ended = [made for made in self._launches if made.status is not LaunchStatus.RUNNING]
        for made in ended:
            self._launches.remove(made)
            for index, place in made.slots:
                self._workers[index].remove(place)

    def _work(self, worker: _Worker) -> None:
        _reset_float_environment()
        self._run(worker.memory.address)

    def close(self) -> None:
        """Stop and join the workers; CTAs stay where they are."""
        for worker in self._workers:
            self._native.store_u32(worker.memory.address + WORKER["stop"], 1)
        for thread in self._threads:
            while thread.is_alive():
                self._native.ring_workers(self.room)
                thread.join(0.05)


def _reset_float_environment() -> None:
    """Give the calling thread the default rounding and denormals, whatever its parent had."""
    default_environment = ctypes.c_void_p(-1)  # FE_DFL_ENV of glibc
    ctypes.CDLL("libm.so.6").fesetenv(default_environment)


def default_worker_count() -> int:
    """Return ``RINGFLOW_HOST_WORKERS``, else one worker fewer than there are cores, at least one.

    Raises:
        UsageError: the variable is not a positive number.
    """
    given = os.environ.get("RINGFLOW_HOST_WORKERS")
    if given is None:
        return max(1, len(os.sched_getaffinity(0)) - 1)
    if not given.isdecimal() or int(given) < 1:
        raise UsageError(f"RINGFLOW_HOST_WORKERS is {given!r}; set it to a positive number")
    return int(given)


_pool_lock = threading.Lock()
_pool: Pool | None = None


def shared_pool() -> Pool:
    """Return the process's pool; the first call starts its workers."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = Pool(default_worker_count())
            atexit.register(_pool.close)
        return _pool
