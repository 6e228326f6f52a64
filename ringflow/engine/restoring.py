"""Rebuilding a kernel from its newest good recovery point, and the messages after it.

- Only journaled recovery points are used; a missing or damaged checkpoint falls back, and says so.
- A kernel that trapped too often in a row after one message is halted, others run on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import attrs

from ringflow.device.api import Device, LaunchStatus
from ringflow.device.compiler.api import CompiledCode
from ringflow.device.compiler.cache import CompileCache
from ringflow.device.posting import Posting
from ringflow.engine import instances
from ringflow.engine.bulk import check_readable, posting_of
from ringflow.engine.core import Core
from ringflow.engine.devices import note_loss, on_some_place
from ringflow.engine.instances import Instance
from ringflow.engine.quiescing import launch, resumed
from ringflow.engine.runtime import KernelRuntime
from ringflow.engine.skipped import end_after, is_in
from ringflow.errors import (
    CorruptError,
    DeviceError,
    JournalClosedError,
    KernelTrappedError,
    RingflowError,
    StorageError,
)
from ringflow.events.codec import Event
from ringflow.events.lifecycle import (
    KernelDeviceLost,
    KernelHalted,
    KernelTrapped,
    RecoveryFellBack,
)
from ringflow.events.messages import BulkMessageAccepted, MessagesAccepted, MessagesLost
from ringflow.events.payloads import check_payload
from ringflow.routing import INDEX_MAX, OutputId, last_output
from ringflow.spec import Dim3, KernelSpec
from ringflow.statemachines.lifecycle import KernelLife, RecoveryPoint, evolve, fallback_points
from ringflow.storage import Checkpoint, ObjectStore


@attrs.frozen(eq=False)
class Rebuilt:
    """An instance whose regions hold a recovery point's state; it is not launched yet."""

    instance: Instance
    checkpoint: Checkpoint
    applied_sequence: int

    @property
    def seen(self) -> OutputId:
        """The last output that the recovery point's state has made."""
        text = self.checkpoint.metadata.custom.get(instances.OUTPUT_INDEX_KEY, "")
        if not text.isdecimal() or int(text) > INDEX_MAX:
            return self.applied_sequence, INDEX_MAX
        return last_output(self.applied_sequence, int(text))


async def rebuild(core: Core, kernel_id: str, device: Device) -> Rebuilt:
    """Return the kernel at its newest usable recovery point, on ``device``, or where there is room
    if that is lost.

    Raises:
        StorageError: no recovery point is usable.
        DeviceError: the device, or each that is left once it is lost, refused code or memory.
    """
    return await on_some_place(core, device, lambda place: _rebuild_on(core, kernel_id, place))


async def _rebuild_on(core: Core, kernel_id: str, device: Device) -> Rebuilt:
    life, fallen = core.state.kernels[kernel_id], []
    for point in fallback_points(life):
        try:
            rebuilt = await rebuild_at(core, life, point, device)
        except StorageError as error:
            fell = RecoveryFellBack(
                kernel_id=kernel_id, checkpoint=point.checkpoint, reason=str(error)
            )
            fallen.append(fell)
            continue
        if fallen:  # only now: with no usable point nothing is given up
            core.record_kernel(kernel_id, *fallen)
        return rebuilt
    raise StorageError(
        f"kernel {kernel_id!r} has no usable recovery point "
        f"({'; '.join(one.reason for one in fallen)}); restore a checkpoint file from a copy"
    )


async def rebuild_at(core: Core, life: KernelLife, point: RecoveryPoint, device: Device) -> Rebuilt:
    """Return the kernel at one recovery point, on ``device``.

    Raises:
        StorageError: the checkpoint, the spec or the code is missing or damaged.
        DeviceError: the device refused code or memory.
    """
    checkpoint = await load_point(core, point)
    spec = await core.spec_of(point.spec_digest)
    fill = partial(_fill, core, device, spec, point, checkpoint, life.grid)
    return Rebuilt(await core.in_thread(fill), checkpoint, point.applied_sequence)


async def load_point(core: Core, point: RecoveryPoint) -> Checkpoint:
    checkpoint = await core.checkpoints.load(point.checkpoint)
    identity = await core.in_thread(checkpoint.identity)
    if identity != point.identity:
        raise CorruptError(
            f"checkpoint {point.checkpoint!r} has identity {identity}, the journal says "
            f"{point.identity}; restore the file from a copy"
        )
    return checkpoint


def code_of(
    point: RecoveryPoint,
    spec: KernelSpec,
    device: Device,
    objects: ObjectStore,
    cache: CompileCache | None,
) -> CompiledCode:
    """Return a recovery point's own compiled code; for a device of another kind, compile anew."""
    if device.target.name != point.code_target:
        return instances.compile_for(spec, device, cache)
    return CompiledCode(
        format="ptx" if device.target.is_host else "cubin",
        target=point.code_target,
        code=objects.get(point.code_digest),
        entry_point=spec.code.entry_point,
        source_digest=point.code_digest,
        cached=True,
    )


