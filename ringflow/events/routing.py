"""Events of routes between kernels (stream ``routes/<source>``; ``RouteTaken`` with the messages).

- A route is a kernel's numbered way out; a connection leads it to one kernel.
"""

from __future__ import annotations

from typing import ClassVar, Final

from ringflow.events.base import event


@event
class RouteConnected:
    """Outputs after (``after_sequence``, ``after_index``) on a route are the target's messages.

    Attributes:
        number: of the route, its place in the source's spec.
        at_most_once: the target is volatile: what it took is not in the journal.
    """

    wire_name: ClassVar[str] = "route.connected.v1"
    source: str
    route: str
    number: int
    target: str
    after_sequence: int
    after_index: int
    at_most_once: bool
    actor: str
    reason: str


@event
class RouteDisconnected:
    """The route leads nowhere from now on.

    Attributes:
        dropped_count: outputs that waited for the target and are gone.
    """

    wire_name: ClassVar[str] = "route.disconnected.v1"
    source: str
    route: str
    number: int
    target: str
    dropped_count: int
    actor: str
    reason: str


@event
class RouteTaken:
    """Outputs of the source are the messages that the same record accepts for the target.

    Attributes:
        sequences, indexes: one entry a message: the output that it was.
        through_sequence, through_index: no output up to this one is taken again.
    """

    wire_name: ClassVar[str] = "route.taken.v1"
    source: str
    number: int
    target: str
    sequences: tuple[int, ...]
    indexes: tuple[int, ...]
    through_sequence: int
    through_index: int


@event
class RouteMarkSet:
    """A volatile kernel's mark on a route where it does not follow from the messages."""

    wire_name: ClassVar[str] = "route.mark_set.v1"
    source: str
    number: int
    target: str
    through_sequence: int
    through_index: int


@event
class RouteDropped:
    """The first of the outputs that nobody gets, until the engine or the connection changes.

    Attributes:
        sequence, index: the output's name; the type is its message type.
        reason: the route is not connected, or the target does not take such messages.
    """

    wire_name: ClassVar[str] = "route.dropped.v1"
    source: str
    number: int
    target: str
    sequence: int
    index: int
    message_type: int
    reason: str


EVENT_TYPES: Final = (
    RouteConnected,
    RouteDisconnected,
    RouteTaken,
    RouteMarkSet,
    RouteDropped,
)
