"""Routes between kernels: who is connected to whom, and what was taken; pure.

- An output is named by (sequence, index); a connection's mark is the last one that the target took.
- The mark and the target's messages are one record: whatever crashes, nothing is taken twice.
- A route leads to one kernel; several routes may lead to the same one. Cycles are allowed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, final

import attrs

from ringflow.device.abi import ROUTE_SHIFT, OutputFlag
from ringflow.device.pump import Output
from ringflow.errors import CorruptError, RouteError
from ringflow.events import routing as e
from ringflow.spec import KernelSpec, Route

OutputId = tuple[int, int]  # (sequence of the message, index among its outputs)
Key = tuple[str, int]  # (source, number of the route)
INDEX_MAX: Final = 2**32 - 1
_HEAD: Final = struct.Struct("<QIIII")


@final
@attrs.frozen(kw_only=True)
class Connection:
    """A kernel's route at a glance.

    Attributes:
        target: the kernel at its end, empty while it is not connected.
        taken_count: outputs that became the target's messages, since the engine was opened.
        waiting_count: outputs that wait for the target.
        dropped_count: outputs that nobody got, since the engine was opened or the route was last
            connected.
    """

    source: str
    route: str
    target: str
    taken_count: int
    waiting_count: int
    dropped_count: int


@attrs.frozen(kw_only=True)
class Edge:
    """A connection, by the journal; ``mark`` is the last output that the target has taken."""

    source: str
    route: str
    number: int
    target: str
    at_most_once: bool
    mark: OutputId


RoutingEvent = (
    e.RouteConnected | e.RouteDisconnected | e.RouteTaken | e.RouteMarkSet | e.RouteDropped
)


@attrs.define
class Routing:
    """All connections, as the fold of their events.

    Records of different streams may become durable in another order than they were made: a
    ``RouteTaken`` moves a mark only forward, and none of a connection that is gone.
    """

    edges: dict[Key, Edge] = attrs.field(factory=dict)

    def apply(self, event: RoutingEvent) -> None:
        match event:
            case e.RouteConnected():
                self.edges[event.source, event.number] = Edge(
                    source=event.source,
                    route=event.route,
                    number=event.number,
                    target=event.target,
                    at_most_once=event.at_most_once,
                    mark=(event.after_sequence, event.after_index),
                )
            case e.RouteDisconnected():
                self.edges.pop((event.source, event.number), None)
            case e.RouteTaken():
                self._set_mark(event, never_back=True)
            case e.RouteMarkSet():
                self._set_mark(event, never_back=False)
            case e.RouteDropped():
                pass

    def _set_mark(self, event: e.RouteTaken | e.RouteMarkSet, *, never_back: bool) -> None:
        key = event.source, event.number
        edge = self.edges.get(key)
        if edge is None or edge.target != event.target:
            return
        through = event.through_sequence, event.through_index
        mark = max(edge.mark, through) if never_back else through
        self.edges[key] = attrs.evolve(edge, mark=mark)

    def of(self, source: str) -> tuple[Edge, ...]:
        """Return the connections that begin at a kernel, in the order of their numbers."""
        found = (edge for edge in self.edges.values() if edge.source == source)
        return tuple(sorted(found, key=lambda edge: edge.number))

    def into(self, target: str) -> tuple[Edge, ...]:
        """Return the connections that end at a kernel, oldest first."""
        return tuple(edge for edge in self.edges.values() if edge.target == target)

    def touching(self, kernel_id: str) -> tuple[Edge, ...]:
        """Return the connections that begin or end at a kernel, oldest first."""
        return tuple(
            edge for edge in self.edges.values() if kernel_id in (edge.source, edge.target)
        )

    def is_on_cycle(self, edge: Edge) -> bool:
        """Whether what goes along a connection can come back to its source."""
        reached, ahead = {edge.target}, [edge.target]
        while ahead:
            here = ahead.pop()
            if here == edge.source:
                return True
            after = {one.target for one in self.edges.values() if one.source == here} - reached
            reached |= after
            ahead += after
        return False


def last_output(applied_sequence: int, next_index: int) -> OutputId:
    """Return the last output of a state whose next one, before another message, has this index."""
    if next_index > 0:
        return applied_sequence, next_index - 1
    return (applied_sequence - 1, INDEX_MAX) if applied_sequence else (0, 0)


def number_of(spec: KernelSpec, name: str) -> int:
    """Return a route's number; raises ``RouteError`` if the spec does not declare it."""
    for number, route in enumerate(spec.routes):
        if route.name == name:
            return number
    declared = ", ".join(route.name for route in spec.routes) or "none"
    raise RouteError(
        spec.kernel_id,
        name,
        f"is not declared (there are: {declared}); add it to the spec's routes",
    )


