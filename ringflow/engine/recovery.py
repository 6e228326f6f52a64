"""What a new engine does with what the last one left: end its operations, relaunch its kernels.

- Every device effect of an earlier epoch is void; nothing resumes midway.
- Parked messages are simply those not yet applied: they are read from the journal.
"""

from __future__ import annotations

from contextlib import suppress

from ringflow.device.pump import Output
from ringflow.engine.checkpoints import delete_orphan
from ringflow.engine.core import Core
from ringflow.engine.devices import device_of, others_like
from ringflow.engine.operations import restart_events
from ringflow.engine.outputs import decode_outbox
from ringflow.engine.quiescing import resumed
from ringflow.engine.restoring import Rebuilt, rebuild, restart_from
from ringflow.engine.routing import marks_after_restart, pass_on, serve
from ringflow.engine.runtime import KernelRuntime
from ringflow.engine.skipped import cut_after, end_after
from ringflow.errors import DeviceMemoryError, RingflowError
from ringflow.events import lifecycle as e
from ringflow.events.messages import MessagesLost
from ringflow.routing import INDEX_MAX, OutputId, decode_sends
from ringflow.statemachines.lifecycle import KernelLife, LifecycleState
from ringflow.statemachines.snapshot import Snapshot
from ringflow.storage import ChunkType


async def recover(core: Core) -> None:
    """Bring every operation to its end and every kernel back to work."""
    for operation in core.state.unfinished():
        core.record(f"operation/{operation.operation_id}", restart_events(operation))
        if isinstance(operation, Snapshot):
            await delete_orphan(core, operation.checkpoint)
    for orphan in await orphans(core):  # a crash came between the file and its record
        await delete_orphan(core, orphan)
    for life in tuple(core.state.kernels.values()):
        match life.state:
            case LifecycleState.LAUNCHING:
                failed = e.KernelLaunchFailed(kernel_id=life.kernel_id, reason="the engine ended")
                core.record_kernel(life.kernel_id, failed)
            case LifecycleState.STOPPING:
                applied = life.recovery_points[-1].applied_sequence  # a stop begins with one
                stopped = e.KernelStopped(kernel_id=life.kernel_id, applied_sequence=applied)
                core.record_kernel(life.kernel_id, stopped)
            case LifecycleState.STOPPED | LifecycleState.FAILED:
                pass
            case LifecycleState.HALTED:
                pass  # until a person decides
            case _:
                await _relaunch(core, life)


async def orphans(core: Core) -> tuple[str, ...]:
    """Return the checkpoints that no recovery point names."""
    committed = {
        point.checkpoint for life in core.state.kernels.values() for point in life.recovery_points
    }
    return tuple(name for name in await core.checkpoints.list() if name not in committed)


def _positions(core: Core, kernel_id: str, rebuilt: Rebuilt) -> dict[str, OutputId]:
    """Return the consumers' positions; a volatile kernel's sequences begin anew after the state."""
    positions = core.state.marks[kernel_id].consumers
    if rebuilt.instance.spec.durability != "volatile":
        return positions
    end = (rebuilt.applied_sequence, INDEX_MAX)
    return {name: min(position, end) for name, position in positions.items()}


def _forget_later_messages(core: Core, kernel_id: str, applied_sequence: int) -> None:
    """Number on from the state, and say what was lost in a crash that is untold."""
    marks = core.state.marks[kernel_id]
    marks.next_sequence = applied_sequence + 1
    marks.skipped = cut_after(marks.skipped, applied_sequence)
    if marks.untold:
        lost = MessagesLost(
            kernel_id=kernel_id,
            first_sequence=applied_sequence + 1,
            last_sequence=0,
            reason="the kernel is volatile; how many messages came after its state is unknown",
        )
        core.record(f"messages/{kernel_id}", [lost])


