"""Requests for operations: checked, leased and recorded in one step, then run as tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import attrs
import orjson

from ringflow.code_source import KernelCodeSource
from ringflow.engine.core import RECOVERY, Core
from ringflow.engine.instances import check_listed
from ringflow.engine.keys import asked, first_of
from ringflow.engine.migrating import MigrationPerformer
from ringflow.engine.operations import Operation, Performer, record, run_operation
from ringflow.engine.quiescing import resume
from ringflow.engine.reloading import ReloadPerformer
from ringflow.engine.restoring import halt, replay, restore
from ringflow.engine.runtime import KernelRuntime
from ringflow.engine.snapshotting import SnapshotPerformer
from ringflow.errors import KernelTrappedError, RingflowError, SpecError, UsageError
from ringflow.events.codec import Event
from ringflow.events.reload import ReloadRequested
from ringflow.events.snapshot import SnapshotRequested
from ringflow.kernel import CheckpointInfo
from ringflow.results import MigrationResult, ReloadResult
from ringflow.routing import check_reload
from ringflow.spec import KernelSpec, Region, Route
from ringflow.spec_codec import encode_spec
from ringflow.statemachines import hot_reload, migration, snapshot
from ringflow.storage.api import check_name

R = TypeVar("R")
NS_PER_S = 1_000_000_000


def start_migration(
    core: Core, kernel_id: str, *, to: str, actor: str, reason: str, key: str | None
) -> Operation[MigrationResult]:
    """Start to move a kernel; raises ``UsageError`` of the precise class and changes nothing."""
    core.check_open()
    given = asked(key, operation="migration", kernel=kernel_id, to=to)
    if (first := first_of(core, given, _migration_result)) is not None:
        return first
    life = core.state.kernel(kernel_id)
    core.device(to)
    operation_id = core.ids.new("migration")
    requested = migration.request(
        operation_id=operation_id,
        kernel_id=kernel_id,
        source=life.device,
        target=to,
        actor=actor,
        reason=reason,
        key=given.key,
        body_digest=given.body_digest,
    )
    runtime = core.runtime(kernel_id)
    core.check_free(kernel_id)
    core.journal.check_reserve()  # what has begun must be able to end
    check_listed(runtime.instance, "migration")
    operation = Operation(core, operation_id, _migration_result)
    _start(core, operation, requested, MigrationPerformer(core, runtime), runtime)
    return operation


def _migration_result(operation: Operation[MigrationResult]) -> MigrationResult:
    state = operation.state
    assert isinstance(state, migration.Migration)
    return MigrationResult(
        operation_id=state.operation_id,
        kernel_id=state.kernel_id,
        source_device=state.source,
        target_device=state.target,
        state_bytes=state.state_bytes,
        pause_s=state.pause_ns / NS_PER_S,
        parked_count=state.parked_count,
        path=state.path,
        digests=state.digests,
        step_s=_step_s(operation),
        retire_failure=state.retire_failure,
    )


async def start_reload(
    core: Core,
    kernel_id: str,
    code: KernelCodeSource,
    *,
    regions: Iterable[Region] | None,
    convert: str | None,
    messages: Iterable[Any] | None,
    routes: Iterable[str | Route] | None,
    arguments: Mapping[str, Any] | None,
    at_sequence: int | None,
    probation_messages: int,
    probation_timeout_s: float,
    actor: str,
    reason: str,
    key: str | None,
) -> Operation[ReloadResult]:
    """Start to replace a kernel's code; raises ``UsageError`` and changes nothing."""
    old = core.runtime(kernel_id).spec
    given = {
        "code": code,
        "regions": regions,
        "messages": messages,
        "routes": routes,
        "arguments": arguments,
    }
    changes: dict[str, Any] = {name: one for name, one in given.items() if one is not None}
    new = attrs.evolve(old, **changes)
    body = {name: one for name, one in orjson.loads(encode_spec(new)).items() if name in changes}
    body["code"] = code.hash
    given_key = asked(
        key,
        operation="reload",
        kernel=kernel_id,
        version=code.version_id,
        spec=body,
        convert=convert,
        at_sequence=at_sequence,
        probation=[probation_messages, probation_timeout_s],
    )
    if (first := first_of(core, given_key, _reload_result)) is not None:
        return first
    _check_reload(old, new, convert, probation_messages, probation_timeout_s)
    spec_digest = await core.in_thread(lambda: core.objects.put(encode_spec(new)))
    # From here to the record nothing awaits.
    if (first := first_of(core, given_key, _reload_result)) is not None:
        return first
    runtime = core.runtime(kernel_id)
    core.check_free(kernel_id)
    core.journal.check_reserve()  # what has begun must be able to end
    check_listed(runtime.instance, "reload")
    if at_sequence is not None:
        _deliver_before(runtime, at_sequence)
    operation_id = core.ids.new("reload")
    requested = ReloadRequested(
        operation_id=operation_id,
        kernel_id=kernel_id,
        spec_digest=spec_digest,
        old_version=old.code.version_id,
        new_version=code.version_id,
        convert=convert or "",
        at_sequence=at_sequence or 0,
        probation_messages=probation_messages,
        probation_timeout_ns=round(probation_timeout_s * NS_PER_S),
        actor=actor,
        reason=reason,
        key=given_key.key,
        body_digest=given_key.body_digest,
    )
    performer = ReloadPerformer(core, runtime, new)
    operation = Operation(core, operation_id, _reload_result)
    _start(core, operation, requested, performer, runtime)
    return operation


