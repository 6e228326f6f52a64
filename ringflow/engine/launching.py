"""Launching and stopping kernels; both leave a durable trace before their answer.

- All that can fail without a trace comes first: compile, load, reserve.
- The first recovery point is durable before the kernel counts as launched.
"""

from __future__ import annotations

import contextlib

import anyio

from ringflow.engine import checkpoints, instances
from ringflow.engine.checkpoints import Captured
from ringflow.engine.core import Core
from ringflow.engine.instances import Instance
from ringflow.engine.placing import choose_device
from ringflow.engine.quiescing import launch as launch_grid
from ringflow.engine.quiescing import quiesce, resume_resting
from ringflow.engine.restoring import halt_stalled
from ringflow.engine.routing import check_stop, drain, end_of, serve
from ringflow.engine.runtime import KernelRuntime
from ringflow.errors import DeviceError, DuplicateKernelError, KernelStalledError, SpecError
from ringflow.events import lifecycle as e
from ringflow.events.codec import Event
from ringflow.spec import KernelSpec
from ringflow.spec_codec import encode_spec
from ringflow.statemachines.lifecycle import LifecycleState


async def launch(
    core: Core, spec: KernelSpec, device_name: str | None, *, actor: str, reason: str
) -> None:
    """Bring a new kernel to life.

    Raises:
        DuplicateKernelError, UnknownDeviceError, CompileError, EntryPointError, DeviceMemoryError:
            nothing was changed.
        DeviceError: the grid did not start; the kernel's id is used up.
    """
    if not isinstance(spec, KernelSpec):
        raise SpecError(f"launch takes a KernelSpec, and {spec!r} is none")
    core.check_accepting()
    core.journal.check_reserve()
    kernel_id = spec.kernel_id
    check_launchable(core, kernel_id)
    device = (
        choose_device(core.devices.values()) if device_name is None else core.device(device_name)
    )
    with core.lease(kernel_id, "launch"):
        instance = await core.in_thread(lambda: _build(core, spec, device_name or device.name))
        await bring_to_life(core, instance, actor=actor, reason=reason)


def check_launchable(core: Core, kernel_id: str) -> None:
    """Raise ``DuplicateKernelError`` if the id was ever used, or is about to be."""
    core.state.check_new(kernel_id)
    if kernel_id in core.busy:
        raise DuplicateKernelError(kernel_id)


async def bring_to_life(
    core: Core, instance: Instance, *, actor: str, reason: str, facts: tuple[Event, ...] = ()
) -> None:
    """Commit a filled instance's first recovery point and launch it; the caller has the lease.

    Args:
        facts: where the kernel comes from; recorded with the request.
    """
    try:
        await _commit_and_start(core, instance, actor, reason, facts)
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            await _undo(core, instance, error)
        raise


def _build(core: Core, spec: KernelSpec, device_name: str) -> Instance:
    device = core.device(device_name)
    compiled = instances.compile_for(spec, device, core.cache)
    instance = instances.create(device, spec, compiled, grid=None, epoch=core.epoch)
    try:
        instances.write_initial(instance, spec.regions)
    except BaseException:
        instance.discard()
        raise
    return instance


async def _commit_and_start(
    core: Core, instance: Instance, actor: str, reason: str, facts: tuple[Event, ...]
) -> None:
    spec, kernel_id = instance.spec, instance.spec.kernel_id
    if spec.holds_outputs or spec.checkpoint_every_messages or spec.checkpoint_every_s:
        instances.check_listed(instance, "checkpoint, which its spec needs,")
    spec_digest = await core.in_thread(lambda: core.objects.put(encode_spec(spec)))
    requested = e.KernelLaunchRequested(
        kernel_id=kernel_id,
        device=instance.device.name,
        spec_digest=spec_digest,
        version_id=spec.code.version_id,
        grid=instance.resident.grid,
        actor=actor,
        reason=reason,
    )
    await core.journal.until_durable(core.record_kernel(kernel_id, requested, *facts))
    state = await core.in_thread(lambda: instances.copy_state(instance, 0))
    name = f"{kernel_id}@{core.ids.new('launch')}"
    point = await checkpoints.save(
        core, instance, Captured(state, b"", b"", 1, 0), name=name, history_from=1, reason="launch"
    )
    runtime = core.runtime_for(instance)
    serve(core, runtime)
    runtime.release_outputs((0, 0))
    core.runtimes[kernel_id] = runtime  # from here on its reports have somewhere to go
    await launch_grid(core, runtime, applied_sequence=0)
    launched = e.KernelLaunched(kernel_id=kernel_id, device=instance.device.name)
    try:
        append = core.record_kernel(kernel_id, point, launched)
        with anyio.CancelScope(shield=True):  # it is launched once this is durable
            await core.journal.until_durable(append)
    except BaseException:
        runtime.end()
        raise
    runtime.flow()


