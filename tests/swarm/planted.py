"""Bugs that are planted on purpose, each as a patch of the engine: what a swarm must find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from ringflow.engine import checkpoints, instances
from ringflow.engine.core import Core
from ringflow.engine.inbox import Inbox
from ringflow.engine.migrating import MigrationPerformer
from ringflow.simulate import files

Plant = Callable[[pytest.MonkeyPatch], None]


def parked_message_dropped(patch: pytest.MonkeyPatch) -> None:
    """The first message that goes back to the parked ones is forgotten."""
    straight = Inbox.rewind

    def rewind(inbox: Inbox, applied_sequence: int) -> int:
        returned = straight(inbox, applied_sequence)
        if returned:
            del inbox._messages[inbox._posted_count]
        return returned

    patch.setattr(Inbox, "rewind", rewind)


def message_of_the_reroute_lost(patch: pytest.MonkeyPatch) -> None:
    """What is accepted between ``rerouted`` and the opening of the gate is forgotten."""
    restore, open_gate = MigrationPerformer._restore, MigrationPerformer._open_gate
    known: dict[int, int] = {}

    async def noting(performer: MigrationPerformer) -> dict[str, str]:
        digests = await restore(performer)
        known[id(performer)] = performer._runtime.inbox.last_sequence
        return digests

    def forgetting(performer: MigrationPerformer, ids: dict[str, str]) -> Any:
        inbox, last = performer._runtime.inbox, known[id(performer)]
        while inbox.last_sequence > last and inbox.parked_count:
            inbox._messages.pop()
        return open_gate(performer, ids)

    patch.setattr(MigrationPerformer, "_restore", noting)
    patch.setattr(MigrationPerformer, "_open_gate", forgetting)


def digests_not_checked(patch: pytest.MonkeyPatch) -> None:
    """Whatever the target's memory holds, its digests are the source's."""
    straight = instances.region_digests

    def same(instance: instances.Instance) -> dict[str, str]:
        return dict.fromkeys(straight(instance), "0" * 32)

    patch.setattr(instances, "region_digests", same)


def lease_not_released(patch: pytest.MonkeyPatch) -> None:
    """Work that fails keeps the kernel's lease."""

    @contextmanager
    def lease(core: Core, kernel_id: str, holder: str) -> Iterator[None]:
        core.busy[kernel_id] = holder
        yield
        del core.busy[kernel_id]
        core.rested.notify()
        core.lease_ended(kernel_id)

    patch.setattr(Core, "lease", lease)


def fsync_skipped(patch: pytest.MonkeyPatch) -> None:
    """The journal's syncs do nothing."""
    straight = files._SimulatedFile.datasync

    def datasync(file: Any) -> None:
        if file._path.parent.name != "journal":
            straight(file)

    patch.setattr(files._SimulatedFile, "datasync", datasync)


def reply_lost_with_its_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """Checkpoints leave out the replies that nobody has read yet."""
    patch.setattr(checkpoints, "encode_outbox", lambda outputs: b"")


PLANTED: Final[dict[str, tuple[Plant, int]]] = {
    "parked message dropped": (parked_message_dropped, 3081),
    "message lost after rerouted": (message_of_the_reroute_lost, 3026),
    "digest check missing": (digests_not_checked, 3000),
    "lease not released": (lease_not_released, 3006),
    "fsync skipped": (fsync_skipped, 3000),
    "reply lost with its checkpoint": (reply_lost_with_its_checkpoint, 3056),
}
"""By name: the patch, and the first seed of its bounded swarm."""
