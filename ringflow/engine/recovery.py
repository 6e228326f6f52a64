"""What a new engine does with what the last one left: end its operations, relaunch its kernels.

- Every device effect of an earlier epoch is void; nothing resumes midway.
- Parked messages are simply those not yet applied: they are read from the journal.
"""

from __future__ import annotations

from ringflow.engine.checkpoints import delete_if_there
from ringflow.engine.core import Core
from ringflow.engine.operations import restart_events
from ringflow.engine.outputs import Outputs, decode_outbox
from ringflow.engine.placing import choose_device
from ringflow.engine.quiescing import resumed
from ringflow.engine.restoring import rebuild, restart_from
from ringflow.engine.runtime import KernelRuntime
from ringflow.errors import RingflowError
from ringflow.events import lifecycle as e
from ringflow.statemachines.lifecycle import KernelLife, LifecycleState
from ringflow.statemachines.snapshot import Snapshot
from ringflow.storage import ChunkType


async def recover(core: Core) -> None:
    """Bring every operation to its end and every kernel back to work."""
    for operation in core.state.unfinished():
        core.record(f"operation/{operation.operation_id}", restart_events(operation))
        if isinstance(operation, Snapshot):
            await delete_if_there(core, operation.checkpoint)
    await _delete_orphans(core)
    for life in tuple(core.state.kernels.values()):
        match life.state:
            case LifecycleState.LAUNCHING:
                failed = e.KernelLaunchFailed(kernel_id=life.kernel_id, reason="the engine ended")
                core.record_kernel(life.kernel_id, failed)
            case LifecycleState.STOPPING:
                stopped = e.KernelStopped(kernel_id=life.kernel_id, applied_sequence=0)
                core.record_kernel(life.kernel_id, stopped)
            case LifecycleState.STOPPED | LifecycleState.FAILED | LifecycleState.HALTED:
                pass
            case _:
                await _relaunch(core, life)


async def _delete_orphans(core: Core) -> None:
    """Delete checkpoints without an event: a crash came between the file and its record."""
    committed = {
        point.checkpoint for life in core.state.kernels.values() for point in life.recovery_points
    }
    for name in await core.checkpoints.list():
        if name not in committed:
            await delete_if_there(core, name)


async def _relaunch(core: Core, life: KernelLife) -> None:
    kernel_id = life.kernel_id
    try:
        device = core.devices.get(life.device) or choose_device(core.devices.values())
        rebuilt = await rebuild(core, kernel_id, device)
        outputs = Outputs(bound=core.limits.waiting_outputs)
        queue = rebuilt.checkpoint.get_chunk(ChunkType.K2H_QUEUE)
        outputs.recover(
            decode_outbox(memoryview(queue.data)) if queue is not None else (),
            applied_sequence=rebuilt.applied_sequence,
            positions=core.state.marks[kernel_id].consumers,
        )
        runtime = KernelRuntime(kernel_id, core.clock, core.pump, rebuilt.instance, outputs)
        core.runtimes[kernel_id] = runtime
        if runtime.spec.durability == "volatile":
            core.state.marks[kernel_id].next_sequence = rebuilt.applied_sequence + 1
        await restart_from(core, runtime, rebuilt, applied_sequence=None)
    except RingflowError as error:
        halted = e.KernelHalted(
            kernel_id=kernel_id, applied_sequence=0, reason=f"restart failed: {error}"
        )
        core.record_kernel(kernel_id, halted)
        core.runtimes.pop(kernel_id, None)
        return
    core.record_kernel(kernel_id, resumed(runtime, rebuilt.applied_sequence))
