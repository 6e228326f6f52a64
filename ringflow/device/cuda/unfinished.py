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

import attrs

from ringflow.device.cuda.context import CudaContext
from ringflow.errors import DeviceError


@final
@attrs.define(eq=False)
class _Late:
    """What a stream may still do, and what is done after it.

    Attributes:
        event: comes after all of it; None as long as the driver refused to record one.
    """

    stream: Any
    ended: Callable[[], None]
    event: Any = None


@final
class Unfinished:
    """The copies of one context that nobody waits for any more."""

    def __init__(self, context: CudaContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._pending: list[_Late] = []

    def add(self, stream: Any, ended: Callable[[], None]) -> None:
        """Call ``ended`` once all that a stream has now is done; of a dead context it is."""
        with self._lock:
            self._pending.append(_Late(stream, ended))
        self.settle()

    def wait(self, timeout_s: float) -> None:
        """Block until all have ended or the time is up, and let go as ``settle``."""
        ends_at_s = time.monotonic() + timeout_s
        for late in tuple(self._pending):
            left_s = max(0.0, ends_at_s - time.monotonic())
            with contextlib.suppress(DeviceError), self._context.current():
                with self._lock:
                    event = self._end_of(late)
                self._context.await_event(event, left_s, what="a late copy")
        self.settle()

    def settle(self) -> None:
        """Let go of what belongs to copies that have ended by now."""
        if not self._pending:
            return
        with self._lock:
            over = [late for late in self._pending if self._has_ended(late)]
            for late in over:
                self._pending.remove(late)
        for late in over:
            if late.event is not None:
                with contextlib.suppress(DeviceError), self._context.current():
                    self._context.drop_event(late.event)
            late.ended()

    def _has_ended(self, late: _Late) -> bool:
        try:
            with self._context.current():
                return self._context.ask("cuEventQuery", self._end_of(late))
        except DeviceError:  # where the driver could not tell, it is asked again
            return self._context.lost is not None

    def _end_of(self, late: _Late) -> Any:
        """Return the event after a copy; ``current`` is needed."""
        if late.event is None:
            event = self._context.make_event()
            try:
                self._context.call("cuEventRecord", event, late.stream)
            except DeviceError:
                self._context.drop_event(event)
                raise
            late.event = event
        return late.event
