"""Which records somebody wants: by stream, event type, sequence and time.

- Pure; works on records whose events are still plain objects, so that nothing is decoded in vain.
- A record is wanted whole or not at all: it is one decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import attrs

from ringflow.errors import UsageError
from ringflow.events.codec import Event, EventCodec
from ringflow.journal.record import RawRecord

StreamFilter = Callable[[str], bool]
Streams = str | StreamFilter | None
Types = Iterable[type[Event] | str] | None
_END_NS: Final = 2**63


class Dated(Protocol):
    """What a record tells before its events are looked at."""

    @property
    def stream(self) -> str: ...
    @property
    def at_ns(self) -> int: ...


def stream_filter(streams: Streams) -> StreamFilter | None:
    """Return the test for ``streams``: a name, a name's start and ``*``, a function, or all."""
    if streams is None or streams == "*":
        return None
    if not isinstance(streams, str):
        return streams
    if streams.endswith("*"):
        start = streams[:-1]
        return lambda stream: stream.startswith(start)
    return streams.__eq__


@attrs.frozen(kw_only=True)
class Selection:
    """What a reader wants; the default is everything.

    Attributes:
        streams: the test of a stream's name; None for all.
        names: wire names, one of which a record must hold; None for all.
        since_ns, until_ns: wall time of the write, the second one not included.
    """

    streams: StreamFilter | None = None
    names: frozenset[str] | None = None
    since_ns: int = 0
    until_ns: int = _END_NS

    @classmethod
    def of(
        cls,
        codec: EventCodec,
        *,
        streams: Streams = None,
        types: Types = None,
        since_ns: int = 0,
        until_ns: int | None = None,
    ) -> Selection:
        """Return the selection; raises ``UsageError`` for a type that ``codec`` doesn't know."""
        return cls(
            streams=stream_filter(streams),
            names=None if types is None else _names(codec, types),
            since_ns=since_ns,
            until_ns=_END_NS if until_ns is None else until_ns,
        )

    @property
    def is_everything(self) -> bool:
        return self == _EVERYTHING

    def wants(self, record: RawRecord) -> bool:
        """Whether a record that was read is wanted."""
        if self.names is None:
            return self._place(record)
        return self._place(record) and any(
            event.get("type") in self.names for event in record.events
        )

    def wants_events(self, record: Dated, events: Iterable[Event]) -> bool:
        """Whether a record with these events, which was written just now, is wanted."""
        if self.names is None:
            return self._place(record)
        return self._place(record) and any(event.wire_name in self.names for event in events)

    def _place(self, record: Dated) -> bool:
        return self.since_ns <= record.at_ns < self.until_ns and (
            self.streams is None or self.streams(record.stream)
        )


_EVERYTHING: Final = Selection()


def _names(codec: EventCodec, types: Iterable[type[Event] | str]) -> frozenset[str]:
    """Return the wire names of ``types`` and the older ones that are upcast to them."""
    wanted = {one if isinstance(one, str) else one.wire_name for one in types}
    known = {name: codec.newest_name(name) for name in codec.wire_names}
    if strangers := wanted - set(known):
        raise UsageError(
            f"no event is named {sorted(strangers)[0]!r}; there are {', '.join(sorted(known))}"
        )
    newest = {known[name] for name in wanted}
    return frozenset(name for name, target in known.items() if target in newest)
