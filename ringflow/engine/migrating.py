"""Performs a migration's effects: the target is verified and waits before anything is rerouted."""

from __future__ import annotations

import contextlib

from ringflow.clock import NS_PER_S
from ringflow.device.abi import Command, KernelState
from ringflow.engine import checkpoints, instances
from ringflow.engine.core import Core
from ringflow.engine.instances import Instance
from ringflow.engine.operations import Outcome
from ringflow.engine.quiescing import quiesce, resume, resumed
from ringflow.engine.restoring import replay, restore
from ringflow.engine.runtime import KernelRuntime
from ringflow.engine.state import Operation
from ringflow.errors import DeviceError
from ringflow.events import migration as e
from ringflow.routing import OutputId
from ringflow.statemachines import effects
from ringflow.statemachines.effects import Effect


class MigrationPerformer:
    """One migration's work; holds the target until it is the kernel's own instance."""

    def __init__(self, core: Core, runtime: KernelRuntime) -> None:
        self._core = core
        self._runtime = runtime
        self._source = runtime.instance
        self._target: Instance | None = None
        self._applied = 0
        self._covered: OutputId | None = None

    async def perform(self, effect: Effect) -> Outcome:
        ids = {"operation_id": effect.operation_id, "kernel_id": effect.kernel_id}
        match effect:
            case effects.BeginOperation():
                return Outcome(e.MigrationPreparationStarted(**ids))
            case effects.PrepareTarget(device=device):
                size = await self._prepare(device)
                return Outcome(e.MigrationTargetPrepared(**ids, state_bytes=size))
            case effects.QuiesceKernel():
                self._applied = await quiesce(self._core, self._runtime, purpose="migration")
                return Outcome(e.MigrationSourceQuiesced(**ids, applied_sequence=self._applied))
            case effects.DigestSource():
                digests = await self._core.in_thread(lambda: instances.region_digests(self._source))
                return Outcome(e.MigrationCheckpointed(**ids, digests=digests))
            case effects.TransferState():
                path, size = await self._transfer()
                return Outcome(
                    e.MigrationStateTransferred(**ids, path=path, transferred_bytes=size)
                )
            case effects.RestoreTarget():
                digests = await self._restore()
                return Outcome(e.MigrationTargetRestored(**ids, digests=digests))
            case effects.OpenGate():
                try:
                    return self._open_gate(ids)
                except Exception:  # past the commit point: there is no way back to the source
                    return await self._rebuild_target(ids)
            case effects.RetireSource():
                return await self._complete(ids)
            case effects.ResumeSource():
                return await self._resume_source(ids)
            case _:
                raise AssertionError(effect)

    async def finish(self, state: Operation) -> None:
        """Let go what the recovery point of the target covers, if there is one."""
        if state.state.value == "failed":  # the way back failed too, before it freed the target
            await self.abandon()
        if self._covered is not None:
            self._runtime.release_outputs(self._covered)
            await checkpoints.retire(self._core, self._runtime.kernel_id)

    async def abandon(self) -> None:
        """Free the instances that the kernel does not run on; a failed free is no failure."""
        for instance in (self._source, self._target):
            if instance is not None and instance is not self._runtime.instance:
                with contextlib.suppress(DeviceError):
                    await self._core.in_thread(instance.close)

    @property
    def _prepared(self) -> Instance:
        assert self._target is not None
        return self._target

    async def _prepare(self, device_name: str) -> int:
        core, source = self._core, self._source
        device = core.device(device_name)

        def build() -> Instance:
            compiled = source.compiled
            if compiled.target != device.target.name:
                compiled = instances.compile_for(source.spec, device, core.cache)
            grid = source.resident.grid
            made = instances.create(device, source.spec, compiled, grid=grid, epoch=core.epoch)
            try:
                instances.check_listed(made, "migration")
                instances.check_same_globals(source, made)
            except BaseException:
                made.close()
                raise
            return made

        self._target = await core.in_thread(build)
        return source.resident.state_bytes

    async def _transfer(self) -> tuple[str, int]:
        core, source, target = self._core, self._source, self._prepared
        names = frozenset(source.resident.regions)
        start_ns = core.clock.monotonic_ns()
        path, size_bytes = await core.in_thread(lambda: instances.transfer(source, target, names))
        core.rates.record(
            source.device.name,
            target.device.name,
            path=path,
            size_bytes=size_bytes,
            taken_s=(core.clock.monotonic_ns() - start_ns) / NS_PER_S,
        )
        return path, size_bytes

    async def _restore(self) -> dict[str, str]:
        core, target = self._core, self._prepared
        output_index = self._runtime.outputs.next_index(self._applied)

        def digest_and_launch() -> dict[str, str]:
            digests = instances.region_digests(target)
            target.resident.relaunch(
                base_sequence=self._applied,
                epoch=core.epoch,
                gate_open=False,
                timeout_s=core.limits.launch_timeout_s,
                output_index=output_index,
            )
            return digests

        return await core.in_thread(digest_and_launch)

    def _open_gate(self, ids: dict[str, str]) -> Outcome:
        runtime = self._runtime
        runtime.instance = self._prepared
        runtime.attach()
        parked = runtime.inbox.parked_count
        self._prepared.resident.command(Command.RUN)
        pause_ns = runtime.flow()
        opened = e.MigrationGateOpened(**ids, pause_ns=pause_ns, parked_count=parked)
        return Outcome(opened, (resumed(runtime, self._applied),))

    async def _rebuild_target(self, ids: dict[str, str]) -> Outcome:
        """Give the kernel another instance on the target, from its recovery point."""
        runtime, target = self._runtime, self._prepared
        runtime.pause()
        runtime.detach()
        await self._core.in_thread(target.discard)
        facts = await replay(self._core, runtime, target.device, applied_sequence=self._applied)
        opened = e.MigrationGateOpened(**ids, pause_ns=0, parked_count=runtime.inbox.parked_count)
        return Outcome(opened, facts)

    async def _complete(self, ids: dict[str, str]) -> Outcome:
        """Free the source; a kernel whose replay may differ gets a recovery point on the target."""
        failure = await self._retire_source()
        runtime = self._runtime
        if runtime.spec.replay != "checkpoint":
            return Outcome(e.MigrationCompleted(**ids, retire_failure=failure))
        captured = await checkpoints.capture_held(self._core, runtime, purpose="migration")
        name = f"{runtime.kernel_id}@{ids['operation_id']}"
        point = await checkpoints.save(
            self._core, runtime.instance, captured, name=name, reason="migration"
        )
        self._covered = captured.covered
        return Outcome(e.MigrationCompleted(**ids, retire_failure=failure), (point,))

    async def _retire_source(self) -> str:
        runtime = self._runtime

        def answered() -> bool:
            return runtime.trapped or runtime.state is KernelState.RUNNING

        await runtime.changed.until(answered)
        try:
            await self._core.in_thread(self._source.close)
        except Exception as error:  # a failed free is an event, never a failed migration
            return f"{type(error).__name__}: {error}"
        return ""

    async def _resume_source(self, ids: dict[str, str]) -> Outcome:
        runtime = self._runtime
        if runtime.trapped:
            facts = await restore(self._core, runtime, self._source.device)
        else:
            facts = await resume(self._core, runtime)
        await self.abandon()
        return Outcome(e.MigrationRolledBack(**ids), facts)
