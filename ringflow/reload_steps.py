"""Performs a reload's effects on a user's ``ReloadableKernel``.

- The old code's state is in the storage, and confirmed, before the code is swapped.
- The way back runs the old code on exactly that state, and digests it again.
"""

from __future__ import annotations

from functools import partial
from typing import final

import attrs

from ringflow.clock import Clock
from ringflow.code_source import CodeFormat, KernelCodeSource
from ringflow.device.compiler.api import (
    HOST,
    CompiledCode,
    CompileTarget,
    code_from_ptx,
    compile_source,
)
from ringflow.device.compiler.cache import CompileCache
from ringflow.device.compiler.headers import MESSAGES_HEADER, messages_header
from ringflow.errors import ConflictError, SpecError
from ringflow.events import reload as e
from ringflow.events.codec import Event
from ringflow.messages import MessageLayout
from ringflow.ports import ReloadableKernel
from ringflow.statemachines import effects
from ringflow.statemachines.effects import Effect
from ringflow.storage import Checkpoint
from ringflow.transit import StateInTransit, digests_of, named_chunks
from ringflow.workers import in_thread


@attrs.frozen(kw_only=True)
class CodeCheck:
    """How new code is tried before the old code is touched.

    Attributes:
        target: what the kernel's device runs.
        messages: become ``ringflow_messages.cuh``.
        cache: of compiled code, None for none.
    """

    target: CompileTarget = HOST
    messages: tuple[MessageLayout, ...] = ()
    cache: CompileCache | None = None

    def compile(self, code: KernelCodeSource, *, deadline_s: float) -> CompiledCode:
        """Compile the code for the target; blocks.

        Raises:
            CompileError, EntryPointError: the source is at fault.
            SpecError: the code is in a form that the target does not run.
        """
        if code.format is CodeFormat.SOURCE:
            return compile_source(
                code.text,
                entry_point=code.entry_point,
                target=self.target,
                headers={MESSAGES_HEADER: messages_header(self.messages)},
                cache=self.cache,
                deadline_s=deadline_s,
            )
        if code.format is CodeFormat.PTX and self.target.is_host:
            return code_from_ptx(code.text, entry_point=code.entry_point)
        raise SpecError(
            f"target {self.target.name!r} does not run {code.format.value}; give CUDA source"
        )

    def translate(self, compiled: CompiledCode) -> None:
        """Translate host code as its device will; raises ``UnsupportedPtxError``. Blocks."""
        if self.target.is_host:
            from ringflow.device.host.translate import default_cache, translate

            translate(compiled.code.decode(), cache=default_cache())


@final
class ReloadPerformer:
    """One attempt to reload a kernel.

    Args:
        check: None to trust the new code.
        preserve_state: False to let the new code start from fresh regions.
    """

    def __init__(
        self,
        kernel: ReloadableKernel,
        old: KernelCodeSource,
        new: KernelCodeSource,
        transit: StateInTransit,
        *,
        check: CodeCheck | None,
        preserve_state: bool,
        deadline_s: float,
        clock: Clock,
    ) -> None:
        self.state_bytes = 0
        self._kernel = kernel
        self._old = old
        self._new = new
        self._transit = transit
        self._check = check
        self._preserve_state = preserve_state
        self._deadline_s = deadline_s
        self._clock = clock
        self._compiled: CompiledCode | None = None
        self._drained_ns: int | None = None
        self._swapped = False
        self._started = False

    async def perform(self, effect: Effect) -> Event:
        ids = {"operation_id": effect.operation_id, "kernel_id": effect.kernel_id}
        transit = self._transit
        match effect:
            case effects.BeginOperation():
                return e.ReloadCompileStarted(**ids)
            case effects.CompileCode():
                return e.ReloadCompiled(**ids, code_digest=await self._compile())
            case effects.ValidateCode():
                await self._validate()
                return e.ReloadValidated(**ids, state_bytes=0)  # the object says no size yet
            case effects.QuiesceKernel():
                transit.check_ready(self._kernel)
                self._drained_ns = self._clock.monotonic_ns()
                return e.ReloadDrained(**ids, applied_sequence=await self._kernel.drain())
            case effects.DigestSource():
                digests = await transit.take(self._kernel)
                await transit.store()
                return e.ReloadCheckpointed(**ids, digests=digests)
            case effects.SwapCode():
                kept, digests = await self._swap()
                return e.ReloadSwapped(**ids, kept=kept, digests=digests)
            case effects.RestoreCode():
                pause_ns = await self._start()
                return e.ReloadRestored(**ids, pause_ns=pause_ns, parked_count=0)
            case effects.WatchProbation():
                # The commit follows the start at once: a user's object has no outputs to hold.
                return e.ReloadCompleted(
                    **ids, spec_digest=self._new.hash, version_id=self._new.version_id
                )
            case effects.ResumeOldCode():
                await self._resume_old()
                return e.ReloadRolledBack(**ids, applied_sequence=transit.step)
            case _:
                raise AssertionError(effect)

    async def _compile(self) -> str:
        check, code = self._check, self._new
        if check is None:
            return code.hash
        self._compiled = await in_thread(lambda: check.compile(code, deadline_s=self._deadline_s))
        return self._compiled.source_digest

    async def _validate(self) -> None:
        if self._check is not None and self._compiled is not None:
            await in_thread(partial(self._check.translate, self._compiled))

    async def _swap(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """Change the code and fill its state; return what it shares with the old one's."""
        self._swapped = True
        await self._kernel.swap(self._new)
        if self._preserve_state:
            await self._kernel.restore(self._transit.stored)
        filled = await self._kernel.checkpoint()
        self.state_bytes = filled.data_bytes
        if not self._preserve_state:
            return (), await digests_of(filled)
        self._transit.check_step(filled)
        kept = _shared(self._transit.stored, filled)
        if self._transit.digests and not kept:
            raise ConflictError(
                "the new code's state shares no region with the old code's; let restore() take "
                "one over, or reload with preserve_state=False"
            )
        return kept, await digests_of(filled)

    async def _start(self) -> int:
        assert self._drained_ns is not None
        self._started = True
        await self._kernel.resume()
        return self._clock.monotonic_ns() - self._drained_ns

    async def _resume_old(self) -> None:
        kernel = self._kernel
        if self._started:
            await kernel.drain()
        if self._swapped:
            await kernel.swap(self._old)
            await kernel.restore(self._transit.stored)
            back = await kernel.checkpoint()
            await self._transit.compare(back, "the old code did not take its state back")
        if self._drained_ns is not None:
            await kernel.resume()


def _shared(old: Checkpoint, new: Checkpoint) -> tuple[str, ...]:
    """Return the names of the chunks that have the same layout in both states."""
    before, after = named_chunks(old), named_chunks(new)
    return tuple(
        name
        for name, chunk in before.items()
        if name in after
        and (chunk.dtype, chunk.shape, chunk.size_bytes)
        == (after[name].dtype, after[name].shape, after[name].size_bytes)
    )
