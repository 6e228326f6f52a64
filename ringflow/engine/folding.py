"""Folding a journal's records into the engine's state, as fast as they can be verified.

- The same state as ``EngineState.apply`` of each decoded event, in order.
- Accepted messages are most of a journal: they are folded from their plain fields, and their
  payloads are never decoded. All other events take the usual way.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final, final

from ringflow.engine.state import EngineState
from ringflow.engine.state_codec import decode_state, encode_state, state_shape
from ringflow.errors import CorruptError, EventFormatError
from ringflow.events.codec import CODEC_MEMBER, EventCodec
from ringflow.events.messages import MessagesAccepted
from ringflow.events.values import load_integer
from ringflow.journal.foundation import Foundation, Place
from ringflow.journal.record import RawRecord
from ringflow.statemachines import hot_reload, lifecycle, migration, snapshot
from ringflow.statemachines.table import table_digest
from ringflow.version import __version__

_ACCEPTED: Final = MessagesAccepted.wire_name
_MEMBERS: Final = 1 + len(inspect.signature(MessagesAccepted).parameters)


@final
class Fold:
    """An engine's state that takes records in their order (``ringflow.journal.replaying.Replay``).

    Args:
        snapshots: what may be begun with, the newest first.
    Attributes:
        state: the fold of what was taken, on top of the state at the beginning.
        begun_at: the sequence of the foundation that it began with, 0 for none.
    """

    def __init__(self, codec: EventCodec, snapshots: Iterable[Foundation] = ()) -> None:
        self._codec = codec
        self._snapshots = snapshots
        self._last: RawRecord | None = None
        self._versions: dict[str, int] = {}
        self.state = EngineState()
        self.begun_at = 0

    def snapshots(self) -> Iterator[Foundation]:
        return iter(self._snapshots)

    def begin(self, foundation: Foundation | None) -> None:
        if foundation is None:
            self.state, self._versions, self.begun_at = EngineState(), {}, 0
        else:
            self.state = decode_state(foundation.state)
            self._versions = dict(foundation.place.versions)
            self.begun_at = foundation.place.sequence
        self._last = None

    def take(self, record: RawRecord) -> None:
        """Fold one record in.

        Raises:
            UnknownEventError, EventFormatError: this version can't read one of its events.
            IllegalTransitionError, CorruptError: one of its events can't have happened.
        """
        state = self.state
        for plain in record.events:
            if plain.get("type") == _ACCEPTED and len(plain) == _MEMBERS + (CODEC_MEMBER in plain):
                _take_accepted(state, plain)
            else:
                event = self._codec.from_plain(plain)
                try:
                    state.apply(event)
                except LookupError as error:
                    raise CorruptError(
                        f"record {record.sequence}: {event.wire_name!r} is about {error}, which "
                        "no record before it has begun; restore the journal from a copy"
                    ) from error
        self._versions[record.stream] = record.version
        self._last = record

    @property
    def sequence(self) -> int:
        """The last record that is folded in."""
        return self._last.sequence if self._last else self.begun_at

    def foundation(self) -> Foundation:
        """Return the state and its place behind the last record; at least one was taken."""
        last = self._last
        assert last is not None
        place = Place(
            sequence=last.sequence,
            hash=last.hash,
            epoch=last.epoch,
            at_ns=last.at_ns,
            durable=last.durable,
            versions=self._versions,
        )
        return Foundation(place=place, state=encode_state(self.state), code=code_identity())


@cache
def code_identity() -> Mapping[str, str]:
    """Return what must be equal for a folded state to be taken as this code's own fold."""
    tables = table_digest(
        lifecycle.TRANSITIONS, migration.TRANSITIONS, hot_reload.TRANSITIONS, snapshot.TRANSITIONS
    )
    return {"shape": state_shape(), "tables": tables, "version": __version__}


def _take_accepted(state: EngineState, plain: Mapping[str, Any]) -> None:
    try:
        marks = state.marks[plain["kernel_id"]]
        first, count = load_integer(plain["first_sequence"]), len(plain["types"])
        producers: list[str] = plain["producers"]
        if any(producers):
            numbers = [load_integer(number) for number in plain["numbers"]]
            marks.accept(first, count, producers, numbers)
        else:
            marks.accept(first, count, (), ())
        state.fruitless = 0
    except (KeyError, TypeError, ValueError) as error:
        raise EventFormatError(_ACCEPTED, str(error) or type(error).__name__) from error
