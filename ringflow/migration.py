"""Moves any ``CheckpointableKernel`` to another device through a saved checkpoint.

- Driven by the machine that the engine's migrations follow; its events stay with the request.
- Until the restored state's digests were compared the routing table says the source; a failure
  before puts the saved state back there, and digests it again.
- A checkpoint that is still needed to repair a kernel by hand is never deleted.
"""

from __future__ import annotations

from typing import Final, final

import anyio
import attrs

from ringflow.clock import NS_PER_S, Clock, within
from ringflow.coordinator import MigrationRequest, MultiGpuCoordinator
from ringflow.errors import OperationFailedError
from ringflow.events import migration as e
from ringflow.events.codec import Event
from ringflow.ports import CheckpointableKernel, QuiescableKernel, SelfMigratingKernel
from ringflow.results import MigrationResult
from ringflow.statemachines import effects
from ringflow.statemachines import migration as machine
from ringflow.statemachines.effects import Effect
from ringflow.statemachines.migration import Migration, MigrationState
from ringflow.stepping import Drive, Machine
from ringflow.storage import CheckpointStorage, MemoryStorage
from ringflow.transit import StateInTransit, digests_of

__all__ = ["KernelMigrator", "MigrationResult", "MigrationStatsSnapshot"]

STEP_TIMEOUT_S: Final = 30.0

_MACHINE: Final = Machine(decide=machine.decide, evolve=machine.evolve, effect_of=machine.effect_of)


@final
@attrs.frozen(kw_only=True)
class MigrationStatsSnapshot:
    """What a migrator has done so far.

    Attributes:
        failed: migrations that did not commit, cancelled ones included.
        bytes_transferred: state of the successful ones.
        average_checkpoint_s, average_restore_s: of the successful ones, 0.0 before the first.
    """

    successful: int = 0
    failed: int = 0
    bytes_transferred: int = 0
    average_checkpoint_s: float = 0.0
    average_restore_s: float = 0.0

    def with_success(self, result: MigrationResult) -> MigrationStatsSnapshot:
        count = self.successful + 1
        return attrs.evolve(
            self,
            successful=count,
            bytes_transferred=self.bytes_transferred + result.state_bytes,
            average_checkpoint_s=_average(self.average_checkpoint_s, result.checkpoint_s, count),
            average_restore_s=_average(self.average_restore_s, result.restore_s, count),
        )


def _average(before: float, new: float, count: int) -> float:
    return before + (new - before) / count