def check_types(source_id: str, route: Route, target: KernelSpec) -> None:
    """Raise ``RouteError`` unless the target takes every message that the route declares."""
    taken = {layout.id: layout for layout in target.messages}
    for layout in route.messages:
        if taken.get(layout.id) != layout:
            how = "with other fields" if layout.id in taken else "not at all"
            raise RouteError(
                source_id,
                route.name,
                f"sends {layout.name!r} (type {layout.id}), which kernel {target.kernel_id!r} "
                f"declares {how}; give both specs the same class",
            )


def refusal_of(target: KernelSpec, output: Output) -> str:
    """Return why the target can't take an output as a message, empty if it can."""
    layout = next((one for one in target.messages if one.id == output.type), None)
    if layout is None:
        return f"kernel {target.kernel_id!r} declares no message of type {output.type}"
    size, size_max = len(output.payload), target.payload_bytes_max
    if size > size_max:
        return f"{size} bytes are more than kernel {target.kernel_id!r} takes ({size_max})"
    if not layout.fits(size):
        return (
            f"{size} bytes are no {layout.name!r} of kernel {target.kernel_id!r}, which has "
            f"{layout.size_bytes}"
        )
    return ""


def check_reload(old: KernelSpec, new: KernelSpec) -> None:
    """Raise ``RouteError`` unless every route keeps its number; new ones come after them."""
    for number, route in enumerate(old.routes):
        if number >= len(new.routes) or new.routes[number].name != route.name:
            raise RouteError(
                old.kernel_id,
                route.name,
                "must keep its place in a reload, since its number is in stored outputs; add new "
                "routes after those that there are",
            )


def restart_mark(
    edge: Edge,
    *,
    state_end: OutputId,
    seen: OutputId,
    accepted_sequence: int,
    exact: bool,
    source_volatile: bool,
    closed_cleanly: bool,
) -> OutputId:
    """Return a connection's mark after a restart; what the source makes up to it is dropped.

    Args:
        state_end: the end of the last message in the source's recovered state.
        seen: the last output that the recovered state has made.
        accepted_sequence: the source's last accepted message.
        exact: the source makes the same outputs again.
    """
    mark = edge.mark
    if source_volatile:  # its sequences begin anew after the state
        mark = min(mark, state_end)
    if not edge.at_most_once or closed_cleanly:
        return mark
    # What a volatile target took since the journal's mark is not known: nothing goes twice.
    if source_volatile or not exact:
        return max(mark, state_end if source_volatile else seen)
    return max(mark, (accepted_sequence, INDEX_MAX))


def encode_sends(outputs: Iterable[Output]) -> bytes:
    """Return what waits for kernels as bytes: sequence, index, route, type, size, payload."""
    return b"".join(
        _HEAD.pack(one.sequence, one.index, one.route, one.type, len(one.payload)) + one.payload
        for one in outputs
    )


def decode_sends(data: memoryview) -> tuple[Output, ...]:
    """Return what ``encode_sends`` wrote; raises ``CorruptError``."""
    outputs, at = [], 0
    while at < len(data):
        if at + _HEAD.size > len(data):
            raise CorruptError("what waits for kernels ends too early; restore the checkpoint")
        sequence, index, route, type_id, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if at + size > len(data):
            raise CorruptError("what waits for kernels ends too early; restore the checkpoint")
        flags = OutputFlag.ROUTED | route << ROUTE_SHIFT
        outputs.append(Output(sequence, index, type_id, flags, bytes(data[at : at + size])))
        at += size
    return tuple(outputs)
