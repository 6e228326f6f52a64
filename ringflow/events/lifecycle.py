"""Events of a kernel's life (stream ``kernel/<id>``)."""

from __future__ import annotations

from typing import ClassVar, Final

from ringflow.events.base import event


@event
class KernelLaunchRequested:
    """A kernel was asked for; its code was compiled and its memory reserved already."""

    wire_name: ClassVar[str] = "kernel.launch_requested.v1"
    kernel_id: str
    device: str
    spec_digest: str
    version_id: str
    grid: tuple[int, ...]
    actor: str
    reason: str


@event
class KernelLaunched:
    """The grid runs and has answered; the first recovery point is durable."""

    wire_name: ClassVar[str] = "kernel.launched.v1"
    kernel_id: str
    device: str


@event
class KernelLaunchFailed:
    """The kernel never ran; its memory was given back.

    Attributes:
        error: the class of what the caller got; "" where the engine ended, or nobody waited.
    """

    wire_name: ClassVar[str] = "kernel.launch_failed.v1"
    kernel_id: str
    reason: str
    error: str = ""


@event
class RecoveryPointCommitted:
    """From this checkpoint and the messages after it the kernel can be rebuilt.

    Attributes:
        checkpoint: name in the engine's checkpoint storage.
        identity: SHA-256 (hex) of the checkpoint's content.
        replay_from: sequence of the first message that is not in the state.
        code_digest, code_target: the compiled code in the object store and what it runs on.
        barrier: a fall-back never goes to a recovery point before this one.
        history_from: with ``barrier``, the first message that was applied on the way to this state
            but not on the way that the points before it belong to; else 0.
        pinned: a person named it; only a person retires it.
    """

    wire_name: ClassVar[str] = "kernel.recovery_point.v1"
    kernel_id: str
    checkpoint: str
    identity: str
    replay_from: int
    spec_digest: str
    version_id: str
    code_digest: str
    code_target: str
    barrier: bool
    history_from: int
    pinned: bool
    reason: str


@event
class CheckpointRetired:
    """A checkpoint is no recovery point any more; its file is deleted after this.

    Attributes:
        actor: who asked for it; empty where it was the limit of kept ones.
    """

    wire_name: ClassVar[str] = "checkpoint.retired.v1"
    kernel_id: str
    checkpoint: str
    actor: str
    reason: str


@event
class RecoveryFellBack:
    """A recovery point's checkpoint is missing or damaged; the one before it is used."""

    wire_name: ClassVar[str] = "kernel.recovery_fell_back.v1"
    kernel_id: str
    checkpoint: str
    reason: str


@event
class HoldStarted:
    wire_name: ClassVar[str] = "kernel.hold_started.v1"
    kernel_id: str
    purpose: str


@event
class HoldReleased:
    wire_name: ClassVar[str] = "kernel.hold_released.v1"
    kernel_id: str


@event
class QuiesceStarted:
    wire_name: ClassVar[str] = "kernel.quiesce_started.v1"
    kernel_id: str
    purpose: str


@event
class KernelQuiesced:
    """The grid has completed; ``applied_sequence`` is the last message in its state."""

    wire_name: ClassVar[str] = "kernel.quiesced.v1"
    kernel_id: str
    applied_sequence: int


@event
class KernelResumed:
    """A grid runs again, on ``device``, from ``applied_sequence`` on."""

    wire_name: ClassVar[str] = "kernel.resumed.v1"
    kernel_id: str
    device: str
    applied_sequence: int


@event
class KernelTrapped:
    """The kernel stopped itself after it had applied ``applied_sequence``.

    Attributes:
        message_sequence: the message that it worked on, 0 where it was between messages.
    """

    wire_name: ClassVar[str] = "kernel.trapped.v1"
    kernel_id: str
    applied_sequence: int
    message_sequence: int
    detail: str


@event
class KernelDeviceLost:
    """The device that the kernel was on is lost; it is rebuilt elsewhere.

    Attributes:
        applied_sequence: the last message that it is known to have applied there.
    """

    wire_name: ClassVar[str] = "kernel.device_lost.v1"
    kernel_id: str
    device: str
    applied_sequence: int


@event
class KernelHalted:
    """Nothing runs and nothing is tried any more until a person decides.

    Attributes:
        applied_sequence: the last message that is known to have been applied.
        message_sequence: the message that trapped the kernel, 0 where none did.
        attempts: how often in a row that was.
    """

    wire_name: ClassVar[str] = "kernel.halted.v1"
    kernel_id: str
    applied_sequence: int
    message_sequence: int
    attempts: int
    reason: str


@event
class HaltResolved:
    """A person decided about a halted kernel: it is rebuilt from a recovery point.

    Attributes:
        decision: ``"retry"``, ``"skip"`` or ``"rollback"``.
        message_sequence: the message that had trapped the kernel, 0 where none had.
    """

    wire_name: ClassVar[str] = "kernel.halt_resolved.v1"
    kernel_id: str
    decision: str
    message_sequence: int
    actor: str
    reason: str


@event
class KernelRolledBack:
    """State and code are those of an earlier recovery point again; comes with a new one.

    Attributes:
        checkpoint: the earlier one.
        was_applied: the last message that had been applied before, or had halted the kernel.
        undone: whether the messages between are never applied again.
    """

    wire_name: ClassVar[str] = "kernel.rolled_back.v1"
    kernel_id: str
    checkpoint: str
    was_applied: int
    undone: bool
    actor: str
    reason: str


@event
class KernelForked:
    """A new kernel begins with the state that ``source`` had after message ``at_sequence``.

    Attributes:
        checkpoint: the source's recovery point from which that state was made again.
    """

    wire_name: ClassVar[str] = "kernel.forked.v1"
    kernel_id: str
    source: str
    at_sequence: int
    checkpoint: str


@event
class StopRequested:
    wire_name: ClassVar[str] = "kernel.stop_requested.v1"
    kernel_id: str
    actor: str
    reason: str


@event
class KernelStopped:
    """The kernel has ended for good; its id may not be used again in this folder."""

    wire_name: ClassVar[str] = "kernel.stopped.v1"
    kernel_id: str
    applied_sequence: int


EVENT_TYPES: Final = (
    KernelLaunchRequested,
    KernelLaunched,
    KernelLaunchFailed,
    RecoveryPointCommitted,
    CheckpointRetired,
    RecoveryFellBack,
    HoldStarted,
    HoldReleased,
    QuiesceStarted,
    KernelQuiesced,
    KernelResumed,
    KernelTrapped,
    KernelDeviceLost,
    KernelHalted,
    HaltResolved,
    KernelRolledBack,
    KernelForked,
    StopRequested,
    KernelStopped,
)
