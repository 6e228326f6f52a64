"""One process of a world: its loop, devices and engine; after a crash nothing of it is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

import anyio

from ringflow.engine.engine import Engine
from ringflow.engine.opening import open_engine
from ringflow.engine.withholding import let_withhold
from ringflow.errors import OperationCancelledError, SimulationStuckError
from ringflow.ids import Ids
from ringflow.simulate.agenda import Agenda
from ringflow.simulate.devices import SimulatedDevice, open_devices
from ringflow.simulate.loop import SimulatedLoop, places
from ringflow.workers import context_taking_turns

if TYPE_CHECKING:
    from ringflow.simulate.world import World

T = TypeVar("T")

_JOURNAL: Final = "write"  # what the journal's turns are named
_DYING_STEPS_MAX: Final = 200_000


@final
class Started(Generic[T]):
    """Work that goes on with the world's steps."""

    def __init__(self, task: asyncio.Task[T]) -> None:
        self._task = task

    @property
    def done(self) -> bool:
        return self._task.done()

    def result(self) -> T:
        """Return what the work returned, or raise what it raised; only once it is done.

        Raises:
            OperationCancelledError: it was cancelled.
        """
        if self._task.cancelled():
            raise OperationCancelledError("the work was cancelled before it ended")
        return self._task.result()

    def cancel(self) -> None:
        """Cancel the work, as its program would; it ends with the next steps."""
        self._task.cancel()

    def forget(self) -> None:
        """Take note of what the work raised, which nobody will ask for any more."""
        if self._task.done() and not self._task.cancelled():
            self._task.exception()


@final
class _AgendaTurns:
    """``Turns`` by an agenda: each takes a while of virtual time, drawn from the seed."""

    def __init__(self, agenda: Agenda, world: World) -> None:
        self._agenda, self._world = agenda, world

    async def turn(self, what: str) -> None:
        if what == _JOURNAL and self._world.journal_is_prompt:
            await self._wait(what, 0, first=True)
        else:
            await self._wait(what, self._agenda.latency_ns())

    async def pause(self, what: str, duration_ns: int, *, over: anyio.Event) -> None:
        await self._wait(what, duration_ns, due=over)

    async def _wait(
        self,
        what: str,
        duration_ns: int,
        *,
        first: bool = False,
        due: anyio.Event | None = None,
    ) -> None:
        due, agenda = due or anyio.Event(), self._agenda
        item = agenda.add(
            agenda.now_ns + duration_ns,
            what,
            due.set,
            is_time=duration_ns > agenda.longest_latency_ns,
            first=first,
        )
        try:
            await due.wait()
        finally:
            item.cancel()


@final
class Process:
    """A process; ``serving`` is done when its engine's block has ended."""

    def __init__(self, world: World, agenda: Agenda, random: Random) -> None:
        self.engine: Engine | None = None
        self.stop = anyio.Event()
        self._agenda = agenda
        self._loop = SimulatedLoop(agenda, random)
        self._devices = open_devices(world.devices, world.faults, seed=random.getrandbits(48))
        self._free_bytes = {name: device.free_bytes for name, device in self._devices.items()}
        self._context = context_taking_turns(_AgendaTurns(agenda, world))
        let_withhold(self._context, world.withheld)
        self._started: list[Started[Any]] = []
        ids = Ids(random.getrandbits(64))
        self.serving = self.start(lambda: self._serve(world, ids))

    @property
    def devices(self) -> tuple[SimulatedDevice, ...]:
        return tuple(self._devices.values())

    def start(self, work: Callable[[], Awaitable[T]]) -> Started[T]:
        async def run() -> T:
            return await work()

        started = Started(self._loop.create_task(run(), context=self._context.copy()))
        self._started = [one for one in self._started if not one.done]
        self._started.append(started)
        return started

    async def _serve(self, world: World, ids: Ids) -> None:
        from ringflow.simulate.world import ROOT

        try:
            async with open_engine(
                ROOT,
                devices=tuple(self._devices.values()),
                limits=world.limits,
                journal_limits=world.journal_limits,
                files=world.files,
                clock=world.clock,
                ids=ids,
                compile_cache=world.compile_cache,
            ) as engine:
                self.engine = engine
                await self.stop.wait()
        finally:
            self.engine = None

    def step(self) -> bool:
        """Do what is due next and all that it makes ready; return whether there was something."""
        if self._loop.has_ready:  # what was started since the last step
            self.step_ready()
            return True
        item = self._agenda.take()
        if item is None:
            return False
        self._loop.call_soon(item.call)
        self.step_ready()
        return True

    def step_ready(self) -> None:
        self._loop.run_ready()
        if self._loop.failures:
            raise self._loop.failures.pop()

    def die(self) -> None:
        """End everything; the files are off already, so nothing of it counts."""
        self.stop.set()
        for started in self._started:
            if started is not self.serving:
                started.cancel()
        self.step_ready()
        for _ in range(_DYING_STEPS_MAX):
            if all(started.done for started in self._started):
                return
            if not self.step():
                break
        raise SimulationStuckError("a crashed process does not end", self.places())

    def end(self) -> Mapping[str, int]:
        """Close the devices and the loop; return what was not given back, in bytes by device."""
        unreturned = {}
        for name, device in self._devices.items():
            if left := self._free_bytes[name] - device.free_bytes - device.lost_bytes:
                unreturned[name] = left
            device.close()
        for started in self._started:
            started.forget()
        self._loop.close()
        return unreturned

    def places(self) -> tuple[str, ...]:
        """Return where each task waits."""
        return places(self._loop)