def _deliver_before(runtime: KernelRuntime, sequence: int) -> None:
    """Keep messages from ``sequence`` on; raises ``UsageError`` if the kernel has that one."""
    with runtime.delivery:
        handled = max(runtime.inbox.posted_through, runtime.replay_through)
        if sequence <= handled:
            raise UsageError(
                f"the kernel has message {handled} already, the code can't change "
                f"at {sequence}; choose a later sequence, or None for as soon as possible"
            )
        runtime.deliver_through = sequence - 1


def _check_reload(
    old: KernelSpec, new: KernelSpec, convert: str | None, messages: int, timeout_s: float
) -> None:
    if messages < 0 or not 0 <= timeout_s < 1e6:
        raise UsageError("probation needs a count of messages and a time in seconds, none negative")
    check_reload(old, new)
    kept = {region.layout for region in new.regions}
    changed = [region.name for region in old.regions if region.layout not in kept]
    if changed and convert is None:
        raise SpecError(
            f"regions {', '.join(changed)} change or go; name a convert kernel that deals with them"
        )


def _reload_result(operation: Operation[ReloadResult]) -> ReloadResult:
    state = operation.state
    assert isinstance(state, hot_reload.Reload)
    return ReloadResult(
        operation_id=state.operation_id,
        kernel_id=state.kernel_id,
        old_version=state.old_version,
        new_version=state.new_version,
        at_sequence=state.applied_sequence + 1,
        state_bytes=state.state_bytes,
        pause_s=state.pause_ns / NS_PER_S,
        parked_count=state.parked_count,
        digests=state.digests,
        step_s=_step_s(operation),
    )


def start_snapshot(
    core: Core,
    kernel_id: str,
    *,
    name: str | None,
    actor: str,
    reason: str,
    key: str | None = None,
) -> Operation[CheckpointInfo]:
    """Start to make the kernel's state durable; raises ``UsageError`` and changes nothing."""
    given = asked(key, operation="snapshot", kernel=kernel_id, name=name)
    if (first := first_of(core, given, _snapshot_result)) is not None:
        return first
    runtime = core.runtime(kernel_id)
    core.check_free(kernel_id)
    core.journal.check_reserve()  # what has begun must be able to end
    check_listed(runtime.instance, "checkpoint")
    operation_id = core.ids.new("snapshot")
    checkpoint = check_name(f"{kernel_id}@{name or operation_id}")
    if any(
        point.checkpoint == checkpoint for point in core.state.kernels[kernel_id].recovery_points
    ) or core.state.select(
        lambda one: isinstance(one, snapshot.Snapshot) and one.checkpoint == checkpoint
    ):
        raise UsageError(f"checkpoint {checkpoint!r} exists already; choose another name")
    requested = SnapshotRequested(
        operation_id=operation_id,
        kernel_id=kernel_id,
        checkpoint=checkpoint,
        actor=actor,
        reason=reason,
        key=given.key,
        body_digest=given.body_digest,
    )
    operation = Operation(core, operation_id, _snapshot_result)
    performer = SnapshotPerformer(core, runtime, pinned=name is not None)
    _start(core, operation, requested, performer, runtime)
    return operation


