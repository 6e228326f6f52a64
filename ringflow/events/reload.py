"""Events of a hot reload (stream ``operation/<id>``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from ringflow.events.base import event


@event
class ReloadRequested:
    """New code was asked for.

    Attributes:
        spec_digest: the new spec, code included, in the engine's object store.
        convert: kernel in the new code that fills the new regions, empty if none.
        at_sequence: first message for the new code; 0: as soon as possible.
        probation_messages: messages that must succeed, or all within ``probation_timeout_ns``.
    """

    wire_name: ClassVar[str] = "reload.requested.v1"
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
    key: str = ""
    body_digest: str = ""


@event
class ReloadCompileStarted:
    wire_name: ClassVar[str] = "reload.compile_started.v1"
    operation_id: str
    kernel_id: str


@event
class ReloadCompiled:
    wire_name: ClassVar[str] = "reload.compiled.v1"
    operation_id: str
    kernel_id: str
    code_digest: str


@event
class ReloadValidated:
    """The new code is loaded, its parameters fit, its memory is reserved; the old code works.

    Attributes:
        state_bytes: of the new code's regions, its variables among them; 0 for a user's own object.
    """

    wire_name: ClassVar[str] = "reload.validated.v1"
    operation_id: str
    kernel_id: str
    state_bytes: int = 0


@event
class ReloadDrained:
    """The old grid has completed after ``applied_sequence``."""

    wire_name: ClassVar[str] = "reload.drained.v1"
    operation_id: str
    kernel_id: str
    applied_sequence: int


@event
class ReloadCheckpointed:
    """The way back is fixed: the old regions, untouched, with these digests."""

    wire_name: ClassVar[str] = "reload.checkpointed.v1"
    operation_id: str
    kernel_id: str
    digests: Mapping[str, str]


@event
class ReloadSwapped:
    """The new regions were filled: copied where equal, converted where not."""

    wire_name: ClassVar[str] = "reload.swapped.v1"
    operation_id: str
    kernel_id: str
    kept: tuple[str, ...]
    digests: Mapping[str, str]


@event
class ReloadRestored:
    """The new grid runs on probation: its outputs are held."""

    wire_name: ClassVar[str] = "reload.restored.v1"
    operation_id: str
    kernel_id: str
    pause_ns: int
    parked_count: int


@event
class ReloadCompleted:
    """The new code has passed its probation; committed with its recovery point."""

    wire_name: ClassVar[str] = "reload.completed.v1"
    operation_id: str
    kernel_id: str
    spec_digest: str
    version_id: str


@event
class ReloadStepFailed:
    wire_name: ClassVar[str] = "reload.step_failed.v1"
    operation_id: str
    kernel_id: str
    step: str
    reason: str
    cancelled: bool


@event
class ReloadRolledBack:
    """The old code works again, from ``applied_sequence`` on, with every message since."""

    wire_name: ClassVar[str] = "reload.rolled_back.v1"
    operation_id: str
    kernel_id: str
    applied_sequence: int


@event
class ReloadCancelled:
    wire_name: ClassVar[str] = "reload.cancelled.v1"
    operation_id: str
    kernel_id: str


@event
class ReloadFailed:
    """The old code could not be resumed either; the kernel is restored or halted."""

    wire_name: ClassVar[str] = "reload.failed.v1"
    operation_id: str
    kernel_id: str
    reason: str


EVENT_TYPES: Final = (
    ReloadRequested,
    ReloadCompileStarted,
    ReloadCompiled,
    ReloadValidated,
    ReloadDrained,
    ReloadCheckpointed,
    ReloadSwapped,
    ReloadRestored,
    ReloadCompleted,
    ReloadStepFailed,
    ReloadRolledBack,
    ReloadCancelled,
    ReloadFailed,
)
