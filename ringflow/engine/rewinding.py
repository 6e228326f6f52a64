"""Earlier states put in place by a person: restores, rollbacks, and the end of a halt.

- What a person decided is durable before a grid runs on it: a restart then comes to the same.
- A rollback prepares everything first; until its record the kernel works as before.
- What was undone or skipped is never applied again, by no replay (``messages.skipped.v1``).
"""

from __future__ import annotations

import contextlib
from typing import Literal

import anyio

from ringflow.engine import instances
from ringflow.engine.core import Core
from ringflow.engine.devices import device_of
from ringflow.engine.launching import commit_resting
from ringflow.engine.quiescing import quiesce_or_resume, resume, resume_resting, resumed
from ringflow.engine.recovery import new_runtime, start
from ringflow.engine.restoring import (
    Rebuilt,
    halt,
    halted_without_message,
    rebuild,
    rebuild_at,
    replay,
    restart_from,
)
from ringflow.engine.routing import pass_on
from ringflow.engine.runtime import KernelRuntime
from ringflow.errors import (
    DeviceError,
    KernelStateError,
    RegionMismatchError,
    RingflowError,
    RouteError,
    StorageError,
    UsageError,
)
from ringflow.events.codec import Event
from ringflow.events.lifecycle import HaltResolved, KernelRolledBack, RecoveryPointCommitted
from ringflow.events.messages import MessagesSkipped
from ringflow.results import RollbackResult
from ringflow.spec import KernelSpec
from ringflow.statemachines.lifecycle import (
    KernelLife,
    LifecycleState,
    RecoveryPoint,
    point_before_reload,
    point_named,
)
from ringflow.storage import Checkpoint

Decision = Literal["retry", "skip"]


async def resume_halted(
    core: Core, kernel_id: str, decision: Decision, *, actor: str, reason: str
) -> None:
    """Rebuild a halted kernel from its recovery point, with or without what trapped it."""
    life = core.state.kernel(kernel_id)
    _check_decision(life, decision)
    core.check_free(kernel_id)
    message = life.halted_by
    resolved = HaltResolved(
        kernel_id=kernel_id,
        decision=decision,
        message_sequence=message,
        actor=actor,
        reason=reason,
    )
    events: list[Event] = [resolved]
    if decision == "skip":
        events.append(_skipped(kernel_id, message, message, actor, reason))
    with core.lease(kernel_id, "resume()"), anyio.CancelScope(shield=True):
        await core.journal.until_durable(core.record_kernel(kernel_id, *events))
        await _work_again(core, life)


def _check_decision(life: KernelLife, decision: Decision) -> None:
    if decision not in ("retry", "skip"):
        raise UsageError(f"decision {decision!r} is neither 'retry' nor 'skip'; use one of them")
    if life.state is not LifecycleState.HALTED:
        raise KernelStateError(life.kernel_id, life.state.value, "halted")
    if decision == "skip" and not life.halted_by:
        raise UsageError(
            f"no message halted kernel {life.kernel_id!r} ({life.reason}); mend that and retry, or "
            "roll back"
        )


def _skipped(kernel_id: str, first: int, last: int, actor: str, reason: str) -> MessagesSkipped:
    return MessagesSkipped(
        kernel_id=kernel_id,
        first_sequence=first,
        last_sequence=last,
        actor=actor,
        reason=reason,
    )


async def _work_again(core: Core, life: KernelLife) -> None:
    """Rebuild a kernel whose halt was resolved; halted again, with the reason, if that fails."""
    kernel_id = life.kernel_id
    runtime = core.runtimes.get(kernel_id)
    if runtime is not None:
        runtime.revive()
        facts = await replay(
            core, runtime, device_of(core, life), applied_sequence=life.halted_after
        )
        core.record_kernel(kernel_id, *facts)
        pass_on(core, runtime)  # what other kernels sent waited for this one
        return
    try:  # it was halted before this opening: no runtime is left of it
        rebuilt = await rebuild(core, kernel_id, device_of(core, life))
        runtime = await start(core, rebuilt)
    except RingflowError as error:
        if not core.closed:
            halted = halted_without_message(kernel_id, str(error), life.halted_after)
            core.record_kernel(kernel_id, halted)
        raise
    core.record_kernel(kernel_id, resumed(runtime, rebuilt.applied_sequence))
    pass_on(core, runtime)