def _fill(
    core: Core,
    device: Device,
    spec: KernelSpec,
    point: RecoveryPoint,
    checkpoint: Checkpoint,
    grid: tuple[int, ...],
) -> Instance:
    compiled = code_of(point, spec, device, core.objects, core.cache)
    x, y, z = grid
    dims: Dim3 = (x, y, z)
    instance = instances.create(device, spec, compiled, grid=dims, epoch=core.epoch)
    try:
        instances.write_checkpoint(instance, checkpoint)
    except BaseException:
        instance.discard()
        raise
    return instance


async def history(core: Core, kernel_id: str, first_sequence: int) -> list[Posting]:
    """Return the journaled messages of a kernel from ``first_sequence`` on.

    The journal is read backwards, only as far as these messages go.
    """
    if core.state.marks[kernel_id].next_sequence <= first_sequence:
        return []

    def read() -> list[Posting]:
        parts: list[list[Posting]] = []
        for records in core.journal.stream_back(f"messages/{kernel_id}"):
            events = [event for record in records for event in record.events]
            parts.append(
                [one for event in events for one in _postings(core, event, first_sequence)]
            )
            if any(0 < _first_message(event) <= first_sequence for event in events):
                break
        return [posting for part in reversed(parts) for posting in part]

    return await core.in_thread(read)


def _first_message(event: Event) -> int:
    """Return the number of the first message that an event accepts, 0 for none."""
    match event:
        case MessagesAccepted():
            return event.first_sequence
        case BulkMessageAccepted():
            return event.sequence
        case _:
            return 0


def _postings(core: Core, event: Event, first_sequence: int) -> Iterator[Posting]:
    match event:
        case MessagesAccepted():
            contents = zip(event.types, event.payloads, strict=True)
            for sequence, (type_id, payload) in enumerate(contents, event.first_sequence):
                if sequence >= first_sequence:
                    check_payload(event.kernel_id, sequence, payload)
                    yield Posting(sequence, type_id, payload)
        case BulkMessageAccepted() if event.sequence >= first_sequence:
            yield posting_of(event, core.objects)


async def restore(core: Core, runtime: KernelRuntime, device: Device) -> tuple[Event, ...]:
    """Replace a trapped grid by one from the recovery point; return the facts to record.

    A kernel whose device was lost by no doing of its own has not trapped. Messages since the
    recovery point are applied again; their known outputs are not repeated.
    Raises:
        KernelTrappedError: it trapped too often in a row; the kernel is halted.
    """
    trapped = _trap_of(runtime)
    kernel_id, applied = runtime.kernel_id, trapped.applied_sequence
    traps, reason = 0, ""
    events: list[Event] = []
    if runtime.status is not LaunchStatus.ABORTED or not runtime.instance.device.lost:
        events.append(trapped)
        traps = evolve(core.state.kernels[kernel_id], trapped).traps
    events += _loss_of(runtime.instance.device, runtime, applied)
    if traps >= core.limits.traps_in_a_row:
        message = trapped.message_sequence
        culprit = f"message {message} trapped the kernel" if message else "the kernel trapped"
        reason = f"{culprit} {traps} times in a row: {trapped.detail}"
        events.append(
            KernelHalted(
                kernel_id=kernel_id,
                applied_sequence=applied,
                message_sequence=message,
                attempts=traps,
                reason=reason,
            )
        )
    note_loss(core, runtime.instance.device)
    core.record_kernel(kernel_id, *events)
    runtime.pause()
    runtime.detach()
    old = runtime.instance
    await core.in_thread(old.discard)
    if reason:
        runtime.end(halted=reason)
        raise KernelTrappedError(reason)
    facts = await replay(core, runtime, device, applied_sequence=applied, wary=traps > 1)
    return tuple(fact for fact in facts if fact not in events)


def _loss_of(device: Device, runtime: KernelRuntime, applied: int) -> tuple[Event, ...]:
    """Return the fact that a kernel's device is lost, if it is."""
    if not device.lost:
        return ()
    kernel_id = runtime.kernel_id
    return (KernelDeviceLost(kernel_id=kernel_id, device=device.name, applied_sequence=applied),)


def _trap_of(runtime: KernelRuntime) -> KernelTrapped:
    """Say which message trapped the kernel: the one that was taken last, if it is not done.

    Done marks come once a batch, so that the messages before it are done as well.
    """
    resident, done = runtime.instance.resident, runtime.done_sequence
    taken = resident.taken_sequence
    in_progress = taken > done
    return KernelTrapped(
        kernel_id=runtime.kernel_id,
        applied_sequence=taken - 1 if in_progress else done,
        message_sequence=taken if in_progress else 0,
        detail=resident.detail,
    )