def _snapshot_result(operation: Operation[CheckpointInfo]) -> CheckpointInfo:
    state = operation.state
    assert isinstance(state, snapshot.Snapshot)
    return CheckpointInfo(
        operation_id=state.operation_id,
        kernel_id=state.kernel_id,
        name=state.checkpoint,
        applied_sequence=state.applied_sequence,
        state_bytes=state.state_bytes,
        pause_s=state.pause_ns / NS_PER_S,
        digests=state.digests,
    )


def _step_s(operation: Operation[Any]) -> dict[str, float]:
    return {step: spent_ns / NS_PER_S for step, spent_ns in operation.step_ns.items()}


def _start(
    core: Core,
    operation: Operation[Any],
    requested: Event,
    performer: Performer,
    runtime: KernelRuntime,
) -> None:
    last = record(operation, (requested,))
    core.running[operation.id] = operation

    async def run() -> None:
        try:
            await run_operation(operation, performer, last)
        finally:
            core.running.pop(operation.id, None)
            core.rested.notify()
        if operation.state.state.value == "failed" and not isinstance(performer, SnapshotPerformer):
            await _rescue(core, runtime)
        recover_if_ended(core, runtime)
        core.lease_ended(runtime.kernel_id)

    core.tasks.start_soon(run)


async def _rescue(core: Core, runtime: KernelRuntime) -> None:
    """Rebuild a kernel whose operation failed on its way forth and on its way back."""
    if core.closed or core.closing or runtime.halted or runtime.closed:
        return
    with core.lease(runtime.kernel_id, RECOVERY):
        instance, applied = runtime.instance, runtime.done_sequence
        runtime.pause()
        runtime.detach()
        try:
            await core.in_thread(instance.discard)
            facts = await replay(core, runtime, instance.device, applied_sequence=applied)
            core.record_kernel(runtime.kernel_id, *facts)
        except RingflowError as error:
            if not runtime.halted and not core.closed:
                halt(core, runtime, str(error), applied_sequence=applied)


def recover_if_ended(core: Core, runtime: KernelRuntime) -> None:
    """Restore a kernel whose grid has trapped, unless an operation is there to do it.

    One that has returned though nobody waits for that any more is launched again.
    """
    kernel_id = runtime.kernel_id
    if not runtime.trapped and (not runtime.gone or core.closing):
        return
    if runtime.halted or runtime.closed or core.closed:
        return
    if kernel_id in core.busy or kernel_id in core.state.leases:
        return

    core.busy[kernel_id] = RECOVERY  # at once: nobody may come between report and task

    async def run() -> None:
        try:
            try:
                if runtime.trapped:
                    facts = await restore(core, runtime, runtime.instance.device)
                else:
                    facts = await resume(core, runtime)
                if facts:
                    core.record_kernel(kernel_id, *facts)
            finally:
                del core.busy[kernel_id]
                core.rested.notify()
        except KernelTrappedError:
            if not runtime.halted:  # it trapped again while it was launched
                reason = "the kernel trapped while it was restored"
                halt(core, runtime, reason, applied_sequence=runtime.done_sequence)
        except RingflowError as error:
            if not runtime.halted and not core.closed:
                halt(core, runtime, str(error), applied_sequence=runtime.done_sequence)
            return
        recover_if_ended(core, runtime)

    core.tasks.start_soon(run)
