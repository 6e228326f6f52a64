"""Live migration as a table.

- Before ``MigrationRerouted`` every failure leads back to the source; after it none does.
- Digests read from the target's memory must equal the source's, or nothing is rerouted.
- Outcomes of effects are events; ``decide`` adds what follows from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

import attrs

from ringflow.errors import SameDeviceError
from ringflow.events.codec import Event
from ringflow.events.migration import (
    MigrationCancelled,
    MigrationCheckpointed,
    MigrationCompleted,
    MigrationFailed,
    MigrationGateOpened,
    MigrationPreparationStarted,
    MigrationRequested,
    MigrationRerouted,
    MigrationRolledBack,
    MigrationSourceQuiesced,
    MigrationStateTransferred,
    MigrationStepFailed,
    MigrationTargetPrepared,
    MigrationTargetRestored,
)
from ringflow.statemachines import effects
from ringflow.statemachines.effects import Effect, OperationInput, Restarted, StepFailure
from ringflow.statemachines.table import RestartRule, Table, is_terminal, next_state


class MigrationState(Enum):
    PENDING = "pending"
    PREPARING = "preparing"
    QUIESCING = "quiescing"
    CHECKPOINTING = "checkpointing"
    TRANSFERRING = "transferring"
    RESTORING = "restoring"
    REROUTING = "rerouting"
    RETIRING = "retiring"
    COMPLETED = "completed"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"
    FAILED = "failed"


S = MigrationState

TRANSITIONS: Final[Table[MigrationState]] = {
    S.PENDING: {
        MigrationPreparationStarted: S.PREPARING,
        MigrationStepFailed: S.ROLLING_BACK,
    },
    S.PREPARING: {
        MigrationTargetPrepared: S.QUIESCING,
        MigrationStepFailed: S.ROLLING_BACK,
    },
    S.QUIESCING: {
        MigrationSourceQuiesced: S.CHECKPOINTING,
        MigrationStepFailed: S.ROLLING_BACK,
    },
    S.CHECKPOINTING: {
        MigrationCheckpointed: S.TRANSFERRING,
        MigrationStepFailed: S.ROLLING_BACK,
    },
    S.TRANSFERRING: {
        MigrationStateTransferred: S.RESTORING,
        MigrationStepFailed: S.ROLLING_BACK,
    },
    S.RESTORING: {
        MigrationTargetRestored: S.REROUTING,
        MigrationStepFailed: S.ROLLING_BACK,
    },
    S.REROUTING: {MigrationRerouted: S.RETIRING, MigrationStepFailed: S.ROLLING_BACK},
    S.RETIRING: {MigrationGateOpened: S.RETIRING, MigrationCompleted: S.COMPLETED},
    S.COMPLETED: {},
    S.ROLLING_BACK: {
        MigrationRolledBack: S.ROLLED_BACK,
        MigrationCancelled: S.CANCELLED,
        MigrationFailed: S.FAILED,
    },
    S.ROLLED_BACK: {},
    S.CANCELLED: {},
    S.FAILED: {},
}

RESTART: Final[Mapping[MigrationState, RestartRule]] = {
    state: RestartRule.COMPLETE if state is S.RETIRING else RestartRule.ROLL_BACK
    for state in MigrationState
    if not is_terminal(TRANSITIONS, state)
}


@attrs.frozen(kw_only=True)
class Migration:
    """A migration as its events tell it.

    Attributes:
        digests: SHA-256 (hex) by region, of the source's memory.
        pause_ns: from the quiesce request until the gate opened; 0 before.
        retire_failure: why giving the source's memory back failed, empty if it did not.
    """

    operation_id: str
    kernel_id: str
    source: str
    target: str
    actor: str
    reason: str
    state: MigrationState = S.PENDING
    state_bytes: int = 0
    applied_sequence: int = 0
    digests: Mapping[str, str] = attrs.field(factory=dict)
    path: str = ""
    gate_open: bool = False
    pause_ns: int = 0
    parked_count: int = 0
    failure: str = ""
    cancelled: bool = False
    retire_failure: str = ""

    @property
    def is_terminal(self) -> bool:
        return is_terminal(TRANSITIONS, self.state)

    @property
    def may_cancel(self) -> bool:
        """Whether the commit point is still ahead."""
        return RESTART.get(self.state) is RestartRule.ROLL_BACK and self.state is not S.ROLLING_BACK


def request(
    *,
    operation_id: str,
    kernel_id: str,
    source: str,
    target: str,
    actor: str,
    reason: str,
    key: str = "",
    body_digest: str = "",
) -> MigrationRequested:
    """Decide on a request; raises ``SameDeviceError``."""
    if source == target:
        raise SameDeviceError(kernel_id, target)
    return MigrationRequested(
        operation_id=operation_id,
        kernel_id=kernel_id,
        source=source,
        target=target,
        actor=actor,
        reason=reason,
        key=key,
        body_digest=body_digest,
    )


def begin(event: MigrationRequested) -> Migration:
    """Return the migration that a request starts."""
    return Migration(
        operation_id=event.operation_id,
        kernel_id=event.kernel_id,
        source=event.source,
        target=event.target,
        actor=event.actor,
        reason=event.reason,
    )


def evolve(migration: Migration, event: Event) -> Migration:
    """Return the migration after ``event``; the same for a live event and a replayed one."""
    moved = attrs.evolve(migration, state=next_state(TRANSITIONS, migration.state, event))
    match event:
        case MigrationTargetPrepared(state_bytes=size):
            return attrs.evolve(moved, state_bytes=size)
        case MigrationSourceQuiesced(applied_sequence=sequence):
            return attrs.evolve(moved, applied_sequence=sequence)
        case MigrationCheckpointed(digests=digests):
            return attrs.evolve(moved, digests=digests)
        case MigrationStateTransferred(path=path):
            return attrs.evolve(moved, path=path)
        case MigrationGateOpened(pause_ns=pause, parked_count=parked):
            return attrs.evolve(moved, gate_open=True, pause_ns=pause, parked_count=parked)
        case MigrationStepFailed(reason=reason, cancelled=cancelled, step=step):
            return attrs.evolve(moved, failure=f"{step}: {reason}", cancelled=cancelled)
        case MigrationCompleted(retire_failure=failure):
            return attrs.evolve(moved, retire_failure=failure)
        case MigrationFailed(reason=reason):
            return attrs.evolve(moved, failure=f"{moved.failure}; {reason}")
        case _:
            return moved


def decide(migration: Migration, given: Event | OperationInput) -> tuple[Event, ...]:
    """Return the events that an outcome leads to; it must fit the state."""
    ids = {"operation_id": migration.operation_id, "kernel_id": migration.kernel_id}
    match given:
        case StepFailure():
            return _decide_failure(migration, given)
        case Restarted():
            return _decide_restart(migration)
        case MigrationTargetRestored(digests=digests):
            differing = differing_regions(migration.digests, digests)
            if differing:
                reason = f"the target's memory differs from the source's in {', '.join(differing)}"
                return (
                    given,
                    MigrationStepFailed(**ids, step="verify", reason=reason, cancelled=False),
                )
            return (
                given,
                MigrationRerouted(
                    **ids,
                    source=migration.source,
                    target=migration.target,
                    applied_sequence=migration.applied_sequence,
                ),
            )
        case MigrationRolledBack() if migration.cancelled:
            return (MigrationCancelled(**ids),)
        case OperationInput():
            raise AssertionError(given)
        case _:
            return (given,)


def _decide_failure(migration: Migration, failure: StepFailure) -> tuple[Event, ...]:
    ids = {"operation_id": migration.operation_id, "kernel_id": migration.kernel_id}
    if migration.state is S.ROLLING_BACK:
        return (MigrationFailed(**ids, reason=f"{failure.step}: {failure.reason}"),)
    if RESTART[migration.state] is RestartRule.COMPLETE:
        # After the commit point a failure is told, never undone.
        return (MigrationCompleted(**ids, retire_failure=f"{failure.step}: {failure.reason}"),)
    return (
        MigrationStepFailed(
            **ids, step=failure.step, reason=failure.reason, cancelled=failure.cancelled
        ),
    )


def _decide_restart(migration: Migration) -> tuple[Event, ...]:
    ids = {"operation_id": migration.operation_id, "kernel_id": migration.kernel_id}
    if RESTART[migration.state] is RestartRule.COMPLETE:
        return (MigrationCompleted(**ids, retire_failure=""),)
    rolled_back = MigrationRolledBack(**ids)
    if migration.state is S.ROLLING_BACK:
        return (rolled_back,)
    failed = MigrationStepFailed(
        **ids, step=migration.state.value, reason="the engine ended", cancelled=False
    )
    return (failed, rolled_back)


def differing_regions(expected: Mapping[str, str], got: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of regions whose digests differ or stand on one side only."""
    return tuple(name for name in sorted({*expected, *got}) if expected.get(name) != got.get(name))


def effect_of(migration: Migration) -> Effect | None:
    """Return what the state asks for, None where it is terminal."""
    ids = {"operation_id": migration.operation_id, "kernel_id": migration.kernel_id}
    match migration.state:
        case S.PENDING:
            return effects.BeginOperation(**ids)
        case S.PREPARING:
            return effects.PrepareTarget(**ids, device=migration.target)
        case S.QUIESCING:
            return effects.QuiesceKernel(**ids, at_sequence=0)
        case S.CHECKPOINTING:
            return effects.DigestSource(**ids)
        case S.TRANSFERRING:
            return effects.TransferState(**ids)
        case S.RESTORING:
            return effects.RestoreTarget(**ids)
        case S.RETIRING:
            return effects.RetireSource(**ids) if migration.gate_open else effects.OpenGate(**ids)
        case S.ROLLING_BACK:
            return effects.ResumeSource(**ids)
        case S.REROUTING | S.COMPLETED | S.ROLLED_BACK | S.CANCELLED | S.FAILED:
            return None  # REROUTING never rests: ``decide`` leaves it in the record that enters it
