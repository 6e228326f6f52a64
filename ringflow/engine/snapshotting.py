"""Performs a snapshot's effects: hold, copy, save, commit."""

from __future__ import annotations

from contextlib import AsyncExitStack

from ringflow.engine import checkpoints
from ringflow.engine.checkpoints import Captured
from ringflow.engine.core import Core
from ringflow.engine.operations import Outcome
from ringflow.engine.quiescing import held
from ringflow.engine.runtime import KernelRuntime
from ringflow.engine.state import Operation
from ringflow.events import snapshot as e
from ringflow.statemachines import effects
from ringflow.statemachines.effects import Effect


class SnapshotPerformer:
    """One snapshot's work; the hold lasts from ``HoldKernel`` to the end of ``CopyState``.

    Args:
        pinned: a person named the checkpoint, so that only a person retires it.
    """

    def __init__(self, core: Core, runtime: KernelRuntime, *, pinned: bool) -> None:
        self._core = core
        self._pinned = pinned
        self._runtime = runtime
        self._hold = AsyncExitStack()
        self._applied = 0
        self._captured: Captured | None = None

    async def perform(self, effect: Effect) -> Outcome:
        ids = {"operation_id": effect.operation_id, "kernel_id": effect.kernel_id}
        core, runtime = self._core, self._runtime
        match effect:
            case effects.BeginOperation():
                return Outcome(e.SnapshotStarted(**ids))
            case effects.HoldKernel():
                self._started_ns = core.clock.monotonic_ns()
                hold = held(core, runtime, purpose="snapshot")
                self._applied = await self._hold.enter_async_context(hold)
                return Outcome(e.SnapshotHeld(**ids, applied_sequence=self._applied))
            case effects.CopyState():
                async with self._hold:
                    captured = await checkpoints.capture_resting(core, runtime, self._applied)
                self._captured = captured
                copied = e.SnapshotCopied(
                    **ids,
                    digests=captured.state.digests,
                    state_bytes=captured.state.size_bytes,
                    pause_ns=core.clock.monotonic_ns() - self._started_ns,
                )
                return Outcome(copied)
            case effects.SaveCheckpoint(checkpoint=name):
                assert self._captured is not None
                point = await checkpoints.save(
                    core,
                    runtime.instance,
                    self._captured,
                    name=name,
                    pinned=self._pinned,
                    reason="snapshot",
                )
                return Outcome(e.SnapshotSaved(**ids, checkpoint=name), (point,))
            case _:
                raise AssertionError(effect)

    async def abandon(self) -> None:
        """Release the hold."""
        await self._hold.aclose()

    async def finish(self, state: Operation) -> None:
        """Release the hold of a snapshot that did not come to its copy; retire old files."""
        await self._hold.aclose()
        if state.state.value == "saved":
            assert self._captured is not None
            self._runtime.release_outputs(self._captured.covered)
            await checkpoints.retire(self._core, self._runtime.kernel_id)
