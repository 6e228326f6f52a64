"""A kernel's life as a table, and the kernel as its events tell it.

- Messages are numbered from 1 without a gap; outputs are named by (sequence, index).
- A kernel that trapped is restored from a recovery point, never resumed on half-changed regions.
- A restart relaunches every kernel that was not stopped, failed or halted.
- A halted kernel stays halted, also over restarts, until a person resumes, rolls back or stops it.
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
        e.KernelDeviceLost: S.QUIESCED,
        e.KernelHalted: S.HALTED,
        e.KernelResumed: S.RUNNING,
    },
    S.HOLDING: {  # what goes wrong in a hold is told once it is released
        e.HoldReleased: S.RUNNING,
        e.KernelResumed: S.RUNNING,
    },
    S.QUIESCING: {
        e.KernelQuiesced: S.QUIESCED,
        e.KernelResumed: S.RUNNING,
        e.KernelTrapped: S.QUIESCED,
        e.KernelDeviceLost: S.QUIESCED,
        e.KernelHalted: S.HALTED,
    },
    S.QUIESCED: {
        e.KernelResumed: S.RUNNING,
        e.KernelDeviceLost: S.QUIESCED,
        e.KernelHalted: S.HALTED,
        e.StopRequested: S.STOPPING,
    },
    S.HALTED: {e.HaltResolved: S.QUIESCED, e.StopRequested: S.STOPPING},
    S.STOPPING: {e.KernelStopped: S.STOPPED},
    S.STOPPED: {},
    S.FAILED: {},
}

RESTART: Final[Mapping[LifecycleState, RestartRule]] = {
    S.LAUNCHING: RestartRule.ABANDON,
    S.STOPPING: RestartRule.COMPLETE,
    S.HALTED: RestartRule.KEEP,
    **dict.fromkeys(
        (S.RUNNING, S.HOLDING, S.QUIESCING, S.QUIESCED),
        RestartRule.ROLL_BACK,
    ),
}


@attrs.frozen(kw_only=True)
class RecoveryPoint:
    """Where a kernel can be rebuilt from.

    Attributes:
        replay_from: the first message that is not in the state.
        barrier: a fall-back never goes to a point before this one.
        pinned: a person named it; retention leaves it alone.
        line: index into the kernel's ``lines``: on which course of history the state lies.
    """

    checkpoint: str
    identity: str
    replay_from: int
    spec_digest: str
    version_id: str
    code_digest: str
    code_target: str
    barrier: bool
    pinned: bool = False
    line: int = 0
    reason: str = ""

    @property
    def applied_sequence(self) -> int:
        """The last message in the state."""
        return self.replay_from - 1


@attrs.frozen
class Line:
    """A course of a kernel's history, that is a stretch within which replay is possible.

    Attributes:
        first_sequence: the first message that was applied on it and not on the one before.
        reason: what began it, as its recovery point says.
    """

    first_sequence: int
    reason: str


@attrs.frozen(kw_only=True)
class KernelLife:
    """A kernel as its lifecycle events tell it.

    Attributes:
        recovery_points: oldest first; the retired ones are gone.
        lines: the courses of its history: launched, then reloaded, restored or rolled back.
        traps: how often in a row it trapped after ``trapped_after``.
        halted_by: the message that trapped a halted kernel, 0 where none did.
        halted_after: the last message that a halted kernel is known to have applied.
    """

    kernel_id: str
    device: str
    spec_digest: str
    version_id: str
    grid: tuple[int, ...]
    state: LifecycleState = S.LAUNCHING
    recovery_points: tuple[RecoveryPoint, ...] = ()
    lines: tuple[Line, ...] = ()
    trapped_after: int = 0
    traps: int = 0
    halted_by: int = 0
    halted_after: int = 0
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
        case e.KernelRolledBack() | e.KernelForked():
            return life
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
        case e.KernelHalted(reason=reason):
            return attrs.evolve(
                moved,
                reason=reason,
                halted_by=event.message_sequence,
                halted_after=event.applied_sequence,
            )
        case e.HaltResolved():  # what is tried now has all its tries again
            return attrs.evolve(moved, traps=0, halted_by=0, halted_after=0, reason="")
        case e.KernelLaunchFailed(reason=reason):
            return attrs.evolve(moved, reason=reason)
        case _:
            return moved


def _with_point(life: KernelLife, event: e.RecoveryPointCommitted) -> KernelLife:
    lines = life.lines
    if event.barrier:
        lines = (*lines, Line(event.history_from, event.reason))
    point = RecoveryPoint(
        checkpoint=event.checkpoint,
        identity=event.identity,
        replay_from=event.replay_from,
        spec_digest=event.spec_digest,
        version_id=event.version_id,
        code_digest=event.code_digest,
        code_target=event.code_target,
        barrier=event.barrier,
        pinned=event.pinned,
        line=len(lines) - 1,
        reason=event.reason,
    )
    return attrs.evolve(
        life,
        recovery_points=(*life.recovery_points, point),
        lines=lines,
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
    """Return the points that retention may delete: all but the ``keep`` newest automatic ones.

    What a person named stays, and the newest point before the last reload: the way back from it.
    """
    if not keep:
        return ()
    automatic = [point for point in life.recovery_points if not point.pinned]
    way_back = point_before_reload(life)
    newest = life.recovery_points[-1:]
    return tuple(
        point for point in automatic[:-keep] if point is not way_back and point not in newest
    )


def point_before_reload(life: KernelLife) -> RecoveryPoint | None:
    """Return the newest recovery point of the code before the last reload, None without one.

    After a rollback there is no reload to go back from.
    """
    line = len(life.lines) - 1
    for point in reversed(life.recovery_points):
        if point.spec_digest != life.spec_digest:
            begun_by = {course.reason for course in life.lines[point.line + 1 : line + 1]}
            return point if "reload" in begun_by and "rollback" not in begun_by else None
        line = point.line
    return None


def point_named(life: KernelLife, checkpoint: str) -> RecoveryPoint | None:
    """Return the recovery point of a name as a person gives it, with or without ``kernel@``."""
    names = (checkpoint, f"{life.kernel_id}@{checkpoint}")
    return next((point for point in life.recovery_points if point.checkpoint in names), None)


def point_through(life: KernelLife, sequence: int) -> RecoveryPoint | None:
    """Return the newest point from which replay leads to the state after ``sequence``.

    None where the kernel's history changed its course in between, or no such point is kept.
    """
    for point in reversed(life.recovery_points):
        if point.applied_sequence <= sequence:
            next_line = point.line + 1
            crossed = (
                next_line < len(life.lines) and life.lines[next_line].first_sequence <= sequence
            )
            return None if crossed else point
    return None
