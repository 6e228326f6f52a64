"""Copies that were given up and may still come: what they touch is kept from other uses till then.

- A GPU's copy can't be called back. After its deadline it may go on at any time, and it would write
  over what somebody else has in that memory by then.
- A copy has ended when its stream has come past it, or when the context is dead.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, final

from ringflow.device.cuda.context import CudaContext
from ringflow.errors import DeviceError


@final
class Unfinished:
    """The copies of one context that nobody waits for any more."""

    def __init__(self, context: CudaContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._pending: list[tuple[Any, Callable[[], None]]] = []

    def add(self, stream: Any, ended: Callable[[], None]) -> None:
        """Call ``ended`` once all that a stream has now is done; of a dead context it is."""
        try:
            with self._context.current():
                event = self._context.make_event()
                self._context.call("cuEventRecord", event, stream)
        except DeviceError:
            if self._context.lost is None:
                raise
            ended()
            return
        with self._lock:
            self._pending.append((event, ended))

    def wait(self, timeout_s: float) -> None:
        """Block until all have ended or the time is up, and let go as ``settle``."""
        ends_at_s = time.monotonic() + timeout_s
        for event, _ in tuple(self._pending):
            left_s = max(0.0, ends_at_s - time.monotonic())
            with contextlib.suppress(DeviceError), self._context.current():
                self._context.await_event(event, left_s, what="a late copy")
        self.settle()

    def settle(self) -> None:
        """Let go of what belongs to copies that have ended by now."""
        if not self._pending:
            return
        with self._lock:
            over = [pending for pending in self._pending if self._has_ended(pending[0])]
            for pending in over:
                self._pending.remove(pending)
        for event, ended in over:
            with contextlib.suppress(DeviceError), self._context.current():
                self._context.drop_event(event)
            ended()

    def _has_ended(self, event: Any) -> bool:
        try:
            with self._context.current():
                return self._context.ask("cuEventQuery", event)
        except DeviceError:
            return self._context.lost is not None
