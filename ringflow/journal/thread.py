"""Between one thread that stays and the event loop, without a task in between.

- A thread call per batch (``to_thread.run_sync``) costs two slow wake-ups, about half an
  fdatasync; a pipe costs the loop two system calls and a task switch for each answer.
- The thread sleeps in a C queue, and has the loop call back directly.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, final

import anyio.lowlevel

LoopCaller = Callable[[Callable[[], object]], None]

_CALL_SOON: Final = ("call_soon_threadsafe", "run_sync_soon")  # asyncio's and trio's


def loop_caller() -> LoopCaller:
    """Return what has this event loop call a function soon; any thread may use it.

    Functions are called in the order given, in the caller's context of now. They must not raise.
    ``anyio.from_thread`` would do the same, but makes the thread wait for the answer, which costs
    20 us more a call.
    """
    token: Any = anyio.lowlevel.current_token().native_token
    (soon,) = [getattr(token, name) for name in _CALL_SOON if hasattr(token, name)]
    context = copy_context()

    def call(function: Callable[[], object]) -> None:
        soon(partial(context.run, function))

    return call


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
