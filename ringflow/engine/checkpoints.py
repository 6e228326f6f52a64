"""Recovery points: saving a state, committing it, retiring old ones.

- First the immutable file, then the event: a file without its event is an orphan.
- Retention journals ``checkpoint.retired`` before it deletes.
"""

from __future__ import annotations

import contextlib

import anyio
import attrs

from ringflow.engine.core import Core
from ringflow.engine.instances import (
    CopiedState,
    Instance,
    build_checkpoint,
    check_listed,
    copy_state,
)
from ringflow.engine.outputs import encode_outbox
from ringflow.engine.quiescing import held
from ringflow.engine.runtime import KernelRuntime
from ringflow.errors import StorageError, UsageError
from ringflow.events.lifecycle import CheckpointRetired, RecoveryPointCommitted
from ringflow.routing import OutputId, encode_sends
from ringflow.spec_codec import encode_spec
from ringflow.statemachines.lifecycle import RecoveryPoint, point_named, retirable_points
from ringflow.storage import Checkpoint


@attrs.frozen(eq=False)
class Captured:
    """A consistent state of a live kernel, with its outbox, before it is saved."""

    state: CopiedState
    outbox: bytes
    sends: bytes
    output_index: int
    pause_ns: int

    @property
    def covered(self) -> OutputId:
        """The last output that the state has made; of index -1 if its last message made none."""
        return self.state.applied_sequence, self.output_index - 1


async def capture_held(
    core: Core, runtime: KernelRuntime, *, purpose: str, timeout_s: float | None = None
) -> Captured:
    """Hold the kernel within ``timeout_s`` (see ``held``), copy its state, let it work again."""
    started_ns = core.clock.monotonic_ns()
    async with held(core, runtime, purpose=purpose, timeout_s=timeout_s) as applied:
        captured = await capture_resting(core, runtime, applied)
    return attrs.evolve(captured, pause_ns=core.clock.monotonic_ns() - started_ns)


async def take(core: Core, kernel_id: str) -> Checkpoint:
    """Return a live kernel's checkpoint as a value in memory."""
    runtime = core.runtime(kernel_id)
    core.check_free(kernel_id)
    with core.lease(kernel_id, "checkpoint()"):
        captured = await capture_held(core, runtime, purpose="checkpoint")
    return checkpoint_of(core, runtime.instance, captured)


async def capture_resting(core: Core, runtime: KernelRuntime, applied: int) -> Captured:
    """Copy the state of a kernel that is held or quiesced already.

    Raises:
        UnlistedStateError: what it keeps outside of its regions would be missing.
    """
    check_listed(runtime.instance, "checkpoint")
    waiting = runtime.outputs.unacknowledged(applied)
    replies = [output for output in waiting if output.route is None]
    sends = encode_sends(output for output in waiting if output.route is not None)
    output_index = runtime.outputs.next_index(applied)
    state, outbox = await core.in_thread(
        lambda: (copy_state(runtime.instance, applied), encode_outbox(replies))
    )
    return Captured(state, outbox, sends, output_index, 0)


def checkpoint_of(core: Core, instance: Instance, captured: Captured) -> Checkpoint:
    """Return the checkpoint of a captured state."""
    return build_checkpoint(
        instance.spec,
        captured.state,
        grid=instance.resident.grid,
        epoch=core.epoch,
        outbox=captured.outbox,
        sends=captured.sends,
        output_index=captured.output_index,
        at_ns=core.clock.now_ns(),
    )


async def save(
    core: Core,
    instance: Instance,
    captured: Captured,
    *,
    name: str,
    reason: str,
    pinned: bool = False,
    history_from: int = 0,
) -> RecoveryPointCommitted:
    """Make spec, code and checkpoint durable; return the event that commits them.

    Args:
        pinned: retention leaves it alone.
        history_from: with a value the point is a barrier, see ``RecoveryPointCommitted``.
    """
    spec, compiled = instance.spec, instance.compiled
    checkpoint = checkpoint_of(core, instance, captured)

    def put() -> tuple[str, str, str]:
        return (
            core.objects.put(encode_spec(spec)),
            core.objects.put(compiled.code),
            checkpoint.identity(),
        )

    spec_digest, code_digest, identity = await core.in_thread(put)
    await core.checkpoints.save(checkpoint, name)
    return RecoveryPointCommitted(
        kernel_id=spec.kernel_id,
        checkpoint=name,
        identity=identity,
        replay_from=captured.state.applied_sequence + 1,
        spec_digest=spec_digest,
        version_id=spec.code.version_id,
        code_digest=code_digest,
        code_target=compiled.target,
        barrier=history_from > 0,
        history_from=history_from,
        pinned=pinned,
        reason=reason,
    )


async def retire(core: Core, kernel_id: str) -> None:
    """Delete checkpoints beyond the limit, oldest first."""
    points = retirable_points(core.state.kernels[kernel_id], core.limits.recovery_points_kept)
    await _retire(core, kernel_id, points, actor="", reason="limit")


async def retire_named(core: Core, kernel_id: str, name: str, *, actor: str, reason: str) -> None:
    """Delete one checkpoint; raises ``UsageError`` if the kernel needs it."""
    life = core.state.kernel(kernel_id)
    point = point_named(life, name)
    if point is None:
        raise UsageError(f"kernel {kernel_id!r} has no checkpoint {name!r}; see recovery_points()")
    core.check_free(kernel_id)
    if point is life.recovery_points[-1] and not life.is_terminal:
        raise UsageError(
            f"checkpoint {name!r} is the newest recovery point of kernel {kernel_id!r}; make "
            "another one first"
        )
    await _retire(core, kernel_id, (point,), actor=actor, reason=reason)


async def _retire(
    core: Core, kernel_id: str, points: tuple[RecoveryPoint, ...], *, actor: str, reason: str
) -> None:
    """Delete checkpoints, each event before its file."""
    if not points:
        return
    append = core.record_kernel(
        kernel_id,
        *(
            CheckpointRetired(
                kernel_id=kernel_id, checkpoint=point.checkpoint, actor=actor, reason=reason
            )
            for point in points
        ),
    )
    with anyio.CancelScope(shield=True):
        await core.journal.until_durable(append)
        for point in points:
            await delete_orphan(core, point.checkpoint)


async def delete_orphan(core: Core, name: str) -> None:
    """Delete a checkpoint that no event names; what can't be deleted now is at the next opening."""
    with contextlib.suppress(StorageError):
        await core.checkpoints.delete(name)
