"""Events of a snapshot: a checkpoint taken while the kernel stays resident."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from ringflow.events.base import event


@event
class SnapshotRequested:
    """A snapshot was asked for; ``checkpoint`` is the unique name of the file to come."""

    wire_name: ClassVar[str] = "snapshot.requested.v1"
    operation_id: str
    kernel_id: str
    checkpoint: str
    actor: str
    reason: str
    key: str = ""
    body_digest: str = ""


@event
class SnapshotStarted:
    wire_name: ClassVar[str] = "snapshot.started.v1"
    operation_id: str
    kernel_id: str


@event
class SnapshotHeld:
    """All blocks wait at a message boundary."""

    wire_name: ClassVar[str] = "snapshot.held.v1"
    operation_id: str
    kernel_id: str
    applied_sequence: int


@event
class SnapshotCopied:
    """The state was copied and the kernel works again; ``pause_ns`` is what it cost."""

    wire_name: ClassVar[str] = "snapshot.copied.v1"
    operation_id: str
    kernel_id: str
    digests: Mapping[str, str]
    state_bytes: int
    pause_ns: int


@event
class SnapshotSaved:
    """The file is durable; committed with its recovery point."""

    wire_name: ClassVar[str] = "snapshot.saved.v1"
    operation_id: str
    kernel_id: str
    checkpoint: str


@event
class SnapshotFailed:
    wire_name: ClassVar[str] = "snapshot.failed.v1"
    operation_id: str
    kernel_id: str
    step: str
    reason: str


@event
class SnapshotCancelled:
    wire_name: ClassVar[str] = "snapshot.cancelled.v1"
    operation_id: str
    kernel_id: str


EVENT_TYPES: Final = (
    SnapshotRequested,
    SnapshotStarted,
    SnapshotHeld,
    SnapshotCopied,
    SnapshotSaved,
    SnapshotFailed,
    SnapshotCancelled,
)
