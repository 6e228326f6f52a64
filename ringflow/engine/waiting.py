"""Waiting for a condition, with a deadline that goes through the clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from ringflow.clock import Clock


class Condition:
    """Wakes all that wait whenever something changed; the waiters look again."""

    def __init__(self) -> None:
        self._changed = anyio.Event()

    def notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until ``holds()``; what it raises ends the wait."""
        while not holds():
            await self._changed.wait()


async def within(
    clock: Clock, timeout_s: float | None, wait: Callable[[], Awaitable[object]]
) -> bool:
    """Run ``wait()`` for at most ``timeout_s`` (None: for ever); return whether it ended itself."""
    if timeout_s is None:
        await wait()
        return True
    done = False
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:

        async def expire() -> None:
            await clock.sleep(timeout_s)
            tasks.cancel_scope.cancel()

        tasks.start_soon(expire)
        try:
            await wait()
            done = True
        except Exception as error:  # re-raised below, outside of the group, not wrapped in one
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return done
