"""The checkpoints of an engine as its journal tells them: committed, retired, given up.

- Works on plain events; those of other types are not looked at.
- What a base record stands for is told by its state: without the times, and without what was
  retired before it.
- Pure: records in, values out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from ringflow.events.codec import EventCodec
from ringflow.events.lifecycle import CheckpointRetired, RecoveryFellBack, RecoveryPointCommitted
from ringflow.events.registry import default_codec
from ringflow.journal.record import RawRecord
from ringflow.statemachines.lifecycle import RecoveryPoint

LIVE: Final = "recovery point"
_ENDS: Final = {
    CheckpointRetired.wire_name: "retired",
    RecoveryFellBack.wire_name: "given up",
}


@attrs.frozen(kw_only=True)
class KnownCheckpoint:
    """A checkpoint that an event names.

    Attributes:
        state: ``"recovery point"``, ``"retired"``, or ``"given up"`` by a recovery that could not
            read it.
        identity: SHA-256 (hex) of its content.
        applied_sequence: the last message in its state.
        committed_at_ns: of the event, ns since 1970; 0 where that was archived.
        ended_at_ns, ended_why: of the event that ended it; 0 and "" as long as there is none.
    """

    kernel_id: str
    checkpoint: str
    state: str = LIVE
    identity: str
    applied_sequence: int
    version_id: str
    spec_digest: str
    code_digest: str
    pinned: bool
    reason: str
    committed_at_ns: int = 0
    ended_at_ns: int = 0
    ended_why: str = ""

    @property
    def is_live(self) -> bool:
        return self.state == LIVE


class KnownCheckpoints:
    """All checkpoints that a journal names, oldest first; feed it records in their order."""

    def __init__(self, based_on: Iterable[KnownCheckpoint] = ()) -> None:
        self._all = list(based_on)
        self._codec: EventCodec = default_codec()

    def __iter__(self) -> Iterator[KnownCheckpoint]:
        return iter(self._all)

    def live(self) -> dict[str, KnownCheckpoint]:
        """Return the recovery points by the names of their checkpoints."""
        return {one.checkpoint: one for one in self._all if one.is_live}

    def take(self, record: RawRecord) -> None:
        """Fold one record; raises ``EventFormatError`` for a known event of another shape."""
        for plain in record.events:
            wire_name = str(plain.get("type", ""))
            if wire_name == RecoveryPointCommitted.wire_name:
                event = self._codec.from_plain(plain)
                assert isinstance(event, RecoveryPointCommitted)
                self._all.append(_committed(event, record.at_ns))
            elif wire_name in _ENDS:
                ending = self._codec.from_plain(plain)
                assert isinstance(ending, CheckpointRetired | RecoveryFellBack)
                self._end(ending, _ENDS[wire_name], record.at_ns)

    def _end(self, event: CheckpointRetired | RecoveryFellBack, state: str, at_ns: int) -> None:
        for index, one in enumerate(self._all):
            if one.checkpoint == event.checkpoint and one.is_live:
                self._all[index] = attrs.evolve(
                    one, state=state, ended_at_ns=at_ns, ended_why=event.reason
                )


def known_from(kernel_id: str, point: RecoveryPoint) -> KnownCheckpoint:
    """Return a recovery point of a folded state, whose event is not there any more."""
    return KnownCheckpoint(
        kernel_id=kernel_id,
        checkpoint=point.checkpoint,
        identity=point.identity,
        applied_sequence=point.applied_sequence,
        version_id=point.version_id,
        spec_digest=point.spec_digest,
        code_digest=point.code_digest,
        pinned=point.pinned,
        reason=point.reason,
    )


def _committed(event: RecoveryPointCommitted, at_ns: int) -> KnownCheckpoint:
    return KnownCheckpoint(
        kernel_id=event.kernel_id,
        checkpoint=event.checkpoint,
        identity=event.identity,
        applied_sequence=event.replay_from - 1,
        version_id=event.version_id,
        spec_digest=event.spec_digest,
        code_digest=event.code_digest,
        pinned=event.pinned,
        reason=event.reason,
        committed_at_ns=at_ns,
    )
