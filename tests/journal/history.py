"""Histories of real events, and the engine's fold of them, that tests of reading share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from ringflow.clock import ManualClock
from ringflow.engine.folding import Fold
from ringflow.engine.state import EngineState
from ringflow.engine.state_snapshots import StateSnapshots
from ringflow.events.codec import Event
from ringflow.events.lifecycle import (
    CheckpointRetired,
    KernelLaunched,
    KernelLaunchRequested,
    RecoveryPointCommitted,
)
from ringflow.events.messages import (
    BulkMessageAccepted,
    ConsumerRegistered,
    MessagesAccepted,
    OutputsAcknowledged,
)
from ringflow.events.registry import EVENT_TYPES, default_codec
from ringflow.events.snapshot import SnapshotRequested, SnapshotStarted
from ringflow.files import FileSystem
from ringflow.journal.api import Journal, JournalLimits
from ringflow.journal.opening import open_journal
from ringflow.journal.replaying import run_replay
from ringflow.journal.scan import Scan
from ringflow.journal.writer import JournalWriter
from tests.journal.sample import FOLDER, JOURNAL

LIMITS = JournalLimits(segment_bytes=1500)
Decision = tuple[str, Sequence[Event]]


def launched(kernel_id: str) -> list[Decision]:
    """Return the decisions that bring a kernel to work."""
    return [
        (
            f"kernel/{kernel_id}",
            [
                KernelLaunchRequested(
                    kernel_id=kernel_id,
                    device="host:0",
                    spec_digest="a1",
                    version_id="v1",
                    grid=(1, 2, 3),
                    actor="ops",
                    reason="",
                )
            ],
        ),
        (
            f"kernel/{kernel_id}",
            [point(kernel_id, 1), KernelLaunched(kernel_id=kernel_id, device="host:0")],
        ),
    ]


def point(kernel_id: str, replay_from: int) -> RecoveryPointCommitted:
    return RecoveryPointCommitted(
        kernel_id=kernel_id,
        checkpoint=f"{kernel_id}-{replay_from}",
        identity="c3",
        replay_from=replay_from,
        spec_digest="a1",
        version_id="v1",
        code_digest="d4",
        code_target="host",
        history_from=replay_from,
        barrier=False,
        pinned=False,
        reason="test",
    )


def retired(kernel_id: str, replay_from: int) -> CheckpointRetired:
    return CheckpointRetired(
        kernel_id=kernel_id, checkpoint=f"{kernel_id}-{replay_from}", actor="", reason="test"
    )


def message(kernel_id: str, sequence: int, producer: str = "") -> Decision:
    return (
        f"messages/{kernel_id}",
        [
            MessagesAccepted(
                kernel_id=kernel_id,
                first_sequence=sequence,
                types=(1,),
                payloads=(bytes(8),),
                producers=(producer,),
                numbers=(2**60 + sequence if producer else 0,),
            )
        ],
    )


def bulk_message(kernel_id: str, sequence: int) -> Decision:
    return (
        f"messages/{kernel_id}",
        [
            BulkMessageAccepted(
                kernel_id=kernel_id,
                sequence=sequence,
                message_type=1,
                payload=b"",
                digest="e5",
                size_bytes=9,
                producer="",
                number=0,
            )
        ],
    )


def messages(kernel_id: str, first: int, count: int) -> list[Decision]:
    """Return one decision a message, every third one of a sender that numbers them."""
    return [
        message(kernel_id, sequence, "" if sequence % 3 else "sender")
        for sequence in range(first, first + count)
    ]


def consumed(kernel_id: str, consumer: str, sequence: int) -> list[Decision]:
    return [
        (
            f"messages/{kernel_id}",
            [
                ConsumerRegistered(
                    kernel_id=kernel_id, consumer=consumer, after_sequence=0, after_index=0
                ),
                OutputsAcknowledged(
                    kernel_id=kernel_id, consumer=consumer, sequence=sequence, index=0
                ),
            ],
        )
    ]


def snapshot_begun(kernel_id: str, operation_id: str) -> list[Decision]:
    """Return an operation that is not at its end."""
    return [
        (
            f"operation/{operation_id}",
            [
                SnapshotRequested(
                    operation_id=operation_id,
                    kernel_id=kernel_id,
                    checkpoint="c",
                    actor="ops",
                    reason="",
                ),
                SnapshotStarted(operation_id=operation_id, kernel_id=kernel_id),
            ],
        )
    ]


def opened(
    files: FileSystem, fold: Fold | None = None
) -> AbstractAsyncContextManager[JournalWriter]:
    return open_journal(
        FOLDER, files=files, clock=ManualClock(), types=EVENT_TYPES, limits=LIMITS, replay=fold
    )


async def write(journal: Journal, decisions: Sequence[Decision]) -> None:
    for stream, events in decisions:
        await journal.until_durable(journal.append(stream, events))


def state_on_disk(files: FileSystem) -> EngineState:
    """Return the fold of everything, without any snapshot."""
    fold = Fold(default_codec())
    run_replay(Scan(files, JOURNAL), fold)
    return fold.state


def with_snapshots(files: FileSystem) -> Fold:
    return Fold(default_codec(), StateSnapshots(files, FOLDER).load())
