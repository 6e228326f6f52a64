"""The engine as programs see it; ``opening.open_engine`` makes one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

import anyio

from ringflow.code_source import KernelCodeSource
from ringflow.device.api import Device
from ringflow.engine import (
    checkpoints,
    forking,
    launching,
    requests,
    rewinding,
    routing,
)
from ringflow.engine.archiving import ArchivePlan, archive
from ringflow.engine.operations import Operation
from ringflow.engine.rewinding import Decision
from ringflow.engine.serving import HandleService
from ringflow.engine.status import (
    KernelStatus,
    OperationStatus,
    health,
    kernel_status,
    operation_statuses,
)
from ringflow.journal.api import Subscription
from ringflow.journal.projections import (
    FileProjections,
    Projection,
    ProjectionStore,
    RunningProjection,
    projecting,
)
from ringflow.journal.selection import Streams, Types
from ringflow.kernel import (
    CheckpointInfo,
    KernelHandle,
)
from ringflow.rates import TransferEstimate
from ringflow.results import MigrationResult, ReloadResult, RollbackResult
from ringflow.routing import Connection
from ringflow.spec import KernelSpec, Region, Route
from ringflow.statemachines.lifecycle import RecoveryPoint

if TYPE_CHECKING:
    pass

R = TypeVar("R")


@final
class Engine(HandleService):
    """Runs kernels, and moves, reloads and checkpoints them; made by ``open_engine``."""

    # Kernels

    async def launch(
        self, spec: KernelSpec, *, device: str | None = None, actor: str = "", reason: str = ""
    ) -> KernelHandle:
        """Compile, load and launch a kernel; return when its first recovery point is durable.

        Args:
            device: None lets the engine choose the one with the most free memory.
        Raises:
            DuplicateKernelError, UnknownDeviceError, CompileError, EntryPointError,
            DeviceMemoryError, LimitExceededError, UnsupportedPtxError: nothing was changed.
        """
        core = self._core
        await core.in_task(lambda: launching.launch(core, spec, device, actor=actor, reason=reason))
        return KernelHandle(self, spec.kernel_id)

    async def fork(
        self,
        source: str,
        *,
        at_sequence: int | None = None,
        code: KernelCodeSource | None = None,
        kernel_id: str | None = None,
        device: str | None = None,
        actor: str = "",
        reason: str = "",
    ) -> KernelHandle:
        """Launch a new kernel with the state that ``source`` had after a message.

        It is made from a recovery point and the journaled messages after it; the source works on.
        The new kernel's messages count from 1.
        Args:
            at_sequence: the last message in its state; None: the last durable one.
            code: what handles its own messages; None: the source's code at that message.
            kernel_id: None: ``SOURCE.at-SEQUENCE``.
        Raises:
            UnknownKernelError, DuplicateKernelError, UsageError: no kept recovery point leads
                there with the code of that time, or the journal lacks messages.
            CompileError, EntryPointError, StorageError, DeviceError: nothing was changed.
        """
        core = self._core
        forked_id = await core.in_task(
            lambda: forking.fork(
                core,
                source,
                at_sequence=at_sequence,
                code=code,
                kernel_id=kernel_id,
                device=device,
                actor=actor,
                reason=reason,
            )
        )
        return KernelHandle(self, forked_id)

    def kernel(self, kernel_id: str) -> KernelHandle:
        """Return a handle; raises ``UnknownKernelError``."""
        self._core.state.kernel(kernel_id)
        return KernelHandle(self, kernel_id)

    def kernels(self) -> tuple[KernelStatus, ...]:
        """Return all kernels of the folder, oldest first."""
        return tuple(kernel_status(self._core, kernel_id) for kernel_id in self._core.state.kernels)

    async def stop(self, kernel_id: str, *, actor: str = "", reason: str = "") -> None:
        """End a kernel for good, after the message in progress; its id is then used up."""
        core = self._core
        await core.in_task(lambda: launching.stop(core, kernel_id, actor=actor, reason=reason))

    # What only a person decides

    async def resume(
        self, kernel_id: str, decision: Decision = "retry", *, actor: str = "", reason: str = ""
    ) -> None:
        """Bring a halted kernel back to work: from its recovery point, with the messages after it.

        Args:
            decision: ``"retry"`` applies the message that halted it once more; ``"skip"`` never
                applies it, by no replay either, and who waits for it gets ``MessageSkippedError``.
                The third way out is ``rollback``.
        Raises:
            KernelStateError: it is not halted.
            UsageError: no message halted it, so there is none to skip; nothing was changed.
            StorageError, DeviceError: it can't be rebuilt now; it is halted again.
        """
        core = self._core
        await core.in_task(
            lambda: rewinding.resume_halted(core, kernel_id, decision, actor=actor, reason=reason)
        )

    async def rollback(
        self,
        kernel_id: str,
        *,
        to: str | None = None,
        before_reload: bool = False,
        undo_messages: bool = False,
        actor: str = "",
        reason: str = "",
    ) -> RollbackResult:
        """Put state and code of an earlier recovery point in place, of a halted kernel as well.

        It becomes a new recovery point: no fall-back goes to one before it. Outputs that were seen
        stay seen; a replay repeats none of them.

        Args:
            to: name of a checkpoint as ``checkpoint`` got it; None: the newest recovery point.
            before_reload: the newest recovery point of the code before the last reload.
            undo_messages: never apply the messages again that were applied since that point, nor
                the one that halted the kernel. Else they are applied again, by the point's code.
                What was accepted and not applied yet is applied in both cases.
        Raises:
            UsageError, StorageError, DeviceError: nothing was changed and the kernel works on.
        """
        core = self._core
        return await core.in_task(
            lambda: rewinding.rollback(
                core,
                kernel_id,
                to=to,
                before_reload=before_reload,
                undo_messages=undo_messages,
                actor=actor,
                reason=reason,
            )
        )

    def recovery_points(self, kernel_id: str) -> tuple[RecoveryPoint, ...]:
        """Return from where a kernel can be rebuilt, oldest first."""
        return self._core.state.kernel(kernel_id).recovery_points

    async def retire_checkpoint(
        self, kernel_id: str, name: str, *, actor: str = "", reason: str = ""
    ) -> None:
        """Delete a checkpoint that is not needed any more, also one that was named.

        Raises:
            UsageError: there is none, or the kernel could not be rebuilt without it.
        """
        core = self._core
        await core.in_task(
            lambda: checkpoints.retire_named(core, kernel_id, name, actor=actor, reason=reason)
        )

    # Routes

    async def connect(
        self, source: str, route: str, target: str, *, actor: str = "", reason: str = ""
    ) -> Connection:
        """Make what ``source`` sends on a route from now on messages of ``target``.

        It holds until ``disconnect``, over restarts too. A kernel may lead to itself and in
        circles. If the route leads to this target already, nothing happens.
        Raises:
            UnknownKernelError, KernelStateError, KernelBusyError: one of them is not there.
            RouteError: the source has no such route, it leads elsewhere, or it declares a message
                that the target does not take. Nothing was changed.
        """
        return await routing.connect(self._core, source, route, target, actor=actor, reason=reason)

    async def disconnect(
        self, source: str, route: str, *, actor: str = "", reason: str = ""
    ) -> int:
        """End a connection; return how many outputs waited for the target and are dropped now.

        Raises:
            UnknownKernelError, RouteError: there is none.
        """
        return await routing.disconnect(self._core, source, route, actor=actor, reason=reason)

    def connections(self, kernel_id: str) -> tuple[Connection, ...]:
        """Return a kernel's routes, connected or not, in the order of its spec."""
        return routing.connections(self._core, kernel_id)

    # Operations

    async def migrate(
        self,
        kernel_id: str,
        *,
        to: str,
        actor: str = "",
        reason: str = "",
        key: str | None = None,
    ) -> MigrationResult:
        """Move a kernel to another device while it works; return when the source is freed.

        A cancellation before the commit point cancels the migration, waits, and is then raised.
        Args:
            key: the same request under the same key again, also after a restart, starts nothing
                and gets the first one's result.
        Raises:
            SameDeviceError, UnknownDeviceError, KernelBusyError: nothing was changed.
            IdempotencyConflictError: the key was used for another request.
            OperationFailedError: it failed and the kernel works on the source as before.
        """
        return await self._finished(
            self.start_migration(kernel_id, to=to, actor=actor, reason=reason, key=key)
        )

    def start_migration(
        self,
        kernel_id: str,
        *,
        to: str,
        actor: str = "",
        reason: str = "",
        key: str | None = None,
    ) -> Operation[MigrationResult]:
        """Like ``migrate``, but return the running operation at once."""
        return requests.start_migration(
            self._core, kernel_id, to=to, actor=actor, reason=reason, key=key
        )

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
        routes: Iterable[str | Route] | None = None,
        arguments: Mapping[str, Any] | None = None,
        at_sequence: int | None = None,
        probation_messages: int = 16,
        probation_timeout_s: float = 30.0,
        actor: str = "",
        reason: str = "",
        key: str | None = None,
    ) -> Operation[ReloadResult]:
        """Start to replace a kernel's code, with its state kept; return the running operation.

        Args:
            regions, messages, routes, arguments: those of the new code where they differ from
                the old's.
            convert: a kernel in the new code that is run once, with the spec's grid and block, on
                pointers to the old regions in their order and then the new ones; regions of equal
                name, dtype and shape are copied before, others start from ``initial`` or zeros.
            at_sequence: the first message for the new code; None: as soon as possible.
            probation_messages, probation_timeout_s: the new code's outputs are held until it has
                finished so many messages, or the time is over; a trap or a stall rolls back.
            key: as for ``migrate``.
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
            routes=routes,
            arguments=arguments,
            at_sequence=at_sequence,
            probation_messages=probation_messages,
            probation_timeout_s=probation_timeout_s,
            actor=actor,
            reason=reason,
            key=key,
        )

    async def checkpoint(
        self,
        kernel_id: str,
        *,
        name: str | None = None,
        actor: str = "",
        reason: str = "",
        key: str | None = None,
    ) -> CheckpointInfo:
        """Make the kernel's state durable while it stays resident; it is the recovery point then.

        Args:
            key: as for ``migrate``.
        Raises:
            KernelBusyError, UsageError: nothing was changed.
            OperationFailedError: the kernel works on, the older recovery point holds.
        """
        operation = requests.start_snapshot(
            self._core, kernel_id, name=name, actor=actor, reason=reason, key=key
        )
        return await self._finished(operation)

    def operations(self) -> tuple[OperationStatus, ...]:
        """Return all operations that the journal knows, oldest first."""
        return operation_statuses(self._core)

    async def _finished(self, operation: Operation[R]) -> R:
        try:
            return await operation.result()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await operation.cancel()
            raise

    # The journal

    def subscribe(
        self,
        *,
        from_sequence: int | None = None,
        streams: Streams = None,
        types: Types = None,
    ) -> AbstractAsyncContextManager[Subscription]:
        """``async with engine.subscribe(from_sequence=0) as records``: durable history, then live.

        Args:
            from_sequence: the first record; 0 for the oldest there is, None for live ones only.
            streams: a stream such as ``"kernel/wave"``, the start of streams' names and ``*``, or
                a function of the name.
            types: event types or their wire names; a record comes whole if it holds one.
        Raises:
            UsageError: no event has this type.
        """
        return self._core.journal.subscribe(
            from_sequence=from_sequence, streams=streams, types=types
        )

    def project(
        self,
        projection: Projection,
        *,
        store: ProjectionStore | None = None,
        streams: Streams = None,
        types: Types = None,
        every_records: int = 1000,
    ) -> AbstractAsyncContextManager[RunningProjection]:
        """``async with engine.project(p) as running``: keep a projection up to date for the block.

        Args:
            store: where it is stored; the folder ``projections`` of the engine's if None.
            every_records: so many applied records after the last time it is stored, and at the end.
        Raises:
            ConflictError: what is stored is of another journal.
            ArchivedError: it needs records that were archived.
        """
        return projecting(
            self._core.journal,
            projection,
            store or FileProjections(self._core.folder, files=self._core.files),
            streams=streams,
            types=types,
            every_records=every_records,
        )

    async def archive(
        self,
        folder: Path | str | None = None,
        *,
        delete: bool = False,
        to_sequence: int | None = None,
        dry_run: bool = False,
        actor: str = "",
        reason: str = "",
    ) -> ArchivePlan:
        """Take the oldest records out of the journal, as far as nothing needs them.

        Args:
            folder: where their segments go; None only with ``delete`` or ``dry_run``.
            to_sequence: nothing behind it goes; None: whatever may.
            dry_run: only say what would go and what keeps the rest.
        Raises:
            UsageError: neither ``folder`` nor ``delete``, or both.
            StorageError: the disk failed; the next archiving finishes what is left.
        """
        core = self._core
        core.check_accepting()
        return await archive(
            core.journal,
            core.files,
            core.folder,
            target=None if folder is None else Path(folder),
            delete=delete,
            to_sequence=to_sequence,
            dry_run=dry_run,
            actor=actor,
            reason=reason,
        )

    # Devices and health

    def devices(self) -> tuple[Device, ...]:
        return tuple(self._core.devices.values())

    def estimate_transfer(self, kernel_id: str, to: str) -> TransferEstimate | None:
        """Return how fast a kernel's state would go to a device; None where none went there yet.

        It is measured: from the migrations between the two devices since the engine was opened.

        Raises:
            UnknownKernelError, UnknownDeviceError: there is none of this name.
            KernelStateError: the kernel does not run.
            DeviceLostError: the device is lost.
        """
        source = self._core.runtime(kernel_id).instance.device.name
        return self._core.rates.estimate(source, self._core.device(to).name)

    @property
    def epoch(self) -> int:
        """The number of this opening of the folder, from 1."""
        return self._core.epoch

    def health(self) -> Mapping[str, Any]:
        """Return what an operator wants to know: ``ok``, and what keeps it from being so.

        ``closed`` and ``halted`` and ``lost_devices`` say why; ``stalled`` has kernels that are in
        one message for a step's deadline or longer, with the seconds; ``died_in_a_row`` counts the
        engines before this one that got nowhere; ``journal`` has the queues' counters.
        """
        return health(self._core)