async def rollback(
    core: Core,
    kernel_id: str,
    *,
    to: str | None,
    before_reload: bool,
    undo_messages: bool,
    actor: str,
    reason: str,
) -> RollbackResult:
    """Put state and code of an earlier recovery point in place."""
    life = core.state.kernel(kernel_id)
    is_halted = life.state is LifecycleState.HALTED
    runtime = core.runtimes.get(kernel_id) if is_halted else core.runtime(kernel_id)
    point = _target(life, to, before_reload=before_reload)
    core.check_free(kernel_id)
    if runtime is not None:
        instances.check_listed(runtime.instance, "rollback")
    with core.lease(kernel_id, "rollback()"):
        target = await rebuild_at(core, life, point, device_of(core, life))
        try:
            _check_routes(core, target.instance.spec)
            if runtime is not None and not is_halted:
                applied = await quiesce_or_resume(core, runtime, purpose="rollback")
            else:
                applied = max(life.halted_by, life.halted_after)
            again = await _save_again(core, kernel_id, point, target.checkpoint)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await core.in_thread(target.instance.discard)
                if runtime is not None and not is_halted:
                    await resume_resting(core, runtime)
            raise
        undone = max(0, applied - point.applied_sequence) if undo_messages else 0
        events: list[Event] = [
            KernelRolledBack(
                kernel_id=kernel_id,
                checkpoint=point.checkpoint,
                was_applied=applied,
                undone=undo_messages,
                actor=actor,
                reason=reason,
            ),
            again,
        ]
        if is_halted:
            resolved = HaltResolved(
                kernel_id=kernel_id,
                decision="rollback",
                message_sequence=life.halted_by,
                actor=actor,
                reason=reason,
            )
            events.insert(0, resolved)
        if undone:
            events.append(_skipped(kernel_id, point.replay_from, applied, actor, reason))
        with anyio.CancelScope(shield=True):
            await core.journal.until_durable(core.record_kernel(kernel_id, *events))
            await _replace(core, kernel_id, runtime, target, applied)
    return RollbackResult(
        kernel_id=kernel_id,
        checkpoint=point.checkpoint,
        version_id=point.version_id,
        applied_sequence=point.applied_sequence,
        undone_count=undone,
    )


def _target(life: KernelLife, to: str | None, *, before_reload: bool) -> RecoveryPoint:
    known = ", ".join(point.checkpoint for point in life.recovery_points) or "none"
    if to is not None and before_reload:
        raise UsageError("to and before_reload name two recovery points; give one of them")
    if to is not None:
        point = point_named(life, to)
        if point is None:
            raise UsageError(
                f"kernel {life.kernel_id!r} has no recovery point {to!r}; it has {known}"
            )
        return point
    if before_reload:
        point = point_before_reload(life)
        if point is None:
            raise UsageError(
                f"kernel {life.kernel_id!r} keeps no recovery point from before a reload; it has "
                f"{known}"
            )
        return point
    if not life.recovery_points:
        raise UsageError(f"kernel {life.kernel_id!r} has no recovery point; checkpoint it first")
    return life.recovery_points[-1]


def _check_routes(core: Core, spec: KernelSpec) -> None:
    """Raise ``RouteError`` while a route is connected that the earlier code does not have."""
    for edge in core.state.routing.of(spec.kernel_id):
        if edge.number >= len(spec.routes):
            raise RouteError(
                spec.kernel_id,
                edge.route,
                "is connected, and the code to roll back to does not have it; disconnect it first",
            )


async def _save_again(
    core: Core, kernel_id: str, point: RecoveryPoint, checkpoint: Checkpoint
) -> RecoveryPointCommitted:
    """Save the earlier state as the newest recovery point; return the event that commits it."""
    name = f"{kernel_id}@{core.ids.new('rollback')}"
    await core.checkpoints.save(checkpoint, name)
    return RecoveryPointCommitted(
        kernel_id=kernel_id,
        checkpoint=name,
        identity=point.identity,
        replay_from=point.replay_from,
        spec_digest=point.spec_digest,
        version_id=point.version_id,
        code_digest=point.code_digest,
        code_target=point.code_target,
        barrier=True,
        history_from=point.replay_from,
        pinned=False,
        reason="rollback",
    )


async def _replace(
    core: Core, kernel_id: str, runtime: KernelRuntime | None, target: Rebuilt, applied: int
) -> None:
    """Let the prepared instance work in place of the present one, if there is one."""
    handled: int | None = applied
    if runtime is None:
        runtime, handled = new_runtime(core, target), None
    else:
        with contextlib.suppress(DeviceError):  # memory that can't be freed stops nobody
            await core.in_thread(runtime.instance.close)
        runtime.revive()
    try:
        await restart_from(core, runtime, target, applied_sequence=handled)
    except RingflowError as error:
        await core.in_thread(target.instance.discard)
        halt(core, runtime, str(error), applied_sequence=target.applied_sequence)
        raise
    core.record_kernel(kernel_id, resumed(runtime, target.applied_sequence))
    pass_on(core, runtime)


async def restore(core: Core, kernel_id: str, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's regions in place of the present ones and commit that durably."""
    runtime = core.runtime(kernel_id)
    core.check_free(kernel_id)
    instances.check_listed(runtime.instance, "restore")
    difference = instances.layout_difference(runtime.instance, checkpoint)
    if difference is not None:
        raise RegionMismatchError(*difference)
    with core.lease(kernel_id, "restore()"):
        instance = runtime.instance
        applied = await quiesce_or_resume(core, runtime, purpose="restore")
        with anyio.CancelScope(shield=True):
            try:
                await core.in_thread(lambda: instances.write_checkpoint(instance, checkpoint))
                await commit_resting(core, runtime, applied, reason="restore", barrier=True)
            except (StorageError, DeviceError):  # the regions are half-written: go back
                await core.in_thread(instance.discard)
                facts = await replay(core, runtime, instance.device, applied_sequence=applied)
                core.record_kernel(kernel_id, *facts)
                raise
            core.record_kernel(kernel_id, *await resume(core, runtime))
