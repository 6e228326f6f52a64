"""The grids that one GPU runs for this process, however often it was opened here.

- Its multiprocessors and work queues are there once, and a call that waits for grids waits for all
  of the context's: so one ledger, one lock and one set of streams serve all who opened it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, final

from ringflow.device.api import LaunchStatus
from ringflow.device.cuda import driver, environment
from ringflow.device.cuda.context import CudaContext
from ringflow.device.cuda.launch import CudaLaunch
from ringflow.device.cuda.ledger import Ledger
from ringflow.errors import DeviceError


@final
class Grids:
    """The live grids of a GPU, and what they hold.

    Attributes:
        lock: held while a grid is launched, or the end of one taken note of.
        alone: held while one of ringflow's own short kernels runs, to launch or load beside none
            of them, and to open or close the GPU; taken before ``lock``.
        live: launches whose end was not taken note of yet; under the lock, like all that follows.
        streams: those that no grid has.
    """

    def __init__(self, context: CudaContext) -> None:
        """Make the streams; ``current`` is needed."""
        queues, sm_count = environment.queue_count(), context.attributes.sm_count
        self.ledger = Ledger(context.name, sm_count=sm_count, queue_count=queues)
        self.lock = threading.RLock()
        self.alone = threading.RLock()
        self.live: list[CudaLaunch] = []
        self.streams: list[Any] = []
        self.users = 0
        self._idle_work: list[Callable[[], None]] = []
        flag = driver.bindings().CUstream_flags.CU_STREAM_NON_BLOCKING
        try:
            for _ in range(self.ledger.queues_max):
                self.streams.append(context.call("cuStreamCreate", flag))
        except BaseException:
            self.release()
            raise

    def reap(self) -> None:
        """Give back what grids had that have ended."""
        with self.lock:
            for launch in [one for one in self.live if one.status is not LaunchStatus.RUNNING]:
                self.live.remove(launch)
                launch.finish()
                self.ledger.give(launch.place)
                self.streams.append(launch.stream)
                for work in launch.when_ended:
                    work()
                launch.when_ended.clear()
            while self._idle_work and not self.live:
                self._idle_work.pop(0)()

    @property
    def waiting_count(self) -> int:
        """How much work waits until no grid lives."""
        return len(self._idle_work)

    def when_idle(self, work: Callable[[], None]) -> None:
        """Do now what would wait for grids if none lives, else once none does."""
        with self.lock:
            self._idle_work.append(work)
            self.reap()

    def unload(self, context: CudaContext, module: Any) -> None:
        """Give code back when no grid lives: that waits for all of them."""

        def unload() -> None:
            with contextlib.suppress(DeviceError), context.current():
                driver.give_back("cuModuleUnload", module)

        self.when_idle(unload)

    def release(self) -> None:
        """Destroy the streams; ``current`` is needed. A grid that still runs ends as it may."""
        self.reap()
        self.streams += [launch.stream for launch in self.live]
        while self.streams:
            driver.give_back("cuStreamDestroy", self.streams.pop())


_lock: Final = threading.Lock()
_grids: Final[dict[int, Grids]] = {}


def join_grids(context: CudaContext) -> Grids:
    """Return the grids of a context's GPU; ``current`` is needed. ``leave_grids`` comes later."""
    with _lock:
        found = _grids.get(context.ordinal)
        if found is None:
            found = _grids[context.ordinal] = Grids(context)
        found.users += 1
        return found


def held_off(ordinal: int) -> AbstractContextManager[object]:
    """A block in which others neither launch nor load on a GPU."""
    with _lock:
        found = _grids.get(ordinal)
    return contextlib.nullcontext() if found is None else found.alone


def has_live(ordinal: int) -> bool:
    """Return whether a grid lives on a GPU."""
    with _lock:
        found = _grids.get(ordinal)
    if found is None:
        return False
    with found.lock:
        found.reap()
        return bool(found.live)


def is_used(ordinal: int) -> bool:
    """Return whether anybody needs a GPU's grids; no lock is taken."""
    return ordinal in _grids


def leave_grids(context: CudaContext) -> None:
    """Need the grids no more; the last one to do so takes their streams along."""
    with _lock:
        grids = _grids[context.ordinal]
        grids.users -= 1
        if grids.users == 0:
            del _grids[context.ordinal]
            with contextlib.suppress(DeviceError), context.current():
                grids.release()