async def replay(
    core: Core,
    runtime: KernelRuntime,
    device: Device,
    *,
    applied_sequence: int,
    wary: bool = False,
) -> tuple[Event, ...]:
    """Put a new instance from the recovery point in place of one that is closed already.

    Returns the facts to record. If that fails the kernel is halted and the error goes on.
    Args:
        wary: see ``devices.places_for``.
    """

    async def work_on(place: Device) -> Rebuilt:
        rebuilt = await _rebuild_on(core, runtime.kernel_id, place)
        try:
            await restart_from(core, runtime, rebuilt, applied_sequence=applied_sequence)
        except RingflowError:
            await core.in_thread(rebuilt.instance.discard)
            raise
        return rebuilt

    try:
        rebuilt = await on_some_place(core, device, work_on, wary=wary)
    except RingflowError as error:
        halt(core, runtime, str(error), applied_sequence=applied_sequence)
        raise
    loss = _loss_of(device, runtime, applied_sequence)
    return (*loss, resumed(runtime, rebuilt.applied_sequence))


async def restart_from(
    core: Core, runtime: KernelRuntime, rebuilt: Rebuilt, *, applied_sequence: int | None
) -> None:
    """Launch a rebuilt instance and deliver what came after its state.

    Args:
        applied_sequence: last message that was handled before; None: nobody knows.
    Raises:
        CorruptError: the data of a message is missing or damaged; nothing was launched.
    """
    runtime.instance = rebuilt.instance
    skipped = runtime.marks.skipped
    base = end_after(skipped, rebuilt.applied_sequence)
    lost: list[MessagesLost] = []
    if runtime.spec.durability == "volatile":
        if applied_sequence is not None and applied_sequence > base:
            lost = [_lost(runtime, base, applied_sequence)]
            base = applied_sequence
        runtime.inbox.refill((), posted_through=base)
    else:
        messages = await history(core, runtime.kernel_id, base + 1)
        wanted = [message for message in messages if not is_in(skipped, message.sequence)]
        await core.in_thread(lambda: check_readable(wanted))
        runtime.inbox.refill(messages, posted_through=base)
        if messages:
            with runtime.delivery:  # the journal's thread moves it as well
                runtime.durable_through = max(runtime.durable_through, messages[-1].sequence)
        handled = applied_sequence if applied_sequence is not None else runtime.inbox.last_sequence
        runtime.replay_through = max(runtime.replay_through, handled)
    runtime.inbox.skip(skipped)
    if runtime.spec.holds_outputs:  # what is replayed may differ: make what nobody saw anew
        runtime.outputs.forget_after(max(rebuilt.seen, runtime.outputs.released))
    await launch(core, runtime, applied_sequence=base)
    if lost:  # once, however many places were tried
        core.record(f"messages/{runtime.kernel_id}", lost)
    runtime.deliver_through = None
    runtime.flow()


def _lost(runtime: KernelRuntime, base: int, applied: int) -> MessagesLost:
    return MessagesLost(
        kernel_id=runtime.kernel_id,
        first_sequence=base + 1,
        last_sequence=applied,
        reason="the kernel is volatile and went back to its recovery point",
    )


def halt(core: Core, runtime: KernelRuntime, reason: str, *, applied_sequence: int) -> None:
    """Stop trying; a person decides. The kernel's messages stay in the journal."""
    if not core.closed:
        halted = halted_without_message(runtime.kernel_id, reason, applied_sequence)
        with contextlib.suppress(JournalClosedError):  # it failed a moment ago: a restart decides
            core.record_kernel(runtime.kernel_id, halted)
    runtime.end(halted=reason)


async def halt_stalled(core: Core, runtime: KernelRuntime, reason: str) -> bool:
    """Stop a grid that obeys no more, and halt its kernel at the message that it is in.

    Returns whether it is halted: not where the device can't stop the grid, and where that has
    obeyed after all.
    """
    instance = runtime.instance
    runtime.returning = True  # what can only be asked to return is told to run again, or is gone
    with contextlib.suppress(DeviceError):
        await core.in_thread(instance.resident.abort)
    if instance.resident.status is not LaunchStatus.ABORTED or core.closed:
        return False
    trap = _trap_of(runtime)
    halted = KernelHalted(
        kernel_id=runtime.kernel_id,
        applied_sequence=trap.applied_sequence,
        message_sequence=trap.message_sequence,
        attempts=0,
        reason=reason,
    )
    runtime.pause()
    runtime.detach()
    await core.in_thread(instance.discard)
    core.record_kernel(runtime.kernel_id, halted)
    runtime.end(halted=reason)
    return True


def halted_without_message(kernel_id: str, reason: str, applied_sequence: int) -> KernelHalted:
    return KernelHalted(
        kernel_id=kernel_id,
        applied_sequence=applied_sequence,
        message_sequence=0,
        attempts=0,
        reason=reason,
    )