@final
class KernelMigrator:
    """Migrates kernels between a coordinator's devices.

    Args:
        storage: where the state lies on its way; the checkpoint is deleted after the migration.
        step_timeout_s: deadline of each step, those of the way back included.
    """

    def __init__(
        self,
        coordinator: MultiGpuCoordinator,
        storage: CheckpointStorage | None = None,
        *,
        step_timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        self._coordinator = coordinator
        self._storage = MemoryStorage() if storage is None else storage
        self._step_timeout_s = step_timeout_s
        self._stats = MigrationStatsSnapshot()

    @classmethod
    def with_storage(
        cls, coordinator: MultiGpuCoordinator, storage: CheckpointStorage
    ) -> KernelMigrator:
        return cls(coordinator, storage)

    @property
    def coordinator(self) -> MultiGpuCoordinator:
        return self._coordinator

    @property
    def stats(self) -> MigrationStatsSnapshot:
        return self._stats

    async def migrate_with_checkpoint(
        self,
        kernel: CheckpointableKernel | SelfMigratingKernel,
        request: MigrationRequest,
        *,
        target: CheckpointableKernel | None = None,
    ) -> MigrationResult:
        """Carry out a request: the kernel is on the target when this returns.

        A ``QuiescableKernel`` is quiesced, placed and resumed. One that isn't must not change
        while it migrates: changes after its checkpoint are undone by the restore. An engine's
        kernel is migrated by its engine, which no cancellation interrupts here.

        Args:
            target: another object that is to be the kernel from here on, already on the target
                device; ``kernel`` itself if it is None. After success ``kernel`` stays quiesced.
        Raises:
            UsageError: nothing was changed; see ``MultiGpuCoordinator.request_migration``.
            OperationFailedError: ``state`` is ``rolled_back`` (the kernel works on the source as
                before), ``failed`` (it could not be put back) or ``completed`` (it is on the
                target, but could not be resumed). In the last two the checkpoint is kept, and
                named.
        """
        transit = StateInTransit(self._storage, request.kernel_id, request.operation_id)
        with self._coordinator.migration(request):
            try:
                if isinstance(kernel, SelfMigratingKernel):
                    result = await self._delegate(kernel, request)
                else:
                    result = await self._migrate(kernel, target or kernel, request, transit)
            except BaseException:
                self._stats = attrs.evolve(self._stats, failed=self._stats.failed + 1)
                raise
            self._stats = self._stats.with_success(result)
            self._coordinator.record_transfer(result)
            return result

    async def _delegate(
        self, kernel: SelfMigratingKernel, request: MigrationRequest
    ) -> MigrationResult:
        # Interrupted here, nobody could tell whether the host had passed its commit point.
        with anyio.CancelScope(shield=True):
            try:
                result = await kernel.migrate_to(
                    request.target_device, actor=request.actor, reason=request.reason
                )
            except BaseException:
                request.state = MigrationState.ROLLED_BACK
                raise
        if (result.kernel_id, result.target_device) != (request.kernel_id, request.target_device):
            request.state = MigrationState.FAILED
            raise OperationFailedError(
                request.operation_id,
                "failed",
                f"kernel {result.kernel_id!r} was moved to {result.target_device!r} instead of "
                f"{request.kernel_id!r} to {request.target_device!r}; correct the routing table",
            )
        request.state = MigrationState.COMPLETED
        self._coordinator.commit_migration(request)
        return result

    async def _migrate(
        self,
        source: CheckpointableKernel,
        target: CheckpointableKernel,
        request: MigrationRequest,
        transit: StateInTransit,
    ) -> MigrationResult:
        clock = self._coordinator.clock
        requested = machine.request(
            operation_id=request.operation_id,
            kernel_id=request.kernel_id,
            source=request.source_device,
            target=request.target_device,
            actor=request.actor,
            reason=request.reason,
        )
        request.events = (requested,)
        drive: Drive[Migration] = Drive(_MACHINE, machine.begin(requested), clock=clock)
        performer = _Performer(request, transit, source, target, clock)

        def happened(event: Event) -> None:
            request.events += (event,)
            request.state = drive.state.state
            if isinstance(event, e.MigrationRerouted):
                self._coordinator.commit_migration(request)

        try:
            await drive.run(
                performer.perform, on_event=happened, timeout_s=lambda effect: self._step_timeout_s
            )
        finally:
            if request.state in (MigrationState.ROLLED_BACK, MigrationState.CANCELLED):
                with anyio.CancelScope(shield=True):
                    await within(clock, self._step_timeout_s, transit.discard)
        return _result(drive.state, request, transit, drive.step_s)


def _result(
    ended: Migration, request: MigrationRequest, transit: StateInTransit, step_s: dict[str, float]
) -> MigrationResult:
    kept = f"; its state is kept as checkpoint {transit.name!r}" if transit.kept else ""
    last = request.events[-1]
    if not isinstance(last, e.MigrationCompleted):
        raise OperationFailedError(ended.operation_id, ended.state.value, ended.failure + kept)
    if not ended.gate_open:
        raise OperationFailedError(
            ended.operation_id,
            ended.state.value,
            f"the kernel is on {ended.target!r}, but not resumed there ({last.retire_failure})"
            f"{kept}; call its resume()",
        )
    return MigrationResult(
        operation_id=ended.operation_id,
        kernel_id=ended.kernel_id,
        source_device=ended.source,
        target_device=ended.target,
        state_bytes=transit.size_bytes,
        pause_s=ended.pause_ns / NS_PER_S,
        parked_count=ended.parked_count,
        path=ended.path,
        digests=ended.digests,
        step_s=step_s,
        retire_failure=last.retire_failure,
    )


class _Performer:
    """Performs one migration's effects on the users' objects and the storage."""

    def __init__(
        self,
        request: MigrationRequest,
        transit: StateInTransit,
        source: CheckpointableKernel,
        target: CheckpointableKernel,
        clock: Clock,
    ) -> None:
        self._request = request
        self._transit = transit
        self._source = source
        self._target = target
        self._clock = clock
        self._quiesced_ns: int | None = None
        self._placed = False

    async def perform(self, effect: Effect) -> Event:
        ids = {"operation_id": effect.operation_id, "kernel_id": effect.kernel_id}
        transit = self._transit
        match effect:
            case effects.BeginOperation():
                return e.MigrationPreparationStarted(**ids)
            case effects.PrepareTarget():
                transit.check_ready(self._source)
                size = self._source.checkpoint_size_estimate()
                return e.MigrationTargetPrepared(**ids, state_bytes=size)
            case effects.QuiesceKernel():
                return e.MigrationSourceQuiesced(**ids, applied_sequence=await self._quiesce())
            case effects.DigestSource():
                return e.MigrationCheckpointed(**ids, digests=await transit.take(self._source))
            case effects.TransferState():
                await transit.store()
                size = transit.size_bytes
                return e.MigrationStateTransferred(**ids, path="storage", transferred_bytes=size)
            case effects.RestoreTarget():
                return e.MigrationTargetRestored(**ids, digests=await self._restore_target())
            case effects.OpenGate():
                pause_ns = await self._open_gate()
                return e.MigrationGateOpened(**ids, pause_ns=pause_ns, parked_count=0)
            case effects.RetireSource():
                return e.MigrationCompleted(**ids, retire_failure=await transit.discard())
            case effects.ResumeSource():
                await self._resume_source()
                return e.MigrationRolledBack(**ids)
            case _:
                raise AssertionError(effect)

    async def _quiesce(self) -> int:
        self._quiesced_ns = self._clock.monotonic_ns()
        if isinstance(self._source, QuiescableKernel):
            return await self._source.quiesce()
        return 0

    async def _restore_target(self) -> dict[str, str]:
        self._placed = True
        if isinstance(self._target, QuiescableKernel):
            await self._target.place(self._request.target_device)
        await self._target.restore(self._transit.stored)
        restored = await self._target.checkpoint()
        self._transit.check_step(restored)
        return await digests_of(restored)

    async def _open_gate(self) -> int:
        assert self._quiesced_ns is not None
        if isinstance(self._target, QuiescableKernel):
            await self._target.resume()
        return self._clock.monotonic_ns() - self._quiesced_ns

    async def _resume_source(self) -> None:
        """Put the source back to work; its state too, if anything has touched it."""
        source = self._source
        if self._placed and source is self._target:
            if isinstance(source, QuiescableKernel):
                await source.place(self._request.source_device)
            await source.restore(self._transit.stored)
            back = await source.checkpoint()
            await self._transit.compare(back, "the source did not take its state back")
        if self._quiesced_ns is not None and isinstance(source, QuiescableKernel):
            await source.resume()