async def _undo(core: Core, instance: Instance, error: BaseException) -> None:
    kernel_id = instance.spec.kernel_id
    if (runtime := core.runtimes.pop(kernel_id, None)) is not None:
        runtime.end()
    with contextlib.suppress(DeviceError):  # a grid that lives on keeps what it may use
        await core.in_thread(instance.discard)
    life = core.state.kernels.get(kernel_id)
    if life is not None and not life.is_terminal and not core.closed:
        cancelled = isinstance(error, anyio.get_cancelled_exc_class())
        failed = e.KernelLaunchFailed(
            kernel_id=kernel_id,
            reason="cancelled" if cancelled else str(error) or repr(error),
            error="" if cancelled else type(error).__name__,
        )
        await core.journal.until_durable(core.record_kernel(kernel_id, failed))


async def stop(core: Core, kernel_id: str, *, actor: str, reason: str) -> None:
    """End a kernel for good and give its memory back; its last state stays as a checkpoint.

    A halted one keeps the recovery points that it has.
    Raises:
        KernelStalledError: it does not return; it is halted, if its device can stop its grid.
    """
    life = core.state.kernel(kernel_id)
    if life.state is not LifecycleState.HALTED:
        runtime: KernelRuntime | None = core.runtime(kernel_id)
    else:
        runtime = core.runtimes.get(kernel_id)
    core.check_free(kernel_id)
    check_stop(core, kernel_id)
    with core.lease(kernel_id, "stop"):
        applied = life.halted_after
        if runtime is not None and not runtime.halted:
            applied = await _quiesce_or_halt(core, runtime)
            try:
                await commit_resting(core, runtime, applied, reason="stop")
                await drain(core, runtime)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await resume_resting(core, runtime)
                raise
        with anyio.CancelScope(shield=True):
            requested = e.StopRequested(kernel_id=kernel_id, actor=actor, reason=reason)
            routes = core.state.routing.of(kernel_id)
            ends = (end_of(core, edge, actor=actor, reason="stopped") for edge in routes)
            core.record_kernel(kernel_id, requested, *ends)
            if runtime is not None:
                await dismantle(core, runtime)
            stopped = e.KernelStopped(kernel_id=kernel_id, applied_sequence=applied)
            await core.journal.until_durable(core.record_kernel(kernel_id, stopped))


async def _quiesce_or_halt(core: Core, runtime: KernelRuntime) -> int:
    """Quiesce a kernel that is to be stopped; on a failure it works on, or is halted as stalled."""
    try:
        return await quiesce(core, runtime, purpose="stop")
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            stalled = isinstance(error, KernelStalledError)
            if stalled and await halt_stalled(core, runtime, str(error)):
                raise KernelStalledError(
                    f"{error}. It is halted now: stop it again to give it up as its recovery point "
                    "has it, resume it with or without that message, or roll back"
                ) from error
            await resume_resting(core, runtime)
        raise


async def commit_resting(
    core: Core, runtime: KernelRuntime, applied: int, *, reason: str, barrier: bool = False
) -> None:
    """Save a quiesced kernel's state and commit it as a recovery point.

    A kernel with unlisted state keeps its older one: from there its messages rebuild all of it.
    """
    if runtime.instance.resident.unlisted:
        return
    captured = await checkpoints.capture_resting(core, runtime, applied)
    name = f"{runtime.kernel_id}@{core.ids.new(reason)}"
    history_from = applied + 1 if barrier else 0
    point = await checkpoints.save(
        core, runtime.instance, captured, name=name, history_from=history_from, reason=reason
    )
    await core.journal.until_durable(core.record_kernel(runtime.kernel_id, point))
    runtime.release_outputs(captured.covered)
    await checkpoints.retire(core, runtime.kernel_id)


async def dismantle(core: Core, runtime: KernelRuntime) -> DeviceError | None:
    """Free a runtime's memory and forget it; return why its grid lives on, if it does."""
    runtime.end()
    core.runtimes.pop(runtime.kernel_id, None)
    try:
        await core.in_thread(runtime.instance.discard)
    except DeviceError as error:
        return error
    return None
