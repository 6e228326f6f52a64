"""The engine as programs see it; ``opening.open_engine`` makes one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar, final

import anyio
import attrs

from ringflow.device.api import Device
from ringflow.engine import checkpoints, instances, launching, messaging, requests
from ringflow.engine.core import Core
from ringflow.engine.operations import Operation
from ringflow.engine.quiescing import held, quiesce, resume
from ringflow.engine.restoring import replay
from ringflow.engine.state import kind_of
from ringflow.errors import DeviceError, RegionMismatchError, StorageError
from ringflow.kernel import (
    CheckpointInfo,
    HeldRegion,
    HeldState,
    KernelHandle,
    OnFull,
    Reply,
)
from ringflow.results import MigrationResult, ReloadResult
from ringflow.spec import KernelCodeSource, KernelSpec, Region
from ringflow.storage import Checkpoint

R = TypeVar("R")


@final
@attrs.frozen(kw_only=True)
class KernelStatus:
    """A kernel at a glance.

    Attributes:
        next_sequence: what the next accepted message is numbered.
        applied_sequence: the last message that is done; 0 where nothing runs.
        parked_count: messages on the host that the device does not have yet.
    """

    kernel_id: str
    device: str
    state: str
    version_id: str
    next_sequence: int
    applied_sequence: int
    parked_count: int
    reason: str


@final
@attrs.frozen(kw_only=True)
class OperationStatus:
    """An operation as the journal tells it.

    Attributes:
        kind: ``"migration"``, ``"reload"`` or ``"snapshot"``.
        details: the operation's fields that are known by now, by name.
    """

    operation_id: str
    kind: str
    kernel_id: str
    state: str
    details: Mapping[str, Any]


@final
class Engine:
    """Runs kernels, and moves, reloads and checkpoints them; made by ``open_engine``."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # Kernels

    async def launch(
        self, spec: KernelSpec, *, device: str | None = None, actor: str = "", reason: str = ""
    ) -> KernelHandle:
        """Compile, load and launch a kernel; return when its first recovery point is durable.

        Args:
            device: None lets the engine choose the one with the most free memory.
        Raises:
            DuplicateKernelError, UnknownDeviceError, CompileError, EntryPointError,
            DeviceMemoryError, UnsupportedPtxError: nothing was changed.
        """
        await launching.launch(self._core, spec, device, actor=actor, reason=reason)
        return KernelHandle(self, spec.kernel_id)

    def kernel(self, kernel_id: str) -> KernelHandle:
        """Return a handle; raises ``UnknownKernelError``."""
        self._core.state.kernel(kernel_id)
        return KernelHandle(self, kernel_id)

    def kernels(self) -> tuple[KernelStatus, ...]:
        """Return all kernels of the folder, oldest first."""
        return tuple(self._status(kernel_id) for kernel_id in self._core.state.kernels)

    def _status(self, kernel_id: str) -> KernelStatus:
        life = self._core.state.kernels[kernel_id]
        runtime = self._core.runtimes.get(kernel_id)
        return KernelStatus(
            kernel_id=kernel_id,
            device=life.device,
            state=life.state.value,
            version_id=life.version_id,
            next_sequence=self._core.state.marks[kernel_id].next_sequence,
            applied_sequence=runtime.done_sequence if runtime else 0,
            parked_count=runtime.inbox.parked_count if runtime else 0,
            reason=self._core.stranded.get(kernel_id, life.reason),
        )

    async def stop(self, kernel_id: str, *, actor: str = "", reason: str = "") -> None:
        """End a kernel for good, after the message in progress; its id is then used up."""
        runtime = self._core.runtime(kernel_id)
        await launching.stop(self._core, runtime, actor=actor, reason=reason)

    # Operations

    async def migrate(
        self, kernel_id: str, *, to: str, actor: str = "", reason: str = ""
    ) -> MigrationResult:
        """Move a kernel to another device while it works; return when the source is freed.

        A cancellation before the commit point cancels the migration, waits, and is then raised.
        Raises:
            SameDeviceError, UnknownDeviceError, KernelBusyError: nothing was changed.
            OperationFailedError: it failed and the kernel works on the source as before.
        """
        return await self._finished(
            self.start_migration(kernel_id, to=to, actor=actor, reason=reason)
        )

    def start_migration(
        self, kernel_id: str, *, to: str, actor: str = "", reason: str = ""
    ) -> Operation[MigrationResult]:
        """Like ``migrate``, but return the running operation at once."""
        return requests.start_migration(self._core, kernel_id, to=to, actor=actor, reason=reason)

    async def reload(self, kernel_id: str, code: KernelCodeSource, **options: Any) -> ReloadResult:
        """Replace a kernel's code while it works; see ``start_reload`` for the options."""
        return await self._finished(await self.start_reload(kernel_id, code, **options))

    async def start_reload(
        self,
        kernel_id: str,
        code: KernelCodeSource,
        *,
        regions: Iterable[Region] | None = None,
        convert: str | None = None,
        messages: Iterable[Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
        at_sequence: int | None = None,
        probation_messages: int = 16,
        probation_timeout_s: float = 30.0,
        actor: str = "",
        reason: str = "",
    ) -> Operation[ReloadResult]:
        """Start to replace a kernel's code, with its state kept; return the running operation.

        Args:
            regions, messages, arguments: those of the new code where they differ from the old's.
            convert: a kernel in the new code that is run once, with the spec's grid and block, on
                pointers to the old regions in their order and then the new ones; regions of equal
                name, dtype and shape are copied before, others start from ``initial`` or zeros.
            at_sequence: the first message for the new code; None: as soon as possible.
            probation_messages, probation_timeout_s: the new code's outputs are held until it has
                finished so many messages, or the time is over; a trap or a stall rolls back.
        Raises:
            UsageError, SpecError: nothing was changed. All else is in the operation's result.
        """
        return await requests.start_reload(
            self._core,
            kernel_id,
            code,
            regions=regions,
            convert=convert,
            messages=messages,
            arguments=arguments,
            at_sequence=at_sequence,
            probation_messages=probation_messages,
            probation_timeout_s=probation_timeout_s,
            actor=actor,
            reason=reason,
        )

    async def checkpoint(
        self, kernel_id: str, *, name: str | None = None, actor: str = "", reason: str = ""
    ) -> CheckpointInfo:
        """Make the kernel's state durable while it stays resident; it is the recovery point then.

        Raises:
            KernelBusyError, UsageError: nothing was changed.
            OperationFailedError: the kernel works on, the older recovery point holds.
        """
        operation = requests.start_snapshot(
            self._core, kernel_id, name=name, actor=actor, reason=reason
        )
        return await self._finished(operation)

    def operations(self) -> tuple[OperationStatus, ...]:
        """Return all operations that the journal knows, oldest first."""
        return tuple(
            OperationStatus(
                operation_id=operation.operation_id,
                kind=kind_of(operation),
                kernel_id=operation.kernel_id,
                state=operation.state.value,
                details={
                    key: value
                    for key, value in attrs.asdict(operation, recurse=False).items()
                    if key not in ("operation_id", "kernel_id", "state")
                },
            )
            for operation in self._core.state.operations.values()
        )

    async def _finished(self, operation: Operation[R]) -> R:
        try:
            return await operation.result()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await operation.cancel()
            raise

    # Devices and health

    def devices(self) -> tuple[Device, ...]:
        return tuple(self._core.devices.values())

    @property
    def epoch(self) -> int:
        """The number of this opening of the folder, from 1."""
        return self._core.epoch

    def health(self) -> Mapping[str, Any]:
        """Return what an operator wants to know: ``ok``, why not, and the queues' counters."""
        core = self._core
        halted = {
            life.kernel_id: life.reason
            for life in core.state.kernels.values()
            if life.state.value == "halted"
        }
        halted.update(core.stranded)
        return {
            "ok": not core.closed and not halted,
            "closed": core.closed,
            "halted": halted,
            "running_operations": len(core.running),
            "journal": dict(core.journal.statistics()),
        }

    # What handles ask for (``KernelHost``)

    async def send(
        self,
        kernel_id: str,
        type_id: int,
        payload: bytes,
        *,
        producer: str = "",
        number: int = 0,
        on_full: OnFull = "wait",
    ) -> messaging.SendReceipt:
        """Send raw bytes to a kernel; see ``KernelHandle.send``."""
        runtime = self._core.runtime(kernel_id)
        return await messaging.send(
            self._core,
            runtime,
            type_id,
            payload,
            producer=producer,
            number=number,
            on_full=on_full,
        )

    async def send_many(
        self,
        kernel_id: str,
        type_id: int,
        payloads: Sequence[bytes],
        *,
        producer: str = "",
        number: int = 0,
        on_full: OnFull = "wait",
    ) -> messaging.SendReceipt:
        """Send raw bytes to a kernel; see ``KernelHandle.send_many``."""
        runtime = self._core.runtime(kernel_id)
        return await messaging.send_many(
            self._core,
            runtime,
            type_id,
            payloads,
            producer=producer,
            number=number,
            on_full=on_full,
        )

    async def call(
        self, kernel_id: str, type_id: int, payload: bytes, *, timeout_s: float
    ) -> Reply:
        """Send raw bytes and wait for the reply; see ``KernelHandle.call``."""
        runtime = self._core.runtime(kernel_id)
        return await messaging.call(self._core, runtime, type_id, payload, timeout_s=timeout_s)

    def last_number(self, kernel_id: str, producer: str) -> int:
        self._core.state.kernel(kernel_id)
        return self._core.state.marks[kernel_id].producers.get(producer, 0)

    def replies(
        self, kernel_id: str, consumer: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Reply]]:
        return messaging.consume(self._core, self._core.runtime(kernel_id), consumer)

    async def forget_consumer(self, kernel_id: str, consumer: str) -> None:
        await messaging.forget(self._core, self._core.runtime(kernel_id), consumer)

    @asynccontextmanager
    async def held(self, kernel_id: str) -> AsyncIterator[HeldState]:
        core, runtime = self._core, self._core.runtime(kernel_id)
        core.check_free(kernel_id)
        with core.lease(kernel_id, "held()"):
            async with held(core, runtime, purpose="held") as applied:
                views = await core.in_thread(lambda: _views(runtime.instance))
                yield HeldState(views, applied)

    async def take_checkpoint(self, kernel_id: str) -> Checkpoint:
        core, runtime = self._core, self._core.runtime(kernel_id)
        core.check_free(kernel_id)
        with core.lease(kernel_id, "checkpoint()"):
            captured = await checkpoints.capture_held(core, runtime, purpose="checkpoint")
        return checkpoints.checkpoint_of(core, runtime.instance, captured)

    async def restore_checkpoint(self, kernel_id: str, checkpoint: Checkpoint) -> None:
        core, runtime = self._core, self._core.runtime(kernel_id)
        core.check_free(kernel_id)
        instances.check_listed(runtime.instance, "restore")
        difference = instances.layout_difference(runtime.instance, checkpoint)
        if difference is not None:
            raise RegionMismatchError(*difference)
        with core.lease(kernel_id, "restore()"), anyio.CancelScope(shield=True):
            instance = runtime.instance
            try:
                applied = await quiesce(core, runtime, purpose="restore")
            except DeviceError:  # nothing was written: it works on as it is
                if not runtime.trapped:
                    core.record_kernel(kernel_id, *await resume(core, runtime))
                raise
            try:
                await core.in_thread(lambda: instances.write_checkpoint(instance, checkpoint))
                await launching.commit_resting(
                    core, runtime, applied, reason="restore", barrier=True
                )
            except (StorageError, DeviceError):  # the regions are half-written: go back
                await core.in_thread(instance.close)
                facts = await replay(core, runtime, instance.device, applied_sequence=applied)
                core.record_kernel(kernel_id, *facts)
                raise
            core.record_kernel(kernel_id, *await resume(core, runtime))

    def spec(self, kernel_id: str) -> KernelSpec:
        return self._core.runtime(kernel_id).spec

    def is_busy(self, kernel_id: str) -> bool:
        return kernel_id in self._core.busy or kernel_id in self._core.state.leases


def _views(instance: instances.Instance) -> dict[str, HeldRegion]:
    views = {}
    for region in instance.resident.layout:
        allocation = instance.resident.regions[region.name]
        view = instance.device.view(allocation) or instance.device.copy_out(allocation)
        views[region.name] = HeldRegion(region, view.toreadonly())
    return views
