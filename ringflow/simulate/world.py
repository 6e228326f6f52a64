"""A world: an engine on simulated files, devices and time, moved by a synchronous ``step``.

- A step takes what is due next, by (virtual time, seeded rank, number), does it, and runs the tasks
  that it makes ready until none is.
- A crash ends the process between two steps, or within an effect: only what the files had made
  durable is found again. What the dying process still does leaves no trace.
- Each process of a world has order, ids and devices of its own, drawn from the seed and its number.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Final, TypeVar, final

from ringflow.clock import NS_PER_S
from ringflow.device.compiler.cache import CompileCache
from ringflow.engine.engine import Engine
from ringflow.engine.withholding import Withheld
from ringflow.errors import EngineClosedError, SimulatedCrashError, SimulationStuckError, UsageError
from ringflow.journal.api import JournalLimits
from ringflow.journal.opening import open_journal
from ringflow.limits import EngineLimits
from ringflow.simulate.agenda import Agenda
from ringflow.simulate.clock import SimulatedClock
from ringflow.simulate.devices import SimulatedDevice
from ringflow.simulate.faults import Faults
from ringflow.simulate.files import CrashingFiles, Loss
from ringflow.simulate.loop import check_no_loop_runs
from ringflow.simulate.process import Process, Started

T = TypeVar("T")

ROOT: Final = Path("/state")
"""The engine's folder in the simulated file system."""
PATIENCE_S: Final = 30 * 24 * 3600.0
"""Virtual time after which what has not come is taken to come never."""
_DEVICES: Final[Mapping[str, int | None]] = {"host:0": None, "host:1": None}


