"""Checkpoints that a spec asks for: after so many messages, or so much time.

- They bound what a restart has to replay. They are snapshots like any other, without a name.
- Nothing is taken where nothing has changed since the last one, or while the kernel is leased; one
  that fails is tried again a whole period later.
- Only a clock tells that a kernel has changed without a message.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import final

import attrs

from ringflow.clock import NS_PER_S
from ringflow.engine import requests
from ringflow.engine.core import Core
from ringflow.engine.runtime import KernelRuntime
from ringflow.errors import RingflowError


@attrs.define
class _Last:
    """When a kernel's last checkpoint was begun, after which message, and after which step."""

    sequence: int
    at_ns: int
    steps: int


@final
class Checkpointer:
    """Begins the checkpoints that are due; the engine tells it of every kernel's progress."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._last: dict[str, _Last] = {}
        self._waiting: set[str] = set()

    def consider(self, runtime: KernelRuntime) -> None:
        """Begin a checkpoint of a kernel if one is due; never waits."""
        every_messages = runtime.spec.checkpoint_every_messages
        every_s = runtime.spec.checkpoint_every_s
        if not every_messages and not every_s:
            return
        core, kernel_id = self._core, runtime.kernel_id
        if core.closed or core.closing or runtime.halted or runtime.closed or runtime.trapped:
            return
        last = self._last_of(runtime)
        now_ns, done = core.clock.monotonic_ns(), runtime.done_sequence
        period_ns = round(every_s * NS_PER_S)
        due_ns = last.at_ns + period_ns
        by_time = every_s > 0 and now_ns >= due_ns and _has_changed(runtime, last)
        if by_time or (every_messages and done - last.sequence >= every_messages):
            with suppress(RingflowError):  # it is leased: what ends the lease asks again
                requests.start_snapshot(core, kernel_id, name=None, actor="", reason="periodic")
                self._last[kernel_id] = _Last(done, now_ns, runtime.steps)
        elif every_s > 0 and kernel_id not in self._waiting:
            self._waiting.add(kernel_id)
            look_ns = due_ns if now_ns < due_ns else now_ns + period_ns
            core.tasks.start_soon(partial(self._later, kernel_id, look_ns))

    def _last_of(self, runtime: KernelRuntime) -> _Last:
        points = self._core.state.kernels[runtime.kernel_id].recovery_points
        newest = points[-1].applied_sequence if points else 0
        last = self._last.get(runtime.kernel_id)
        if last is None or newest > last.sequence:
            last = _Last(newest, self._core.clock.monotonic_ns(), runtime.steps)
            self._last[runtime.kernel_id] = last
        return last

    async def _later(self, kernel_id: str, look_ns: int) -> None:
        await self._core.clock.sleep_until(look_ns)
        self._waiting.discard(kernel_id)
        runtime = self._core.runtimes.get(kernel_id)
        if runtime is not None:
            self.consider(runtime)


def _has_changed(runtime: KernelRuntime, last: _Last) -> bool:
    """Whether there is something new to save, or outputs wait for being covered."""
    done = runtime.done_sequence
    return done > last.sequence or runtime.steps != last.steps or runtime.outputs.holds_any(done)
