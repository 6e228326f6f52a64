"""Performs a reload's effects: the old instance stays whole until the new one has proved itself."""

from __future__ import annotations

import contextlib

import anyio

from ringflow.clock import within
from ringflow.device.abi import Command
from ringflow.device.api import LaunchStatus
from ringflow.device.compiler.api import CompiledCode
from ringflow.engine import checkpoints, instances
from ringflow.engine.core import Core
from ringflow.engine.instances import Instance
from ringflow.engine.operations import Outcome
from ringflow.engine.quiescing import launch, quiesce, resume, resumed
from ringflow.engine.restoring import replay, restore
from ringflow.engine.runtime import KernelRuntime
from ringflow.engine.state import Operation
from ringflow.errors import (
    DeviceError,
    EntryPointError,
    SpecError,
)
from ringflow.events import reload as e
from ringflow.events.codec import Event
from ringflow.routing import OutputId
from ringflow.spec import KernelSpec
from ringflow.statemachines import effects
from ringflow.statemachines.effects import Effect


class ReloadPerformer:
    """One reload's work; ``new`` has initial arrays that the stored spec lacks."""

    def __init__(self, core: Core, runtime: KernelRuntime, new: KernelSpec) -> None:
        self._core = core
        self._runtime = runtime
        self._old = runtime.instance
        self._spec = new
        self._compiled: CompiledCode | None = None
        self._new: Instance | None = None
        self._applied = 0
        self._shared = instances.shared_regions(self._old.spec, new)
        self._covered: OutputId = (0, 0)
        self._old_digests: dict[str, str] = {}
        self._converted = False
        self._held_before: OutputId | None = None
        self._seen_before: OutputId = (0, 0)
        self._swapped = False

    async def perform(self, effect: Effect) -> Outcome:
        ids = {"operation_id": effect.operation_id, "kernel_id": effect.kernel_id}
        match effect:
            case effects.BeginOperation():
                return Outcome(e.ReloadCompileStarted(**ids))
            case effects.CompileCode():
                return Outcome(e.ReloadCompiled(**ids, code_digest=await self._compile()))
            case effects.ValidateCode(convert=convert):
                await self._validate(convert)
                size = self._loaded.resident.state_bytes
                return Outcome(e.ReloadValidated(**ids, state_bytes=size))
            case effects.QuiesceKernel(at_sequence=at_sequence):
                await self._runtime.until_handled(self._runtime.replay_through)
                self._applied = await quiesce(
                    self._core, self._runtime, purpose="reload", at_sequence=at_sequence
                )
                return Outcome(e.ReloadDrained(**ids, applied_sequence=self._applied))
            case effects.DigestSource():
                digests = await self._core.in_thread(lambda: instances.region_digests(self._old))
                self._old_digests = digests
                return Outcome(e.ReloadCheckpointed(**ids, digests=digests))
            case effects.SwapCode(convert=convert):
                self._converted = bool(convert)
                digests = await self._core.in_thread(lambda: self._swap(convert))
                kept = tuple(sorted(self._shared))
                return Outcome(e.ReloadSwapped(**ids, kept=kept, digests=digests))
            case effects.RestoreCode():
                return await self._start_probation(ids)
            case effects.WatchProbation(messages=messages, timeout_ns=timeout_ns):
                return await self._watch(ids, messages, timeout_ns / 1e9)
            case effects.ResumeOldCode():
                return await self._resume_old(ids)
            case _:
                raise AssertionError(effect)

    async def finish(self, state: Operation) -> None:
        """Show the outputs that were held, and free the way back, now that it is durable."""
        if state.state.value == "failed":  # the way back failed too: what comes is a rebuilding
            self._runtime.retain_after = None
            await self.abandon()
        if state.state.value != "completed":
            return
        runtime = self._runtime
        runtime.retain_after = None
        runtime.discard_done()
        runtime.release_outputs(self._covered)
        await self._core.in_thread(self._old.discard)
        await checkpoints.retire(self._core, runtime.kernel_id)

    async def abandon(self) -> None:
        """Free the instance that the kernel does not run on; a failed free is no failure."""
        for instance in (self._old, self._new):
            if instance is not None and instance is not self._runtime.instance:
                with contextlib.suppress(DeviceError):
                    await self._core.in_thread(instance.close)

    @property
    def _loaded(self) -> Instance:
        assert self._new is not None
        return self._new

    async def _compile(self) -> str:
        core, device = self._core, self._old.device

        def build() -> str:
            self._compiled = instances.compile_for(self._spec, device, core.cache)
            return core.objects.put(self._compiled.code)

        return await core.in_thread(build)

    async def _validate(self, convert: str) -> None:
        core, old, compiled = self._core, self._old, self._compiled
        assert compiled is not None

        def build() -> None:
            grid = old.resident.grid
            self._new = instances.create(
                old.device, self._spec, compiled, grid=grid, epoch=core.epoch
            )
            self._check_variables(self._new, convert)
            if convert:
                self._check_convert(self._new, convert)
            fresh = [region for region in self._spec.regions if region.name not in self._shared]
            instances.write_initial(self._new, fresh)

        await core.in_thread(build)

    def _check_variables(self, new: Instance, convert: str) -> None:
        """Find the variables that go on with their values; others need a convert kernel."""
        instances.check_listed(new, "reload")
        lost = instances.lost_globals(self._old, new)
        if lost and not convert:
            raise SpecError(
                f"variables {', '.join(lost)} change their size or go; name a convert kernel that "
                "deals with them"
            )
        self._shared |= instances.shared_globals(self._old, new)

    def _check_convert(self, new: Instance, convert: str) -> None:
        sizes = new.code.parameter_sizes.get(convert)
        lost = instances.lost_globals(self._old, new)
        expected = (8,) * (len(self._old.spec.regions) + len(self._spec.regions) + len(lost))
        if sizes != expected:
            found = "is not in the new code" if sizes is None else f"has parameters {sizes}"
            raise EntryPointError(
                f"convert kernel {convert!r} {found}; it must take {len(expected)} pointers: the "
                "old regions in their order, then the new ones, then the old variables "
                f"that go or change their size: {', '.join(lost) or 'none'}"
            )

    def _swap(self, convert: str) -> dict[str, str]:
        instances.transfer(self._old, self._loaded, self._shared)
        if convert:
            timeout_s = self._core.limits.step_timeout_s
            instances.run_convert(self._old, self._loaded, convert, timeout_s=timeout_s)
        return instances.region_digests(self._loaded)

    async def _start_probation(self, ids: dict[str, str]) -> Outcome:
        runtime, applied = self._runtime, self._applied
        runtime.instance = self._loaded
        self._swapped = True
        self._held_before = runtime.outputs.held_after
        self._seen_before = runtime.outputs.seen
        runtime.outputs.hold_after(self._held_before or self._seen_before)
        runtime.retain_after = applied
        await launch(self._core, runtime, applied_sequence=applied, gate_open=False)
        runtime.instance.resident.command(Command.RUN)
        runtime.deliver_through = None
        parked = runtime.inbox.parked_count
        pause_ns = runtime.flow()
        restored = e.ReloadRestored(**ids, pause_ns=pause_ns, parked_count=parked)
        return Outcome(restored, (resumed(runtime, applied),))

    async def _watch(self, ids: dict[str, str], messages: int, timeout_s: float) -> Outcome:
        core, runtime = self._core, self._runtime
        goal = self._applied + messages

        has_proved = await within(core.clock, timeout_s, lambda: runtime.until_handled(goal))
        hold_s = core.limits.step_timeout_s
        if not has_proved:  # a message that takes longer than all of probation has stalled
            hold_s = min(hold_s, timeout_s)
        captured = await checkpoints.capture_held(
            core, runtime, purpose="probation", timeout_s=hold_s
        )
        point = await checkpoints.save(
            core,
            self._loaded,
            captured,
            name=f"{runtime.kernel_id}@{ids['operation_id']}",
            history_from=self._applied + 1,
            reason="reload",
        )
        runtime.raise_if_dead()
        self._covered = captured.covered
        completed = e.ReloadCompleted(
            **ids, spec_digest=point.spec_digest, version_id=point.version_id
        )
        return Outcome(completed, (point,))

    async def _old_is_untouched(self) -> bool:
        """Whether the old regions are what they were: a convert kernel can write to them."""
        if self._old.device.lost:
            return False
        if not self._converted:
            return True
        digests = await self._core.in_thread(lambda: instances.region_digests(self._old))
        return digests == self._old_digests

    async def _resume_old(self, ids: dict[str, str]) -> Outcome:
        runtime = self._runtime
        try:
            facts = await self._work_again()
            runtime.retain_after = None
        finally:  # what fails here is rebuilt from its recovery point, on another instance
            with anyio.CancelScope(shield=True):
                await self.abandon()
        return Outcome(e.ReloadRolledBack(**ids, applied_sequence=self._applied), facts)

    async def _work_again(self) -> tuple[Event, ...]:
        core, runtime = self._core, self._runtime
        if self._swapped:
            await self._leave_new()
        if runtime.trapped and not self._swapped:
            return await restore(core, runtime, self._old.device)
        if not await self._old_is_untouched():
            runtime.pause()  # the pump may not have told yet that the device is lost
            runtime.detach()
            await core.in_thread(self._old.discard)
            return await replay(core, runtime, self._old.device, applied_sequence=self._applied)
        if self._swapped:
            await launch(core, runtime, applied_sequence=self._applied)
            runtime.deliver_through = None
            runtime.flow()
            return (resumed(runtime, self._applied),)
        return await resume(core, runtime)

    async def _leave_new(self) -> None:
        """Take the kernel away from the new instance, as if it had never run."""
        runtime = self._runtime
        runtime.pause()
        runtime.detach()
        with contextlib.suppress(DeviceError):  # nothing of it is needed: it need not come to rest
            await self._core.in_thread(self._loaded.resident.end)
        runtime.instance = self._old
        runtime.status = LaunchStatus.COMPLETED
        runtime.outputs.forget_after(self._seen_before)
        runtime.outputs.release(hold_after=self._held_before)
        runtime.inbox.rewind(self._applied)
