"""Changes the code of any ``ReloadableKernel`` while its object lives, its state kept.

- Driven by the machine that the engine's reloads follow; its events stay with the request.
- A failure at any step puts the old code and its state back; some are then tried again.
- The version that is told is the one that works: it changes with the reload's last event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final, final

import anyio
import attrs

from ringflow.clock import NS_PER_S, Clock, SystemClock, within
from ringflow.code_source import KernelCodeSource
from ringflow.coordinator import MultiGpuCoordinator
from ringflow.device.compiler.api import HOST, CompileTarget
from ringflow.device.compiler.cache import CompileCache
from ringflow.errors import (
    DisabledError,
    DuplicateKernelError,
    KernelBusyError,
    OperationFailedError,
    UnknownKernelError,
    UsageError,
)
from ringflow.events import reload as e
from ringflow.events.codec import Event
from ringflow.ids import Ids
from ringflow.messages import MessageLayout, layout_of
from ringflow.ports import ReloadableKernel, SelfReloadingKernel
from ringflow.reload_steps import CodeCheck, ReloadPerformer
from ringflow.reload_values import HotReloadConfig, HotReloadRequest, HotReloadStatsSnapshot
from ringflow.results import HotReloadResult, ReloadResult
from ringflow.statemachines import effects
from ringflow.statemachines import hot_reload as machine
from ringflow.statemachines.effects import Effect
from ringflow.statemachines.hot_reload import Reload, ReloadState
from ringflow.stepping import Drive, Machine
from ringflow.storage import CheckpointStorage, MemoryStorage
from ringflow.transit import StateInTransit

__all__ = [
    "HotReloadConfig",
    "HotReloadManager",
    "HotReloadRequest",
    "HotReloadResult",
    "HotReloadStatsSnapshot",
    "ReloadResult",
]

_MACHINE: Final = Machine(decide=machine.decide, evolve=machine.evolve, effect_of=machine.effect_of)
_FINAL_STEPS: Final = (effects.CompileCode.__name__, effects.ValidateCode.__name__)


@attrs.define
class _Registered:
    """A kernel that may be reloaded; ``kernel`` is the object of its last reload."""

    code: KernelCodeSource
    check: CodeCheck
    fallbacks: list[KernelCodeSource] = attrs.field(factory=list)
    kernel: ReloadableKernel | SelfReloadingKernel | None = None


@final
class HotReloadManager:
    """Keeps the code of registered kernels and changes it.

    Args:
        storage: where a kernel's state lies while its code changes; it is deleted afterwards.
        coordinator: whose leases keep migrations and reloads of a kernel apart, if there is one.
        compile_cache: of compiled code, None for none.
    """

    def __init__(
        self,
        config: HotReloadConfig | None = None,
        *,
        storage: CheckpointStorage | None = None,
        coordinator: MultiGpuCoordinator | None = None,
        compile_cache: CompileCache | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> None:
        self._config = config or HotReloadConfig()
        self._storage = MemoryStorage() if storage is None else storage
        self._coordinator = coordinator
        self._compile_cache = compile_cache
        self._clock = clock or SystemClock()
        self._ids = ids or Ids()
        self._kernels: dict[str, _Registered] = {}
        self._active: dict[str, HotReloadRequest] = {}
        self._stats = HotReloadStatsSnapshot()

    @classmethod
    def with_defaults(cls) -> HotReloadManager:
        return cls()

    @property
    def config(self) -> HotReloadConfig:
        return self._config

    @property
    def is_enabled(self) -> bool:
        return self._config.enabled

    @property
    def stats(self) -> HotReloadStatsSnapshot:
        return self._stats

    def register_kernel(
        self,
        kernel_id: str,
        code: KernelCodeSource,
        *,
        target: CompileTarget = HOST,
        messages: Iterable[type[Any] | MessageLayout] = (),
    ) -> None:
        """Tell which code a kernel runs by now.

        Args:
            target: what new code is compiled for.
            messages: what new code may include as ``ringflow_messages.cuh``.
        """
        if kernel_id in self._kernels:
            raise DuplicateKernelError(kernel_id)
        layouts = tuple(m if isinstance(m, MessageLayout) else layout_of(m) for m in messages)
        check = CodeCheck(target=target, messages=layouts, cache=self._compile_cache)
        self._kernels[kernel_id] = _Registered(code, check)

    def unregister_kernel(self, kernel_id: str) -> None:
        """Forget a kernel and its versions; raises ``KernelBusyError`` during a reload."""
        self._entry(kernel_id)
        self._check_free(kernel_id)
        del self._kernels[kernel_id]

    def is_registered(self, kernel_id: str) -> bool:
        return kernel_id in self._kernels

    def list_kernels(self) -> tuple[str, ...]:
        return tuple(self._kernels)

    def is_reload_in_progress(self, kernel_id: str) -> bool:
        return kernel_id in self._active

    def get_current_code(self, kernel_id: str) -> KernelCodeSource | None:
        """Return the code that the kernel runs, None if it is not registered."""
        entry = self._kernels.get(kernel_id)
        return None if entry is None else entry.code

    def get_current_version(self, kernel_id: str) -> str | None:
        """Return the ``version_id`` of the kernel's code, None if it is not registered."""
        code = self.get_current_code(kernel_id)
        return None if code is None else code.version_id

    def request_reload(
        self,
        kernel_id: str,
        new_code: KernelCodeSource,
        *,
        actor: str = "",
        reason: str = "",
    ) -> HotReloadRequest:
        """Return a request that ``execute_reload`` can carry out; nothing is changed.

        Raises:
            DisabledError, UnknownKernelError, KernelBusyError: it could not be carried out now.
        """
        self._check_enabled()
        self._entry(kernel_id)
        self._check_free(kernel_id)
        return HotReloadRequest(
            operation_id=self._ids.new("reload"),
            kernel_id=kernel_id,
            new_code=new_code,
            actor=actor,
            reason=reason,
        )

    async def execute_reload(
        self, request: HotReloadRequest, kernel: ReloadableKernel | SelfReloadingKernel
    ) -> HotReloadResult:
        """Carry out a request: the kernel runs the new code when this returns.

        An engine's kernel is reloaded by its engine, which no cancellation interrupts here.

        Raises:
            UsageError: nothing was changed.
            OperationFailedError: ``state`` is ``rolled_back`` (the old code works on its state as
                before) or ``failed`` (it could not be put back; its checkpoint is kept, and named).
        """
        self._check_enabled()
        entry = self._entry(request.kernel_id)
        if request.started_at:
            raise UsageError(
                f"request {request.operation_id!r} was carried out before "
                f"({request.state.value}); ask for the reload again"
            )
        old = entry.code

        def committed() -> None:
            entry.code = request.new_code
            if self._config.keep_fallback:
                entry.fallbacks = [*entry.fallbacks, old][-self._config.history :]

        return await self._execute(request, entry, kernel, committed)

    async def rollback(self, kernel_id: str) -> HotReloadResult:
        """Reload the version before the present one, into the object of the last reload.

        The state goes on from where it is, unless ``preserve_state`` is off.
        Raises:
            UsageError: no earlier version is kept; nothing was changed, as with all others.
            OperationFailedError: as ``execute_reload``; the present version is then the old one.
        """
        entry = self._entry(kernel_id)
        if not entry.fallbacks or entry.kernel is None:
            raise UsageError(
                f"kernel {kernel_id!r} has no earlier version to go back to; reload it, with "
                "keep_fallback on, before it can be rolled back"
            )
        request = self.request_reload(kernel_id, entry.fallbacks[-1], reason="rollback")

        def committed() -> None:
            entry.code = entry.fallbacks.pop()
            self._stats = attrs.evolve(self._stats, rollbacks=self._stats.rollbacks + 1)

        return await self._execute(request, entry, entry.kernel, committed)

    async def _execute(
        self,
        request: HotReloadRequest,
        entry: _Registered,
        kernel: ReloadableKernel | SelfReloadingKernel,
        committed: Callable[[], None],
    ) -> ReloadResult:
        if isinstance(kernel, SelfReloadingKernel) and not self._config.preserve_state:
            raise UsageError("this kernel's host keeps its state; turn preserve_state on")
        with self._holding(request):
            request.started_at = self._clock.now_ns()
            try:
                if isinstance(kernel, SelfReloadingKernel):
                    result = await self._delegate(kernel, request, committed)
                else:
                    result = await self._try_often(kernel, entry, request, committed)
            except BaseException:
                self._stats = attrs.evolve(self._stats, failed=self._stats.failed + 1)
                raise
            entry.kernel = kernel
            self._stats = self._stats.with_success(result)
            return result

    @contextmanager
    def _holding(self, request: HotReloadRequest) -> Iterator[None]:
        """Keep other reloads off the kernel, and migrations where a coordinator knows it."""
        kernel_id, coordinator = request.kernel_id, self._coordinator
        self._check_free(kernel_id)
        leased = (
            coordinator.lease(kernel_id, request.operation_id)
            if coordinator is not None and kernel_id in coordinator.routes()
            else nullcontext()
        )
        with leased:
            self._active[kernel_id] = request
            try:
                yield
            finally:
                del self._active[kernel_id]

    async def _delegate(
        self,
        kernel: SelfReloadingKernel,
        request: HotReloadRequest,
        committed: Callable[[], None],
    ) -> ReloadResult:
        request.attempts = 1
        # Interrupted here, nobody could tell whether the host had passed its commit point.
        with anyio.CancelScope(shield=True):
            try:
                result = await kernel.reload_to(
                    request.new_code, actor=request.actor, reason=request.reason
                )
            except BaseException:
                request.state = ReloadState.ROLLED_BACK
                raise
        request.state = ReloadState.COMPLETED
        committed()
        return result

    async def _try_often(
        self,
        kernel: ReloadableKernel,
        entry: _Registered,
        request: HotReloadRequest,
        committed: Callable[[], None],
    ) -> ReloadResult:
        config, clock = self._config, self._clock
        deadline_ns = clock.monotonic_ns() + round(config.reload_timeout_s * NS_PER_S)
        backoff_s = config.retry_backoff_s
        while True:
            request.attempts += 1
            try:
                return await self._attempt(kernel, entry, request, committed, deadline_ns)
            except OperationFailedError:
                left_s = (deadline_ns - clock.monotonic_ns()) / NS_PER_S
                if request.attempts > config.max_retries or left_s <= backoff_s:
                    raise
                if not _may_pass(request):
                    raise
            self._stats = attrs.evolve(self._stats, retries=self._stats.retries + 1)
            await clock.sleep(backoff_s)
            backoff_s *= 2

    async def _attempt(
        self,
        kernel: ReloadableKernel,
        entry: _Registered,
        request: HotReloadRequest,
        committed: Callable[[], None],
        deadline_ns: int,
    ) -> ReloadResult:
        config, clock = self._config, self._clock
        requested = _requested(request, entry.code)
        drive: Drive[Reload] = Drive(_MACHINE, machine.begin(requested), clock=clock)
        transit = StateInTransit(self._storage, request.kernel_id, requested.operation_id)
        performer = ReloadPerformer(
            kernel,
            entry.code,
            request.new_code,
            transit,
            check=entry.check if config.validate_before_swap else None,
            preserve_state=config.preserve_state,
            deadline_s=config.reload_timeout_s,
            clock=clock,
        )
        request.events += (requested,)
        request.state = drive.state.state

        def happened(event: Event) -> None:
            request.events += (event,)
            request.state = drive.state.state
            if isinstance(event, e.ReloadCompleted):
                committed()

        def timeout_s(effect: Effect) -> float:
            if isinstance(effect, effects.ResumeOldCode):
                return config.reload_timeout_s
            return max(0.0, (deadline_ns - clock.monotonic_ns()) / NS_PER_S)

        try:
            ended = await drive.run(performer.perform, on_event=happened, timeout_s=timeout_s)
        finally:
            if request.state is not ReloadState.FAILED:
                with anyio.CancelScope(shield=True):
                    await within(clock, config.reload_timeout_s, transit.discard)
        if ended.state is not ReloadState.COMPLETED:
            kept = f"; its state is kept as checkpoint {transit.name!r}" if transit.kept else ""
            raise OperationFailedError(
                ended.operation_id, ended.state.value, f"{ended.failure}{kept}"
            )
        return ReloadResult(
            operation_id=ended.operation_id,
            kernel_id=ended.kernel_id,
            old_version=ended.old_version,
            new_version=ended.new_version,
            at_sequence=ended.applied_sequence + 1,
            state_bytes=performer.state_bytes,
            pause_s=ended.pause_ns / NS_PER_S,
            parked_count=ended.parked_count,
            digests=ended.digests,
            step_s=drive.step_s,
            state_preserved=config.preserve_state,
        )

    def _entry(self, kernel_id: str) -> _Registered:
        try:
            return self._kernels[kernel_id]
        except KeyError:
            raise UnknownKernelError(kernel_id, tuple(self._kernels)) from None

    def _check_enabled(self) -> None:
        if not self._config.enabled:
            raise DisabledError("hot reload is off; make the manager with enabled=True")

    def _check_free(self, kernel_id: str) -> None:
        active = self._active.get(kernel_id)
        if active is not None:
            raise KernelBusyError(kernel_id, active.operation_id)


def _requested(request: HotReloadRequest, old: KernelCodeSource) -> e.ReloadRequested:
    """Return the event that an attempt begins with; each attempt is an operation of its own."""
    again = f".{request.attempts}" if request.attempts > 1 else ""
    return e.ReloadRequested(
        operation_id=f"{request.operation_id}{again}",
        kernel_id=request.kernel_id,
        spec_digest=request.new_code.hash,
        old_version=old.version_id,
        new_version=request.new_code.version_id,
        convert="",
        at_sequence=0,
        probation_messages=0,
        probation_timeout_ns=0,
        actor=request.actor,
        reason=request.reason,
    )


def _may_pass(request: HotReloadRequest) -> bool:
    """Return whether another attempt may end otherwise: the kernel is well, and so is the code."""
    failed = [event for event in request.events if isinstance(event, e.ReloadStepFailed)][-1]
    return request.state is ReloadState.ROLLED_BACK and failed.step not in _FINAL_STEPS
