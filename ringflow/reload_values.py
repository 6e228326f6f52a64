"""What a hot reload is asked with, and what is counted about it."""

from __future__ import annotations

from typing import final

import attrs

from ringflow.code_source import KernelCodeSource
from ringflow.errors import UsageError
from ringflow.events.codec import Event
from ringflow.results import ReloadResult
from ringflow.statemachines.hot_reload import ReloadState


@final
@attrs.frozen(kw_only=True)
class HotReloadConfig:
    """How kernels are reloaded.

    Attributes:
        enabled: False refuses every reload.
        reload_timeout_s: from the start until the new code must work, retries included; the way
            back after a failure has as long again.
        preserve_state: False lets the new code start from fresh regions.
        max_retries: further attempts after a failure that may pass; code that doesn't compile
            is never tried again.
        retry_backoff_s: wait before the first retry; doubled before each further one.
        validate_before_swap: compile the new code before the old code is touched.
        keep_fallback: keep earlier versions for ``rollback``.
        history: how many earlier versions of a kernel are kept.
    """

    enabled: bool = True
    reload_timeout_s: float = 30.0
    preserve_state: bool = True
    max_retries: int = 3
    retry_backoff_s: float = 0.5
    validate_before_swap: bool = True
    keep_fallback: bool = True
    history: int = 5

    def __attrs_post_init__(self) -> None:
        if self.reload_timeout_s <= 0 or self.retry_backoff_s < 0:
            raise UsageError("reload_timeout_s must be over 0, retry_backoff_s 0 or more")
        if self.max_retries < 0 or self.history < 1:
            raise UsageError("max_retries must be 0 or more, history 1 or more")


@final
@attrs.define(kw_only=True)
class HotReloadRequest:
    """A reload that was asked for; the manager changes ``state`` and what follows it.

    Attributes:
        started_at: UNIX time in ns of the first step, 0 before.
        attempts: how often it was tried.
        events: what has happened so far, in all attempts, as the events of the machine.
    """

    operation_id: str
    kernel_id: str
    new_code: KernelCodeSource
    actor: str = ""
    reason: str = ""
    state: ReloadState = ReloadState.PENDING
    started_at: int = 0
    attempts: int = 0
    events: tuple[Event, ...] = ()


@final
@attrs.frozen(kw_only=True)
class HotReloadStatsSnapshot:
    """What a manager has done so far; rollbacks that users asked for are reloads too.

    Attributes:
        failed: reloads that did not complete after all retries, cancelled ones included.
        retries: further attempts.
        rollbacks: calls of ``rollback`` that completed.
        average_reload_s: of the successful ones, 0.0 before the first.
    """

    successful: int = 0
    failed: int = 0
    retries: int = 0
    rollbacks: int = 0
    average_reload_s: float = 0.0

    def with_success(self, result: ReloadResult) -> HotReloadStatsSnapshot:
        count = self.successful + 1
        average_s = self.average_reload_s + (result.total_s - self.average_reload_s) / count
        return attrs.evolve(self, successful=count, average_reload_s=average_s)
