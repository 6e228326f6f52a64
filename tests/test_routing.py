"""Routes as values: the fold of their events, circles, marks after a restart, stored sends."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringflow.device.abi import ROUTE_SHIFT, OutputFlag
from ringflow.device.pump import Output
from ringflow.engine.outputs import Outputs
from ringflow.engine.state import EngineState
from ringflow.engine.state_codec import decode_state, encode_state
from ringflow.errors import CorruptError, RouteError, SpecError
from ringflow.events import routing as e
from ringflow.routing import (
    INDEX_MAX,
    Edge,
    OutputId,
    Routing,
    check_reload,
    decode_sends,
    encode_sends,
    number_of,
    restart_mark,
)
from ringflow.spec import Route
from ringflow.spec_codec import decode_spec, encode_spec
from tests.engine.kernels import Add, Hop, relay


def _connected(source: str, target: str, number: int = 0) -> e.RouteConnected:
    return e.RouteConnected(
        source=source,
        route=f"r{number}",
        number=number,
        target=target,
        after_sequence=5,
        after_index=0,
        at_most_once=False,
        actor="",
        reason="",
    )


def _disconnected(source: str, target: str) -> e.RouteDisconnected:
    return e.RouteDisconnected(
        source=source,
        route="r0",
        number=0,
        target=target,
        dropped_count=0,
        actor="",
        reason="",
    )


def _taken(target: str, through: OutputId) -> e.RouteTaken:
    return e.RouteTaken(
        source="a",
        number=0,
        target=target,
        sequences=(through[0],),
        indexes=(through[1],),
        through_sequence=through[0],
        through_index=through[1],
    )


def _sent(sequence: int, index: int = 0, *, route: int = 0, payload: bytes = b"x") -> Output:
    return Output(sequence, index, 1, OutputFlag.ROUTED | route << ROUTE_SHIFT, payload)


def test_the_fold_does_not_depend_on_which_stream_was_durable_first() -> None:
    """Records of the target's messages may come after those of the route's connection."""
    marks = (_taken("b", (6, 0)), _taken("b", (7, 1)))
    outcomes = set()
    for order in itertools.permutations(range(3)):
        routing = Routing()
        routing.apply(_connected("a", "b"))
        for index in order:
            routing.apply([*marks, _taken("c", (99, 0))][index])
        outcomes.add(routing.edges["a", 0].mark)
    assert outcomes == {(7, 1)}
    routing.apply(_disconnected("a", "b"))
    routing.apply(marks[0])
    assert not routing.edges


@pytest.mark.parametrize(
    ("edges", "on_cycle"),
    [
        (["ab"], ""),
        (["aa"], "aa"),
        (["ab", "ba"], "ab ba"),
        (["ab", "bc", "ca", "cd", "xa"], "ab bc ca"),
        (["ab", "bc", "cd"], ""),
        (["ab", "bc", "cb"], "bc cb"),
    ],
)
def test_a_connection_is_on_a_circle_if_its_source_can_be_reached(
    edges: list[str], on_cycle: str
) -> None:
    """Only those have the wider bound; one that leads into a circle is not on it."""
    routing = Routing()
    for number, edge in enumerate(edges):
        routing.apply(_connected(edge[0], edge[1], number))
    found = [one.source + one.target for one in routing.edges.values() if routing.is_on_cycle(one)]
    assert found == on_cycle.split()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (30, 2)),
        ({"source_volatile": True}, (20, INDEX_MAX)),
        ({"at_most_once": True}, (40, INDEX_MAX)),
        ({"at_most_once": True, "closed_cleanly": True}, (30, 2)),
        ({"at_most_once": True, "exact": False}, (30, 2)),
        ({"at_most_once": True, "exact": False, "mark": (10, 0)}, (20, 3)),
        ({"at_most_once": True, "source_volatile": True, "mark": (10, 0)}, (20, INDEX_MAX)),
        ({"mark": (10, 0)}, (10, 0)),
    ],
)
def test_the_mark_after_a_restart(changes: dict[str, Any], expected: OutputId) -> None:
    """A durable target's is the journal's; of a volatile one nothing may go twice."""
    options: dict[str, Any] = {"mark": (30, 2), "at_most_once": False} | changes
    edge = Edge(
        source="a",
        route="r",
        number=0,
        target="b",
        at_most_once=options.pop("at_most_once"),
        mark=options.pop("mark"),
    )
    facts: dict[str, Any] = {"exact": True, "source_volatile": False, "closed_cleanly": False}
    found = restart_mark(
        edge,
        state_end=(20, INDEX_MAX),
        seen=(20, 3),
        accepted_sequence=40,
        **(facts | options),
    )
    assert found == expected


@given(
    st.lists(
        st.builds(
            _sent,
            st.integers(0, 2**64 - 1),
            st.integers(0, INDEX_MAX),
            route=st.integers(0, 255),
            payload=st.binary(max_size=40),
        ),
        max_size=5,
    )
)
def test_stored_sends_come_back_with_their_routes(outputs: list[Output]) -> None:
    """They are part of a checkpoint file."""
    assert decode_sends(memoryview(encode_sends(outputs))) == tuple(outputs)


def test_stored_sends_that_were_cut_are_refused() -> None:
    """Every cut but those between two sends is damage."""
    data = encode_sends([_sent(1), _sent(2)])
    for end in set(range(1, len(data))) - {len(data) // 2}:
        with pytest.raises(CorruptError):
            decode_sends(memoryview(data)[:end])


def test_routes_survive_in_the_encoded_state() -> None:
    """An archive's base record and a snapshot of the state keep the connections."""
    state = EngineState()
    state.apply(_connected("a", "b"))
    state.apply(_connected("a", "c", 1))
    state.apply(_taken("b", (8, 1)))
    assert decode_state(encode_state(state)) == state