def announce_lost(core: Core, runtime: KernelRuntime, *, applied_sequence: int, why: str) -> None:
    """Say which messages a volatile kernel took that the state it goes back to does not have.

    Args:
        why: what came before they were applied.
    """
    if core.closed or runtime.spec.durability != "volatile":
        return
    last = runtime.marks.next_sequence - 1
    kept = end_after(runtime.marks.skipped, applied_sequence)
    if last > kept:
        lost = MessagesLost(
            kernel_id=runtime.kernel_id,
            first_sequence=kept + 1,
            last_sequence=last,
            reason=f"the kernel is volatile, and {why} before they were applied",
        )
        with suppress(RingflowError):  # it must not keep the engine from going on, or closing
            core.record(f"messages/{runtime.kernel_id}", [lost])


def _outbox(rebuilt: Rebuilt) -> tuple[Output, ...]:
    """Return what the recovered state has put out and somebody lacks."""
    replies = rebuilt.checkpoint.get_chunk(ChunkType.K2H_QUEUE)
    sends = rebuilt.checkpoint.get_chunk(ChunkType.K2K_ROUTING)
    return (
        *(decode_outbox(memoryview(replies.data)) if replies is not None else ()),
        *(decode_sends(memoryview(sends.data)) if sends is not None else ()),
    )


def new_runtime(core: Core, rebuilt: Rebuilt) -> KernelRuntime:
    """Return a runtime for a kernel that none ran in this process: consumers where they were."""
    kernel_id = rebuilt.instance.spec.kernel_id
    runtime = core.runtime_for(rebuilt.instance)
    spec, applied, seen = rebuilt.instance.spec, rebuilt.applied_sequence, rebuilt.seen
    runtime.outputs.recover(
        _outbox(rebuilt),
        seen=seen,
        positions=_positions(core, kernel_id, rebuilt),
        routes=marks_after_restart(core, spec, applied_sequence=applied, seen=seen),
    )
    if spec.durability == "volatile":
        _forget_later_messages(core, kernel_id, applied)
    elif spec.durability == "async" and core.state.marks[kernel_id].untold:
        _announce_lost_suffix(core, kernel_id)
    core.runtimes[kernel_id] = runtime  # from now on it may get messages, of other kernels too
    runtime.release_outputs(seen)
    serve(core, runtime)
    return runtime


async def start(core: Core, rebuilt: Rebuilt) -> KernelRuntime:
    """Launch a kernel that none ran in this process; when it raises nothing is left of it."""
    try:
        runtime = new_runtime(core, rebuilt)
        await restart_from(core, runtime, rebuilt, applied_sequence=None)
    except RingflowError as error:
        if (left := core.runtimes.pop(rebuilt.instance.spec.kernel_id, None)) is not None:
            left.end(halted=str(error))
            applied, why = rebuilt.applied_sequence, "its start failed"
            announce_lost(core, left, applied_sequence=applied, why=why)
        await core.in_thread(rebuilt.instance.discard)
        raise
    return runtime


async def _relaunch(core: Core, life: KernelLife) -> None:
    kernel_id = life.kernel_id
    try:
        rebuilt, runtime = await _started_where_there_is_room(core, life)
    except RingflowError as error:  # nothing is given up: the next opening tries again
        core.stranded[kernel_id] = str(error)
        return
    core.record_kernel(kernel_id, resumed(runtime, rebuilt.applied_sequence))
    pass_on(core, runtime)


async def _started_where_there_is_room(
    core: Core, life: KernelLife
) -> tuple[Rebuilt, KernelRuntime]:
    """Start a kernel on its device, or if that is full on another one of its kind."""
    own = device_of(core, life)
    failure: DeviceMemoryError | None = None
    for device in (own, *others_like(core, own)):
        try:
            rebuilt = await rebuild(core, life.kernel_id, device)
        except DeviceMemoryError as error:
            failure = failure or error
        else:
            return rebuilt, await start(core, rebuilt)
    assert failure is not None
    raise failure


def _announce_lost_suffix(core: Core, kernel_id: str) -> None:
    lost = MessagesLost(
        kernel_id=kernel_id,
        first_sequence=core.state.marks[kernel_id].next_sequence,
        last_sequence=0,
        reason="the kernel is async; whether messages were accepted that the journal did not get "
        "before the crash is unknown",
    )
    core.record(f"messages/{kernel_id}", [lost])
