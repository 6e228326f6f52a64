"""A kernel's life as a table, and the kernel as its events tell it.

- Messages are numbered from 1 without a gap; outputs are named by (sequence, index).
- A kernel that trapped is restored from a recovery point, never resumed on half-changed regions.
- A restart relaunches every kernel that was not stopped, failed or halted.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

import attrs

from ringflow.events import lifecycle as e
from ringflow.events.codec import Event
from ringflow.events.migration import MigrationRerouted
from ringflow.statemachines.table import RestartRule, Table, is_terminal, next_state


class LifecycleState(Enum):
    LAUNCHING = "launching"
    RUNNING = "running"
    HOLDING = "holding"
    QUIESCING = "quiescing"
    QUIESCED = "quiesced"
    HALTED = "halted"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


S = LifecycleState

TRANSITIONS: Final[Table[LifecycleState]] = {
    S.LAUNCHING: {
        e.KernelLaunched: S.RUNNING,
        e.KernelLaunchFailed: S.FAILED,
    },
    S.RUNNING: {
        e.HoldStarted: S.HOLDING,
        e.QuiesceStarted: S.QUIESCING,
        e.KernelTrapped: S.QUIESCED,
        e.StopRequested: S.STOPPING,
        e.KernelHalted: S.HALTED,
        e.KernelResumed: S.RUNNING,
    },
    S.HOLDING: {
        e.HoldReleased: S.RUNNING,
        e.KernelTrapped: S.QUIESCED,
        e.KernelHalted: S.HALTED,
        e.KernelResumed: S.RUNNING,
    },
    S.QUIESCING: {
        e.KernelQuiesced: S.QUIESCED,
        e.KernelResumed: S.RUNNING,
        e.KernelTrapped: S.QUIESCED,
        e.KernelHalted: S.HALTED,
    },
    S.QUIESCED: {
        e.KernelResumed: S.RUNNING,
        e.KernelHalted: S.HALTED,
        e.StopRequested: S.STOPPING,
    },
    S.HALTED: {e.KernelResumed: S.RUNNING, e.StopRequested: S.STOPPING},
    S.STOPPING: {e.KernelStopped: S.STOPPED},
    S.STOPPED: {},
    S.FAILED: {},
}

RESTART: Final[Mapping[LifecycleState, RestartRule]] = {
    S.LAUNCHING: RestartRule.ABANDON,
    S.STOPPING: RestartRule.COMPLETE,
    **dict.fromkeys(
        (S.RUNNING, S.HOLDING, S.QUIESCING, S.QUIESCED, S.HALTED),
        RestartRule.ROLL_BACK,
    ),
}


@attrs.frozen(kw_only=True)
class RecoveryPoint:
    """Where a kernel can be rebuilt from."""

    checkpoint: str
    identity: str
    replay_from: int
    spec_digest: str
    version_id: str
    code_digest: str
    code_target: str
    barrier: bool


@attrs.frozen(kw_only=True)
class KernelLife:
    """A kernel as its lifecycle events tell it.

    Attributes:
        recovery_points: oldest first; the retired ones are gone.
        traps: how often in a row it trapped after ``trapped_after``.
    """

    kernel_id: str
    device: str
    spec_digest: str
    version_id: str
    grid: tuple[int, ...]
    state: LifecycleState = S.LAUNCHING
    recovery_points: tuple[RecoveryPoint, ...] = ()
    trapped_after: int = 0
    traps: int = 0
    reason: str = ""

    @property
    def is_terminal(self) -> bool:
        return is_terminal(TRANSITIONS, self.state)


def begin(event: e.KernelLaunchRequested) -> KernelLife:
    """Return the kernel that a launch starts."""
    return KernelLife(
        kernel_id=event.kernel_id,
        device=event.device,
        spec_digest=event.spec_digest,
        version_id=event.version_id,
        grid=event.grid,
    )


def evolve(life: KernelLife, event: Event) -> KernelLife:
    """Return the kernel after ``event``; the same for a live event and a replayed one."""
    match event:  # facts about checkpoints change no state
        case e.RecoveryPointCommitted():
            return _with_point(life, event)
        case e.CheckpointRetired(checkpoint=name) | e.RecoveryFellBack(checkpoint=name):
            kept = tuple(point for point in life.recovery_points if point.checkpoint != name)
            return attrs.evolve(life, recovery_points=kept)
        case MigrationRerouted(target=device):  # the commit point moves the kernel
            return attrs.evolve(life, device=device)
    moved = attrs.evolve(life, state=next_state(TRANSITIONS, life.state, event))
    match event:
        case e.KernelTrapped(applied_sequence=sequence, detail=detail):
            again = life.traps and life.trapped_after == sequence
            return attrs.evolve(
                moved,
                trapped_after=sequence,
                traps=life.traps + 1 if again else 1,
                reason=detail,
            )
        case e.KernelResumed(device=device):
            return attrs.evolve(moved, device=device)
        case e.KernelHalted(reason=reason) | e.KernelLaunchFailed(reason=reason):
            return attrs.evolve(moved, reason=reason)
        case _:
            return moved


def _with_point(life: KernelLife, event: e.RecoveryPointCommitted) -> KernelLife:
    point = RecoveryPoint(
        checkpoint=event.checkpoint,
        identity=event.identity,
        replay_from=event.replay_from,
        spec_digest=event.spec_digest,
        version_id=event.version_id,
        code_digest=event.code_digest,
        code_target=event.code_target,
        barrier=event.barrier,
    )
    return attrs.evolve(
        life,
        recovery_points=(*life.recovery_points, point),
        spec_digest=event.spec_digest,
        version_id=event.version_id,
    )


def fallback_points(life: KernelLife) -> tuple[RecoveryPoint, ...]:
    """Return the recovery points that may be used, newest first, none beyond a barrier."""
    usable = []
    for point in reversed(life.recovery_points):
        usable.append(point)
        if point.barrier:
            break
    return tuple(usable)


def retirable_points(life: KernelLife, keep: int) -> tuple[RecoveryPoint, ...]:
    """Return the points that retention may delete: all but the ``keep`` newest."""
    return life.recovery_points[:-keep] if keep else ()