def test_sends_go_to_their_route_and_stay_until_they_are_taken() -> None:
    """They are no reader's, they fill the outputs, and they are in the outbox."""
    outputs = Outputs(bound=3)
    reader = outputs.add_consumer("reader", (0, 0))
    outputs.connect(0, (1, 0))
    outputs.take([_sent(1), _sent(2), _sent(3, route=1), _sent(3, 1, route=1), _sent(4)])
    assert reader.take() is None
    queue = outputs.routes[0]
    assert queue.peek(9) == [_sent(2), _sent(4)]
    queue.skip(2)
    assert (queue.unread_count, outputs.is_full) == (0, False)
    assert outputs.unacknowledged(3) == (_sent(2),)
    outputs.take([_sent(5)])
    assert outputs.is_full
    queue.acknowledge((4, 0))
    assert (queue.unread_count, outputs.unacknowledged(9)) == (1, (_sent(5),))
    assert outputs.dropped[1] == 2
    assert outputs.take_unconnected() == [_sent(3, route=1)]
    assert outputs.take_unconnected() == []


def test_a_spec_keeps_its_routes_and_their_messages() -> None:
    """As stored; one that is declared twice is refused, and so is a second struct of a name."""
    spec = relay("a", routes=["next", Route("typed", messages=[Hop])], messages=[Add])
    again = decode_spec(encode_spec(spec))
    assert again.routes == spec.routes
    assert [layout.name for layout in again.struct_layouts] == ["Add", "Hop"]
    assert number_of(again, "typed") == 1
    with pytest.raises(RouteError, match="there are: next, typed"):
        number_of(again, "other")
    with pytest.raises(SpecError, match="route 'next' is declared twice"):
        relay("a", routes=["next", "next"])
    other = attrs.evolve(spec.messages[0], id=77)
    with pytest.raises(SpecError, match="message name 'Add' is declared twice"):
        relay("a", routes=[Route("next", messages=[other])])


def test_a_reload_only_adds_routes() -> None:
    """Numbers are in stored outputs: none may come to mean another route."""
    old = relay("a", routes=["next", "typed"])
    check_reload(old, relay("a", routes=["next", "typed", "more"]))
    for routes in (["next"], ["typed", "next"], ["more", "next", "typed"]):
        with pytest.raises(RouteError, match="must keep its place"):
            check_reload(old, relay("a", routes=routes))
