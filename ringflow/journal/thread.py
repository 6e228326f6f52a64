"""One thread that stays, for blocking calls that come one at a time.

A call per ``to_thread.run_sync`` costs two slow wake-ups, about half an fdatasync; here the thread
waits in a C queue and answers through a pipe that the event loop watches.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any, final

import anyio
import anyio.to_thread


@final
class WorkerThread:
    """Makes blocking calls for one task; a call that was begun runs to its end."""

    def __init__(self, ready: int, wake: int) -> None:
        self._ready = ready
        self._wake = wake
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    async def call(self, function: Callable[[], Any]) -> Any:
        """Return ``function()`` or raise what it raised; not to be called by two tasks at once."""
        results: list[Any] = []
        errors: list[BaseException] = []

        def perform() -> None:
            try:
                results.append(function())
            except BaseException as error:  # handed to the caller, the thread goes on
                errors.append(error)

        with anyio.CancelScope(shield=True):
            self._calls.put(perform)
            await anyio.wait_readable(self._ready)
            os.read(self._ready, 1)
        if errors:
            raise errors[0]
        return results[0]

    def serve(self) -> None:
        """Make calls until ``stop``; the thread's own function."""
        while (call := self._calls.get()) is not None:
            call()
            os.write(self._wake, b"\0")

    def stop(self) -> None:
        self._calls.put(None)


@asynccontextmanager
async def worker_thread() -> AsyncIterator[WorkerThread]:
    """Yield a thread that ends with the block."""
    ready, wake = os.pipe()
    try:
        worker = WorkerThread(ready, wake)
        async with anyio.create_task_group() as tasks:
            own = anyio.CapacityLimiter(1)  # it stays: it must not use up the default limiter
            tasks.start_soon(partial(anyio.to_thread.run_sync, worker.serve, limiter=own))
            try:
                yield worker
            finally:
                worker.stop()
    finally:
        os.close(ready)
        os.close(wake)
