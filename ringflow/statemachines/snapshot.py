"""A snapshot as a table: the kernel stays resident, the file is immutable.

- The request names the file before it is written; ``SnapshotSaved`` comes with its recovery point.
- A snapshot that a restart finds unfinished is abandoned and its file deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

import attrs

from ringflow.events.codec import Event
from ringflow.events.snapshot import (
    SnapshotCancelled,
    SnapshotCopied,
    SnapshotFailed,
    SnapshotHeld,
    SnapshotRequested,
    SnapshotSaved,
    SnapshotStarted,
)
from ringflow.statemachines import effects
from ringflow.statemachines.effects import Effect, OperationInput, Restarted, StepFailure
from ringflow.statemachines.table import RestartRule, Table, is_terminal, next_state


class SnapshotState(Enum):
    REQUESTED = "requested"
    HOLDING = "holding"
    COPYING = "copying"
    SAVING = "saving"
    SAVED = "saved"
    FAILED = "failed"
    CANCELLED = "cancelled"


S = SnapshotState

_ENDS: Final[Mapping[type, SnapshotState]] = {
    SnapshotFailed: S.FAILED,
    SnapshotCancelled: S.CANCELLED,
}

TRANSITIONS: Final[Table[SnapshotState]] = {
    S.REQUESTED: {SnapshotStarted: S.HOLDING, **_ENDS},
    S.HOLDING: {SnapshotHeld: S.COPYING, **_ENDS},
    S.COPYING: {SnapshotCopied: S.SAVING, **_ENDS},
    S.SAVING: {SnapshotSaved: S.SAVED, **_ENDS},
    S.SAVED: {},
    S.FAILED: {},
    S.CANCELLED: {},
}

RESTART: Final[Mapping[SnapshotState, RestartRule]] = {
    state: RestartRule.ABANDON for state in SnapshotState if not is_terminal(TRANSITIONS, state)
}


@attrs.frozen(kw_only=True)
class Snapshot:
    """A snapshot as its events tell it."""

    operation_id: str
    kernel_id: str
    checkpoint: str
    actor: str
    reason: str
    state: SnapshotState = S.REQUESTED
    applied_sequence: int = 0
    digests: Mapping[str, str] = attrs.field(factory=dict)
    state_bytes: int = 0
    pause_ns: int = 0
    failure: str = ""

    @property
    def is_terminal(self) -> bool:
        return is_terminal(TRANSITIONS, self.state)

    @property
    def may_cancel(self) -> bool:
        return not self.is_terminal


def begin(event: SnapshotRequested) -> Snapshot:
    """Return the snapshot that a request starts."""
    return Snapshot(
        operation_id=event.operation_id,
        kernel_id=event.kernel_id,
        checkpoint=event.checkpoint,
        actor=event.actor,
        reason=event.reason,
    )


def evolve(snapshot: Snapshot, event: Event) -> Snapshot:
    """Return the snapshot after ``event``; the same for a live event and a replayed one."""
    moved = attrs.evolve(snapshot, state=next_state(TRANSITIONS, snapshot.state, event))
    match event:
        case SnapshotHeld(applied_sequence=sequence):
            return attrs.evolve(moved, applied_sequence=sequence)
        case SnapshotCopied(digests=digests, state_bytes=size, pause_ns=pause):
            return attrs.evolve(moved, digests=digests, state_bytes=size, pause_ns=pause)
        case SnapshotFailed(step=step, reason=reason):
            return attrs.evolve(moved, failure=f"{step}: {reason}")
        case _:
            return moved


def decide(snapshot: Snapshot, given: Event | OperationInput) -> tuple[Event, ...]:
    """Return the events that an outcome leads to; it must fit the state."""
    ids = {"operation_id": snapshot.operation_id, "kernel_id": snapshot.kernel_id}
    match given:
        case StepFailure(cancelled=True):
            return (SnapshotCancelled(**ids),)
        case StepFailure(step=step, reason=reason):
            return (SnapshotFailed(**ids, step=step, reason=reason),)
        case Restarted():
            step = snapshot.state.value
            return (SnapshotFailed(**ids, step=step, reason="the engine ended"),)
        case OperationInput():
            raise AssertionError(given)
        case _:
            return (given,)


def effect_of(snapshot: Snapshot) -> Effect | None:
    """Return what the state asks for, None where it is terminal."""
    ids = {"operation_id": snapshot.operation_id, "kernel_id": snapshot.kernel_id}
    match snapshot.state:
        case S.REQUESTED:
            return effects.BeginOperation(**ids)
        case S.HOLDING:
            return effects.HoldKernel(**ids)
        case S.COPYING:
            return effects.CopyState(**ids)
        case S.SAVING:
            return effects.SaveCheckpoint(**ids, checkpoint=snapshot.checkpoint)
        case S.SAVED | S.FAILED | S.CANCELLED:
            return None