@final
class World:
    """An engine's whole world; ``open`` starts its first process.

    Step it from one thread at a time, where no event loop runs: under asyncio or trio in a worker
    thread, ``await anyio.to_thread.run_sync(world.settle)``.

    Attributes:
        files: the file system; ``ROOT`` is the engine's folder.
        clock: the virtual time.
        faults: what is armed to fail, and all effects so far.
        loss: what a crash leaves of bytes that were not synced.
        withheld: which messages are kept from their kernels; outlives crashes and closes.
        journal_is_prompt: whether what is recorded is durable before anything else happens.
        crashes: how often a process of it has crashed.
        unreturned_bytes: what the last process to end had not given back, by device.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        devices: Mapping[str, int | None] = _DEVICES,
        limits: EngineLimits | None = None,
        journal_limits: JournalLimits | None = None,
        compile_cache: CompileCache | None = None,
        loss: Loss = Loss.ALL,
    ) -> None:
        """Make a world in which nothing runs yet.

        Args:
            seed: of every order, duration and id.
            devices: their memory limits in bytes by name, None for the machine's memory.
            compile_cache: shared with everything else; the user's folder if None.
        """
        self.seed = seed
        self.devices = dict(devices)
        self.limits, self.journal_limits = limits or EngineLimits(), journal_limits
        self.compile_cache = compile_cache
        self.loss = loss
        self.files = CrashingFiles()
        self.files.watch = self._file_effect
        self.faults = Faults(Random(f"{seed}/faults"))
        self.withheld = Withheld()
        self.journal_is_prompt = False
        self.unreturned_bytes: Mapping[str, int] = {}
        self.crashes = 0
        self._agenda = Agenda()
        self.clock = SimulatedClock(self._agenda)
        self._processes = 0
        self._process: Process | None = None

    def __enter__(self) -> World:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        elif self._process is not None:
            self.crash()

    # Processes

    @property
    def engine(self) -> Engine:
        """The open engine; raises ``EngineClosedError`` where there is none."""
        if self._process is None or self._process.engine is None:
            raise EngineClosedError("no engine is open in this world; open or restart it")
        return self._process.engine

    @property
    def is_running(self) -> bool:
        """Whether a process runs, its engine open or not."""
        return self._process is not None

    @property
    def is_open(self) -> bool:
        return self._process is not None and self._process.engine is not None

    def open(self) -> Engine:
        """Start a process that opens the engine; return once the engine serves.

        Raises what ``open_engine`` raises; ``SimulatedCrashError`` if it crashed meanwhile.
        """
        process = self.begin_opening()
        self._until(lambda: process.engine is not None or process.serving.done)
        if process.serving.done:
            self._end()
            process.serving.result()
        return self.engine

    restart = open

    def begin_opening(self) -> Process:
        """Start a process that opens the engine with the steps to come."""
        if self._process is not None:
            raise UsageError("a process of this world runs; close or crash it first")
        check_no_loop_runs()
        self._processes += 1
        random = Random(f"{self.seed}/{self._processes}")
        self._agenda.renew(random, now_ns=self._agenda.now_ns)
        self._process = Process(self, self._agenda, random)
        return self._process

    def close(self) -> None:
        """Close the engine in order, in virtual time; raises what its block raises."""
        if (process := self._process) is None:
            return
        process.stop.set()
        self._until(lambda: process.serving.done)
        self._end()
        process.serving.result()

    def crash(self, loss: Loss | None = None) -> None:
        """End the process here and now, as a power failure does.

        Args:
            loss: what is left of bytes that were not synced; the world's own by default.
        """
        if (process := self._process) is None:
            raise UsageError("no process of this world runs; open it first")
        self.crashes += 1
        now_ns, left = self._agenda.now_ns, self.files.after_crash(loss or self.loss)
        self.files.power_off()
        self.faults.muted = True
        try:
            process.die()
        finally:
            self._end()
            self._agenda.renew(Random(0), now_ns=now_ns)
            self.faults.muted = self.faults.crashed = False
            self.files = left
            self.files.watch = self._file_effect

    def _end(self) -> None:
        assert self._process is not None
        self.unreturned_bytes = self._process.end()
        self._process = None

    @property
    def opened_devices(self) -> tuple[SimulatedDevice, ...]:
        """The devices of the process that runs."""
        return () if self._process is None else self._process.devices

    def lose(self, device: str) -> None:
        """Lose a GPU with all that is on it; raises ``UsageError`` where there is none."""
        for one in self.opened_devices:
            if one.name == device:
                one.lose()
                self.engine._core.pump.wake()
                return
        raise UsageError(f"no device {device!r} is open; open the engine, or correct the name")

    # Moving

    @property
    def now_s(self) -> float:
        """Virtual seconds since the world began."""
        return self._agenda.now_ns / NS_PER_S

    def step(self) -> bool:
        """Do what is due next; return whether there was something.

        Raises:
            SimulatedCrashError: the power went off in it.
        """
        if (process := self._process) is None:
            raise SimulatedCrashError("no process runs in this world; restart it")
        moved = process.step()
        if self.faults.crashed or self.files.has_crashed:
            self.crash()
            raise SimulatedCrashError("the process has crashed; restart the world to go on")
        return moved

    def open_again(self) -> None:
        """Try to open the folder a second time, as another process would; raises what that does."""

        async def second(engine: Engine) -> None:
            async with open_journal(ROOT, files=self.files, clock=self.clock):
                pass

        self.run(second)

    def start(self, work: Callable[[Engine], Awaitable[T]]) -> Started[T]:
        """Start work with the engine; it goes on with the world's steps."""
        engine = self.engine
        assert self._process is not None
        return self._process.start(lambda: work(engine))

    def run(self, work: Callable[[Engine], Awaitable[T]]) -> T:
        """Do work with the engine to its end; time passes at once.

        Raises what the work raises, and:
            SimulatedCrashError: the process crashed before.
            SimulationStuckError: the work waits for what never comes.
        """
        started = self.start(work)
        self.until_done(started)
        return started.result()

    def until_done(self, started: Started[Any]) -> None:
        """Let what was started come to its end; raises as ``run`` does."""
        self._until(lambda: started.done)

    def settle(self) -> None:
        """Let all work be done that waits for no more than work; deadlines stay ahead.

        Raises:
            SimulatedCrashError: no process runs, or it has crashed meanwhile.
        """
        if self._process is None:
            raise SimulatedCrashError("no process runs in this world; restart it")
        self._process.step_ready()
        while self._agenda.has_work():
            self.step()

    def advance(self, duration_s: float) -> None:
        """Let time pass, and all happen that is due in it."""
        end_ns = self._agenda.now_ns + round(duration_s * NS_PER_S)
        while (following := self._agenda.next()) is not None and following.due_ns <= end_ns:
            self.step()
        self._agenda.pass_to(end_ns)

    def _until(self, reached: Callable[[], bool]) -> None:
        """Step until something is so."""
        if (process := self._process) is None:
            raise SimulatedCrashError("no process runs in this world; restart it")
        process.step_ready()
        end_ns = self._agenda.now_ns + round(PATIENCE_S * NS_PER_S)
        while not reached():
            if not self.step():
                raise SimulationStuckError("nothing is due any more", process.places())
            if self._agenda.now_ns > end_ns:
                raise SimulationStuckError(f"{PATIENCE_S:g} s have passed", process.places())

    # What is in the files

    def _file_effect(self, call: str, path: Path) -> None:
        place = path.relative_to(ROOT).parts if path.is_relative_to(ROOT) else ()
        self.faults.reached(place[0] if len(place) > 1 else "engine", call, path.name)

    def contents(self) -> dict[str, bytes]:
        """Return the bytes of all files in the engine's folder, by their paths in it."""
        return {
            path.relative_to(ROOT).as_posix(): content
            for path, content in sorted(self.files.snapshot().items())
        }

    def journal(self) -> bytes:
        """Return the bytes of the journal's segments, one after the other."""
        return b"".join(
            content for name, content in self.contents().items() if name.endswith(".jsonl")
        )
