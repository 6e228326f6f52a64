"""Recovery points: saving a state, committing it, retiring old ones.

- First the immutable file, then the event: a file without its event is an orphan.
- Retention journals ``checkpoint.retired`` before it deletes.
"""

from __future__ import annotations

import contextlib

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
from ringflow.errors import StorageError
from ringflow.events.lifecycle import CheckpointRetired, RecoveryPointCommitted
from ringflow.spec import encode_spec
from ringflow.statemachines.lifecycle import retirable_points
from ringflow.storage import Checkpoint


@attrs.frozen(eq=False)
class Captured:
    """A consistent state of a live kernel, with its outbox, before it is saved."""

    state: CopiedState
    outbox: bytes
    output_index: int
    pause_ns: int


async def capture_held(core: Core, runtime: KernelRuntime, *, purpose: str) -> Captured:
    """Hold the kernel, copy its state, let it work again."""
    started_ns = core.clock.monotonic_ns()
    async with held(core, runtime, purpose=purpose) as applied:
        captured = await capture_resting(core, runtime, applied)
    return attrs.evolve(captured, pause_ns=core.clock.monotonic_ns() - started_ns)


async def capture_resting(core: Core, runtime: KernelRuntime, applied: int) -> Captured:
    """Copy the state of a kernel that is held or quiesced already.

    Raises:
        UnlistedStateError: what it keeps outside of its regions would be missing.
    """
    check_listed(runtime.instance, "checkpoint")
    outbox = encode_outbox(runtime.outputs.unacknowledged(applied))
    output_index = runtime.outputs.next_index(applied)
    state = await core.in_thread(lambda: copy_state(runtime.instance, applied))
    return Captured(state, outbox, output_index, 0)


def checkpoint_of(core: Core, instance: Instance, captured: Captured) -> Checkpoint:
    """Return the checkpoint of a captured state."""
    return build_checkpoint(
        instance.spec,
        captured.state,
        grid=instance.resident.grid,
        epoch=core.epoch,
        outbox=captured.outbox,
        output_index=captured.output_index,
        at_ns=core.clock.now_ns(),
    )


async def save(
    core: Core,
    instance: Instance,
    captured: Captured,
    *,
    name: str,
    barrier: bool,
    reason: str,
) -> RecoveryPointCommitted:
    """Make spec, code and checkpoint durable; return the event that commits them."""
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
        barrier=barrier,
        reason=reason,
    )


async def retire(core: Core, kernel_id: str) -> None:
    """Delete checkpoints beyond the limit, oldest first, the event before the file."""
    points = retirable_points(core.state.kernels[kernel_id], core.limits.recovery_points_kept)
    if not points:
        return
    append = core.record_kernel(
        kernel_id,
        *(CheckpointRetired(kernel_id=kernel_id, checkpoint=one.checkpoint) for one in points),
    )
    await core.journal.until_durable(append)
    for point in points:
        await delete_orphan(core, point.checkpoint)


async def delete_orphan(core: Core, name: str) -> None:
    """Delete a checkpoint that no event names; what can't be deleted now is at the next opening."""
    with contextlib.suppress(StorageError):
        await core.checkpoints.delete(name)
