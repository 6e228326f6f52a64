"""Folding a journal's records into the engine's state, as fast as they can be verified.

- The same state as ``EngineState.apply`` of each decoded event, in order.
- Accepted messages are most of a journal: they are folded from their plain fields, and their
  payloads are never decoded. All other events take the usual way.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final, final

from ringflow.engine.state import EngineState
from ringflow.errors import EventFormatError
from ringflow.events.codec import EventCodec, load_integer
from ringflow.events.messages import MessagesAccepted
from ringflow.journal.record import RawRecord

_ACCEPTED: Final = MessagesAccepted.wire_name
_MEMBERS: Final = 1 + len(inspect.signature(MessagesAccepted).parameters)


@final
class Fold:
    """An engine's state that takes records in their order.

    Attributes:
        state: the fold of what was taken, on top of the state at the beginning.
    """

    def __init__(self, codec: EventCodec, state: EngineState | None = None) -> None:
        self._codec = codec
        self.state = state if state is not None else EngineState()

    def take(self, record: RawRecord) -> None:
        """Fold one record in.

        Raises:
            UnknownEventError, EventFormatError: this version can't read one of its events.
            IllegalTransitionError: one of its events can't have happened.
        """
        state = self.state
        for plain in record.events:
            if plain.get("type") == _ACCEPTED and len(plain) == _MEMBERS:
                _take_accepted(state, plain)
            else:
                state.apply(self._codec.from_plain(plain))


def _take_accepted(state: EngineState, plain: Mapping[str, Any]) -> None:
    try:
        first, count = load_integer(plain["first_sequence"]), len(plain["types"])
        producers: list[str] = plain["producers"]
        numbers: list[int] = []
        if any(producers):
            numbers = [load_integer(number) for number in plain["numbers"]]
        else:
            producers = []
        state.marks[plain["kernel_id"]].accept(first, count, producers, numbers)
    except (KeyError, TypeError, ValueError) as error:
        raise EventFormatError(_ACCEPTED, str(error) or type(error).__name__) from error
