"""Stopping a kernel's grid at a message boundary, and making it work again.

- A kernel is quiesced when its grid has completed; what was not applied is parked again.
- ``resume`` finds out by itself what is left: a running grid, a returned one, or a trapped one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from ringflow.device.abi import Command, KernelState
from ringflow.device.api import LaunchStatus
from ringflow.engine.core import Core
from ringflow.engine.runtime import KernelRuntime
from ringflow.events.codec import Event
from ringflow.events.lifecycle import (
    HoldReleased,
    HoldStarted,
    KernelQuiesced,
    KernelResumed,
    QuiesceStarted,
)
from ringflow.statemachines.lifecycle import LifecycleState


async def quiesce(core: Core, runtime: KernelRuntime, *, purpose: str, at_sequence: int = 0) -> int:
    """Make the grid return; return the last applied sequence.

    Args:
        at_sequence: the first message to leave over; 0: whatever is not begun yet.
    Raises:
        KernelStalledError, KernelTrappedError: the grid did not complete.
    """
    if at_sequence:
        await runtime.until_handled(at_sequence - 1)
    runtime.pause()
    core.record_kernel(
        runtime.kernel_id, QuiesceStarted(kernel_id=runtime.kernel_id, purpose=purpose)
    )
    await runtime.until_completed(timeout_s=core.limits.step_timeout_s)
    applied = runtime.done_sequence
    runtime.detach()
    runtime.inbox.rewind(applied)
    core.record_kernel(
        runtime.kernel_id, KernelQuiesced(kernel_id=runtime.kernel_id, applied_sequence=applied)
    )
    return applied


async def quiesce_or_resume(core: Core, runtime: KernelRuntime, *, purpose: str) -> int:
    """Like ``quiesce``, but when that raises or is cancelled the kernel works on as before."""
    try:
        return await quiesce(core, runtime, purpose=purpose)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await resume_resting(core, runtime)
        raise


async def resume_resting(core: Core, runtime: KernelRuntime) -> None:
    """Let a kernel that rests, or was to rest, work on; a trapped one is left to its recovery."""
    if not core.closed and not runtime.trapped:
        facts = await resume(core, runtime)
        if facts:
            core.record_kernel(runtime.kernel_id, *facts)


async def resume(core: Core, runtime: KernelRuntime) -> tuple[Event, ...]:
    """Let the runtime's own instance work on; return the facts to record.

    A grid that has returned is launched again on its untouched regions.
    Raises:
        KernelTrappedError: the grid has trapped; it must be restored from a recovery point.
    """
    runtime.raise_if_dead()
    if runtime.returning:
        await runtime.withdraw()
    facts: tuple[Event, ...] = ()
    if runtime.status is LaunchStatus.COMPLETED:
        applied = runtime.done_sequence
        runtime.detach()
        runtime.inbox.rewind(applied)
        await launch(core, runtime, applied_sequence=applied)
    if core.state.kernels[runtime.kernel_id].state is not LifecycleState.RUNNING:
        facts = (resumed(runtime, runtime.done_sequence),)
    runtime.deliver_through = None
    runtime.flow()
    return facts


def resumed(runtime: KernelRuntime, applied_sequence: int) -> KernelResumed:
    return KernelResumed(
        kernel_id=runtime.kernel_id,
        device=runtime.instance.device.name,
        applied_sequence=applied_sequence,
    )


async def launch(
    core: Core, runtime: KernelRuntime, *, applied_sequence: int, gate_open: bool = True
) -> None:
    """Launch the runtime's instance on the regions that it has, and let the pump watch it."""
    resident = runtime.instance.resident
    await core.in_thread(
        lambda: resident.relaunch(
            base_sequence=applied_sequence,
            epoch=core.epoch,
            gate_open=gate_open,
            timeout_s=core.limits.launch_timeout_s,
            output_index=runtime.outputs.next_index(applied_sequence),
        )
    )
    runtime.done_sequence = applied_sequence
    runtime.attach()


@asynccontextmanager
async def held(
    core: Core, runtime: KernelRuntime, *, purpose: str, timeout_s: float | None = None
) -> AsyncIterator[int]:
    """Keep the grid at a message boundary for the block; yields the last applied sequence.

    Args:
        timeout_s: until it must be there; a step's deadline if None.
    """
    if timeout_s is None:
        timeout_s = core.limits.step_timeout_s
    kernel_id = runtime.kernel_id
    core.record_kernel(kernel_id, HoldStarted(kernel_id=kernel_id, purpose=purpose))
    try:
        await runtime.command(Command.HOLD, KernelState.HELD, timeout_s=timeout_s)
        yield runtime.done_sequence
    finally:
        # Also after a cancellation: a kernel that nobody releases is lost.
        if not runtime.closed:
            runtime.instance.resident.command(Command.RUN)
        if not core.closed and not runtime.closed:
            core.record_kernel(kernel_id, HoldReleased(kernel_id=kernel_id))
        runtime.deliver()
