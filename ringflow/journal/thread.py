"""Between one thread that stays and the event loop, without a task in between.

- A thread call per batch (``to_thread.run_sync``) costs two slow wake-ups, about half an
  fdatasync; a pipe costs the loop two system calls and a task switch for each answer.
- The thread sleeps in a C queue, and has the loop call back directly.
- Once somebody waits, an event of the system's wakes asyncio's loop: its own pipe costs two more
  system calls each time.
- trio calls back from a task of its own; there a task that waits alone is woken by the thread
  itself. Many are not: the calls for it would let the thread begin with the first one's work.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, Final, final

import anyio
import anyio.lowlevel

_TRIO_CALL: Final = "run_sync_soon"
_ASYNCIO_CALL: Final = "call_soon_threadsafe"
_ADD_READER: Final = "add_reader"  # loops on other systems than Linux may lack it


@final
class LoopCaller:
    """Has the event loop that it was made in call functions soon; any thread may use it.

    Functions are called in the order given, in the maker's context. They must not raise.
    ``anyio.from_thread`` would do the same, but makes the thread wait for the answer, which costs
    20 us more a call.
    """

    def __init__(self) -> None:
        loop: Any = anyio.lowlevel.current_token().native_token
        is_trio = hasattr(loop, _TRIO_CALL)
        self._loop = loop
        self._soon: Callable[[Callable[[], object]], object] = getattr(
            loop, _TRIO_CALL if is_trio else _ASYNCIO_CALL
        )
        self._wakes_loop = False
        self._can_wake_loop = not is_trio and hasattr(os, "eventfd") and hasattr(loop, _ADD_READER)
        self._can_wake = is_trio and hasattr(os, "eventfd")
        self._context = copy_context()
        self._functions: deque[Callable[[], object]] = deque()
        self._wakes_waiter = False
        self._waiting = self._arrivals = 0
        self._is_crowded = False
        self._waker: int | None = None  # made for the first waiter

    def __call__(self, function: Callable[[], object]) -> None:
        self._functions.append(function)  # first: a waiter that leaves now finds it there
        if (self._wakes_waiter or self._wakes_loop) and self._waker is not None:
            os.eventfd_write(self._waker, 1)
        else:
            self._soon(self._called_back)

    async def until(self, event: anyio.Event) -> None:
        """Wait for an event that one of the functions sets; nobody else may set it."""
        if self._can_wake_loop and not self._wakes_loop:
            self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._loop.add_reader(self._waker, self._loop_woken, self._waker)
            self._wakes_loop = True
        self._arrivals += 1
        arrival, is_alone = self._arrivals, self._waiting == 0
        self._is_crowded |= not is_alone
        self._waiting += 1
        try:
            if self._can_wake and not self._is_crowded:
                await self._be_woken(event)
            else:
                await event.wait()
        finally:
            self._waiting -= 1
            if is_alone and self._arrivals == arrival:
                self._is_crowded = False

    async def _be_woken(self, event: anyio.Event) -> None:
        if self._waker is None:
            self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._wakes_waiter = True
        try:
            while not event.is_set():
                await anyio.wait_readable(self._waker)
                os.eventfd_read(self._waker)
                self._call_all()
        finally:
            self._wakes_waiter = False
            self._call_all()
            if not self._can_wake:
                self._let_go()

    def close(self) -> None:
        """Let go of what ``until`` took; in the event loop, after the last call."""
        self._can_wake = self._can_wake_loop = False
        if self._wakes_loop:
            self._loop.remove_reader(self._waker)
        if not self._wakes_waiter:
            self._let_go()

    def _let_go(self) -> None:
        if self._waker is not None:
            os.close(self._waker)
            self._waker = None

    def _loop_woken(self, waker: int) -> None:
        os.eventfd_read(waker)
        self._call_all()

    def _called_back(self) -> None:
        self._call_all()
        if self._wakes_waiter and self._waker is not None:
            os.eventfd_write(self._waker, 1)  # it came while this call was on its way

    def _call_all(self) -> None:
        while self._functions:
            self._context.run(self._functions.popleft())


@final
class Bell:
    """Rung anywhere, waited for in one thread; rings before a wait are one."""

    def __init__(self) -> None:
        self._rings: SimpleQueue[None] = SimpleQueue()
        self._rung = False

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._rings.put(None)

    def wait(self) -> None:
        """Block until it was rung since the last wait."""
        self._rings.get()
        self._rung = False
