"""An event loop without a selector, threads or real time: asyncio's tasks, moved by ``run_ready``.

- Timers are items of the agenda; what waits for files or devices is there as well.
- Tasks that are ready together run in an order drawn from the seed; so they do under trio. Sets of
  tasks, which anyio iterates, have the same order in every process, for a task's hash is a number.
- asyncio by name: anyio has no backend that can be stepped. See docs/adr/0007-simulation.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.events import _set_running_loop
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack, final

import anyio
import anyio.lowlevel

from ringflow.clock import NS_PER_S
from ringflow.errors import SimulationStuckError, UsageError
from ringflow.simulate.agenda import Agenda

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_PASSES_MAX: Final = 100_000


class _Task(asyncio.Task[T]):
    """A task with a number, which is its hash too."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], *, number: int, **named: Any) -> None:
        self.number = number  # before the task is put into a set
        super().__init__(coroutine, **named)

    def __hash__(self) -> int:
        return self.number


@final
class SimulatedLoop(asyncio.BaseEventLoop):
    """The loop of one simulated process; use it from one thread at a time.

    Attributes:
        failures: what callbacks have raised, which nobody else hears of.
    """

    def __init__(self, agenda: Agenda, random: Random) -> None:
        super().__init__()
        self._agenda = agenda
        self._random = random
        self._task_count = 0
        self._soon: list[tuple[_Task[Any] | None, asyncio.Handle]] = []
        self.failures: list[BaseException] = []
        self.set_exception_handler(_note_failure)

    # What tasks ask for

    def time(self) -> float:
        return self._agenda.now_ns / NS_PER_S

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        task = getattr(callback, "__self__", None)  # of a task's step or wake-up
        self._soon.append((task if isinstance(task, _Task) else None, handle))
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        due_ns = round(when * NS_PER_S)
        self._agenda.add(due_ns, "timer", lambda: self._soon.append((None, handle)), is_time=True)
        return handle

    def create_task(
        self, coro: Any, *, name: object = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        self._task_count += 1
        named = str(name) if name is not None else f"task-{self._task_count}"
        return _Task(coro, number=self._task_count, loop=self, name=named, context=context)

    # What moves them

    @property
    def has_ready(self) -> bool:
        return bool(self._soon)

    def run_ready(self) -> None:
        """Run what is ready, and what that makes ready, until nothing is.

        Raises:
            SimulationStuckError: there is no end of it.
        """
        with self._running():
            for _ in range(_PASSES_MAX):
                if not self._soon:
                    return
                for handle in self._take_pass():
                    if not handle.cancelled():
                        handle._run()
        raise SimulationStuckError("tasks make each other ready without an end", ())

    def _take_pass(self) -> list[asyncio.Handle]:
        """Return what is ready now: callbacks as they came, then tasks in the seed's order."""
        ready, self._soon = self._soon, []
        tasks = sorted(
            ((task.number, index) for index, (task, _) in enumerate(ready) if task is not None),
        )
        if len(tasks) > 1:
            self._random.shuffle(tasks)
        callbacks = [handle for task, handle in ready if task is None]
        return callbacks + [ready[index][1] for _, index in tasks]

    @contextmanager
    def _running(self) -> Iterator[None]:
        check_no_loop_runs()
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(
            firstiter=self._asyncgen_firstiter_hook,  # type: ignore[attr-defined]
            finalizer=self._asyncgen_finalizer_hook,  # type: ignore[attr-defined]
        )
        _set_running_loop(self)
        try:
            yield
        finally:
            _set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)


def check_no_loop_runs() -> None:
    """Raise ``UsageError`` in a thread that an event loop runs in."""
    with contextlib.suppress(anyio.NoEventLoopError):
        anyio.lowlevel.current_token()
        raise UsageError(
            "a simulation can't be stepped within a running event loop; step it in a worker "
            "thread: await anyio.to_thread.run_sync(world.settle)"
        )


def places(loop: SimulatedLoop) -> tuple[str, ...]:
    """Return where each task of a loop waits: its name, and the innermost lines of ringflow's."""
    tasks = [task for task in asyncio.all_tasks(loop) if isinstance(task, _Task)]
    found = []
    for task in sorted(tasks, key=lambda task: task.number):
        lines: list[str] = []
        waits_in: Any = task.get_coro()
        while (frame := getattr(waits_in, "cr_frame", None)) is not None:
            if "/anyio/" not in frame.f_code.co_filename:
                lines.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
            waits_in = getattr(waits_in, "cr_await", None)
        found.append(f"{task.get_name()}: {' > '.join(lines[-4:])}")
    return tuple(found)


def _note_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Keep what a callback raised; a task's own failure is for who awaits the task."""
    error = context.get("exception")
    if isinstance(loop, SimulatedLoop) and "handle" in context and error is not None:
        loop.failures.append(error)
