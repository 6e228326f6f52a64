"""Hot reload as a table.

- Until ``ReloadCompleted`` the old grid's regions are untouched: the way back is to run them on.
- Outputs of the new code are held until then, so a failed try leaves no trace outside.
- Regions that both versions share must have equal digests after the swap.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

import attrs

from ringflow.events.codec import Event
from ringflow.events.reload import (
    ReloadCancelled,
    ReloadCheckpointed,
    ReloadCompiled,
    ReloadCompileStarted,
    ReloadCompleted,
    ReloadDrained,
    ReloadFailed,
    ReloadRequested,
    ReloadRestored,
    ReloadRolledBack,
    ReloadStepFailed,
    ReloadSwapped,
    ReloadValidated,
)
from ringflow.statemachines import effects
from ringflow.statemachines.effects import Effect, OperationInput, Restarted, StepFailure
from ringflow.statemachines.migration import differing_regions
from ringflow.statemachines.table import RestartRule, Table, is_terminal, next_state


class ReloadState(Enum):
    PENDING = "pending"
    COMPILING = "compiling"
    VALIDATING = "validating"
    DRAINING = "draining"
    CHECKPOINTING = "checkpointing"
    SWAPPING = "swapping"
    RESTORING = "restoring"
    PROBATION = "probation"
    COMPLETED = "completed"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"
    FAILED = "failed"


S = ReloadState

TRANSITIONS: Final[Table[ReloadState]] = {
    S.PENDING: {
        ReloadCompileStarted: S.COMPILING,
        ReloadStepFailed: S.ROLLING_BACK,
    },
    S.COMPILING: {ReloadCompiled: S.VALIDATING, ReloadStepFailed: S.ROLLING_BACK},
    S.VALIDATING: {ReloadValidated: S.DRAINING, ReloadStepFailed: S.ROLLING_BACK},
    S.DRAINING: {ReloadDrained: S.CHECKPOINTING, ReloadStepFailed: S.ROLLING_BACK},
    S.CHECKPOINTING: {ReloadCheckpointed: S.SWAPPING, ReloadStepFailed: S.ROLLING_BACK},
    S.SWAPPING: {ReloadSwapped: S.RESTORING, ReloadStepFailed: S.ROLLING_BACK},
    S.RESTORING: {ReloadRestored: S.PROBATION, ReloadStepFailed: S.ROLLING_BACK},
    S.PROBATION: {ReloadCompleted: S.COMPLETED, ReloadStepFailed: S.ROLLING_BACK},
    S.COMPLETED: {},
    S.ROLLING_BACK: {
        ReloadRolledBack: S.ROLLED_BACK,
        ReloadCancelled: S.CANCELLED,
        ReloadFailed: S.FAILED,
    },
    S.ROLLED_BACK: {},
    S.CANCELLED: {},
    S.FAILED: {},
}

RESTART: Final[Mapping[ReloadState, RestartRule]] = {
    state: RestartRule.ROLL_BACK for state in ReloadState if not is_terminal(TRANSITIONS, state)
}


@attrs.frozen(kw_only=True)
class Reload:
    """A reload as its events tell it.

    Attributes:
        applied_sequence: last message that the old code handled.
        digests: SHA-256 (hex) by region: of the old regions, then of the new ones.
    """

    operation_id: str
    kernel_id: str
    spec_digest: str
    old_version: str
    new_version: str
    convert: str
    at_sequence: int
    probation_messages: int
    probation_timeout_ns: int
    actor: str
    reason: str
    state: ReloadState = S.PENDING
    code_digest: str = ""
    state_bytes: int = 0
    applied_sequence: int = 0
    digests: Mapping[str, str] = attrs.field(factory=dict)
    pause_ns: int = 0
    parked_count: int = 0
    failure: str = ""
    cancelled: bool = False

    @property
    def is_terminal(self) -> bool:
        return is_terminal(TRANSITIONS, self.state)

    @property
    def may_cancel(self) -> bool:
        """Whether the commit point is still ahead."""
        return self.state in RESTART and self.state is not S.ROLLING_BACK


def begin(event: ReloadRequested) -> Reload:
    """Return the reload that a request starts."""
    return Reload(
        operation_id=event.operation_id,
        kernel_id=event.kernel_id,
        spec_digest=event.spec_digest,
        old_version=event.old_version,
        new_version=event.new_version,
        convert=event.convert,
        at_sequence=event.at_sequence,
        probation_messages=event.probation_messages,
        probation_timeout_ns=event.probation_timeout_ns,
        actor=event.actor,
        reason=event.reason,
    )


def evolve(reload: Reload, event: Event) -> Reload:
    """Return the reload after ``event``; the same for a live event and a replayed one."""
    moved = attrs.evolve(reload, state=next_state(TRANSITIONS, reload.state, event))
    match event:
        case ReloadCompiled(code_digest=digest):
            return attrs.evolve(moved, code_digest=digest)
        case ReloadValidated(state_bytes=size):
            return attrs.evolve(moved, state_bytes=size)
        case ReloadDrained(applied_sequence=sequence):
            return attrs.evolve(moved, applied_sequence=sequence)
        case ReloadCheckpointed(digests=digests) | ReloadSwapped(digests=digests):
            return attrs.evolve(moved, digests=digests)
        case ReloadRestored(pause_ns=pause, parked_count=parked):
            return attrs.evolve(moved, pause_ns=pause, parked_count=parked)
        case ReloadStepFailed(step=step, reason=reason, cancelled=cancelled):
            return attrs.evolve(moved, failure=f"{step}: {reason}", cancelled=cancelled)
        case ReloadFailed(reason=reason):
            return attrs.evolve(moved, failure=f"{moved.failure}; {reason}")
        case _:
            return moved


def decide(reload: Reload, given: Event | OperationInput) -> tuple[Event, ...]:
    """Return the events that an outcome leads to; it must fit the state."""
    ids = {"operation_id": reload.operation_id, "kernel_id": reload.kernel_id}
    match given:
        case StepFailure(step=step, reason=reason, cancelled=cancelled):
            if reload.state is S.ROLLING_BACK:
                return (ReloadFailed(**ids, reason=f"{step}: {reason}"),)
            return (ReloadStepFailed(**ids, step=step, reason=reason, cancelled=cancelled),)
        case Restarted():
            rolled_back = ReloadRolledBack(**ids, applied_sequence=reload.applied_sequence)
            if reload.state is S.ROLLING_BACK:
                return (rolled_back,)
            failed = ReloadStepFailed(
                **ids, step=reload.state.value, reason="the engine ended", cancelled=False
            )
            return (failed, rolled_back)
        case ReloadSwapped(kept=kept, digests=digests):
            differing = differing_regions(
                {name: reload.digests[name] for name in kept},
                {name: digests[name] for name in kept},
            )
            if differing:
                reason = f"kept regions changed in the swap: {', '.join(differing)}"
                return (ReloadStepFailed(**ids, step="verify", reason=reason, cancelled=False),)
            return (given,)
        case ReloadRolledBack() if reload.cancelled:
            return (ReloadCancelled(**ids),)
        case OperationInput():
            raise AssertionError(given)
        case _:
            return (given,)


def effect_of(reload: Reload) -> Effect | None:
    """Return what the state asks for, None where it is terminal."""
    ids = {"operation_id": reload.operation_id, "kernel_id": reload.kernel_id}
    match reload.state:
        case S.PENDING:
            return effects.BeginOperation(**ids)
        case S.COMPILING:
            return effects.CompileCode(**ids, spec_digest=reload.spec_digest)
        case S.VALIDATING:
            return effects.ValidateCode(
                **ids, spec_digest=reload.spec_digest, convert=reload.convert
            )
        case S.DRAINING:
            return effects.QuiesceKernel(**ids, at_sequence=reload.at_sequence)
        case S.CHECKPOINTING:
            return effects.DigestSource(**ids)
        case S.SWAPPING:
            return effects.SwapCode(**ids, convert=reload.convert)
        case S.RESTORING:
            return effects.RestoreCode(**ids)
        case S.PROBATION:
            return effects.WatchProbation(
                **ids, messages=reload.probation_messages, timeout_ns=reload.probation_timeout_ns
            )
        case S.ROLLING_BACK:
            return effects.ResumeOldCode(**ids)
        case S.COMPLETED | S.ROLLED_BACK | S.CANCELLED | S.FAILED:
            return None
