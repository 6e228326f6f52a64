"""Starting tasks from code that is in no task: callbacks of the event loop, and other threads.

- Neither may use a task group: under asyncio it would not know its own event loop there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, final

from anyio.abc import TaskGroup

from ringflow.engine.waiting import Condition
from ringflow.journal.thread import LoopCaller

Work = Callable[[], Coroutine[Any, Any, None]]


@final
class Starter:
    """Has a task of its own start what others ask for, in their order; made in the event loop."""

    def __init__(self) -> None:
        self._soon = LoopCaller()
        self._asked: deque[Work] = deque()
        self._changed = Condition()

    def start(self, work: Work) -> None:
        """Start a task soon; any thread may call it. After ``run`` has ended nothing starts."""
        self._soon(partial(self._ask, work))

    def _ask(self, work: Work) -> None:
        self._asked.append(work)
        self._changed.notify()

    async def run(self, tasks: TaskGroup) -> None:
        """Start what is asked for, until it is cancelled; as a task."""
        while True:
            await self._changed.until(lambda: bool(self._asked))
            while self._asked:
                tasks.start_soon(self._asked.popleft())
