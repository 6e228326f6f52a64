"""Waiting until something that others change is as it must be."""

from __future__ import annotations

from collections.abc import Callable

import anyio


class Condition:
    """Wakes all that wait whenever something changed; the waiters look again."""

    def __init__(self) -> None:
        self._changed: anyio.Event | None = None

    def notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until ``holds()``; what it raises ends the wait."""
        while not holds():
            if self._changed is None:
                self._changed = anyio.Event()
            await self._changed.wait()
