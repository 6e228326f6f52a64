"""Events of a live migration (stream ``operation/<id>``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from ringflow.events.base import event


@event
class MigrationRequested:
    wire_name: ClassVar[str] = "migration.requested.v1"
    operation_id: str
    kernel_id: str
    source: str
    target: str
    actor: str
    reason: str
    key: str = ""
    body_digest: str = ""


@event
class MigrationPreparationStarted:
    wire_name: ClassVar[str] = "migration.preparation_started.v1"
    operation_id: str
    kernel_id: str


@event
class MigrationTargetPrepared:
    """Code is loaded and memory reserved on the target; the source still works."""

    wire_name: ClassVar[str] = "migration.target_prepared.v1"
    operation_id: str
    kernel_id: str
    state_bytes: int


@event
class MigrationSourceQuiesced:
    """The source's grid has completed; its state holds every message to ``applied_sequence``."""

    wire_name: ClassVar[str] = "migration.source_quiesced.v1"
    operation_id: str
    kernel_id: str
    applied_sequence: int


@event
class MigrationCheckpointed:
    """The source's regions were digested where they lie."""

    wire_name: ClassVar[str] = "migration.checkpointed.v1"
    operation_id: str
    kernel_id: str
    digests: Mapping[str, str]


@event
class MigrationStateTransferred:
    wire_name: ClassVar[str] = "migration.state_transferred.v1"
    operation_id: str
    kernel_id: str
    path: str
    transferred_bytes: int


@event
class MigrationTargetRestored:
    """The target's own memory was digested and its grid waits behind a closed gate."""

    wire_name: ClassVar[str] = "migration.target_restored.v1"
    operation_id: str
    kernel_id: str
    digests: Mapping[str, str]


@event
class MigrationRerouted:
    """The commit point: from here on the kernel is the one on the target."""

    wire_name: ClassVar[str] = "migration.rerouted.v1"
    operation_id: str
    kernel_id: str
    source: str
    target: str
    applied_sequence: int


@event
class MigrationGateOpened:
    """The target takes messages; ``pause_ns`` from the quiesce request until now."""

    wire_name: ClassVar[str] = "migration.gate_opened.v1"
    operation_id: str
    kernel_id: str
    pause_ns: int
    parked_count: int


@event
class MigrationCompleted:
    """The target has answered and the source's memory was given back.

    A kernel in ``checkpoint`` replay mode has a recovery point on the target then, committed with
    it.
    Attributes:
        retire_failure: why that failed, empty if it did not.
    """

    wire_name: ClassVar[str] = "migration.completed.v1"
    operation_id: str
    kernel_id: str
    retire_failure: str


@event
class MigrationStepFailed:
    """A step before the commit point failed, was cancelled or ran out of time."""

    wire_name: ClassVar[str] = "migration.step_failed.v1"
    operation_id: str
    kernel_id: str
    step: str
    reason: str
    cancelled: bool


@event
class MigrationRolledBack:
    """The kernel works on the source as before; no message was lost."""

    wire_name: ClassVar[str] = "migration.rolled_back.v1"
    operation_id: str
    kernel_id: str


@event
class MigrationCancelled:
    """The request was withdrawn; the kernel works on the source."""

    wire_name: ClassVar[str] = "migration.cancelled.v1"
    operation_id: str
    kernel_id: str


@event
class MigrationFailed:
    """The source could not be resumed either; the kernel is restored or halted."""

    wire_name: ClassVar[str] = "migration.failed.v1"
    operation_id: str
    kernel_id: str
    reason: str


EVENT_TYPES: Final = (
    MigrationRequested,
    MigrationPreparationStarted,
    MigrationTargetPrepared,
    MigrationSourceQuiesced,
    MigrationCheckpointed,
    MigrationStateTransferred,
    MigrationTargetRestored,
    MigrationRerouted,
    MigrationGateOpened,
    MigrationCompleted,
    MigrationStepFailed,
    MigrationRolledBack,
    MigrationCancelled,
    MigrationFailed,
)
