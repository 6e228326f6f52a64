"""The functions that are made for each event type: the same bytes and events as the general way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringflow.errors import RingflowError
from ringflow.events.codec import Event, EventCodec
from ringflow.events.generated import reader_of, writer_of
from ringflow.events.messages import MessagesAccepted
from ringflow.events.registry import EVENT_TYPES, default_codec
from ringflow.events.values import canonical_json
from tests.events.samples import event_fields, events_of, sample

CODEC = default_codec()


def general(codec: EventCodec) -> EventCodec:
    """Return ``codec`` without the functions that were made for its types."""
    codec._writers = dict.fromkeys(codec.types, codec.to_plain)
    codec._readers = {kind.wire_name: lambda _: None for kind in codec.types}
    return codec


GENERAL = general(default_codec())


@attrs.frozen(kw_only=True)
class Measured:
    wire_name: ClassVar[str] = "measured.v1"
    ratio: float
    flags: tuple[bool, ...]
    ratios: tuple[float, ...]
    texts: tuple[str, ...]


@given(st.data())
def test_both_ways_lead_to_equal_bytes_and_events(data: st.DataObject) -> None:
    """For any value of any event type, those that only the general way takes among them."""
    event = data.draw(events_of(data.draw(st.sampled_from(EVENT_TYPES))))
    written = CODEC.encode([event])
    assert written == GENERAL.encode([event])
    (plain,) = orjson.loads(written)
    assert CODEC.from_plain(plain) == GENERAL.from_plain(plain) == event


@given(st.floats(), st.lists(st.floats()), st.lists(st.booleans()), st.lists(st.text()))
def test_floats_have_one_form(
    ratio: float, ratios: list[float], flags: list[bool], texts: list[str]
) -> None:
    """No event of today holds one; NaN and the infinities go the general way."""
    event = Measured(ratio=ratio, ratios=tuple(ratios), flags=tuple(flags), texts=tuple(texts))
    codec = EventCodec((Measured,))
    written = codec.encode([event])
    assert written == general(EventCodec((Measured,))).encode([event])
    (again,) = codec.decode(written)
    assert repr(again) == repr(event)


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.wire_name)
def test_usual_values_of_every_type_take_the_quick_way(kind: type[Event]) -> None:
    """Otherwise a type would be slow and nobody would see it."""
    write, read = writer_of(kind), reader_of(kind)
    assert write is not None
    assert read is not None
    event = sample(kind)
    plain = write(event)
    assert plain is not None
    assert canonical_json([plain]) == GENERAL.encode([event])
    assert read(orjson.loads(canonical_json(plain))) == event


WRONG: tuple[Any, ...] = (None, True, 1, 1.5, -1, 2**60, "x", "AA==", "AA==\n", b"x", (), [], {})
WRONG += ((True,), (None,), [1, True], ["a", 1], {"a": 1}, {1: "a"})


def _outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except RingflowError as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.wire_name)
def test_what_is_refused_on_writing_is_refused_likewise(kind: type[Event]) -> None:
    """A value of another type, of a field or of an item within one."""
    for name in event_fields(kind):
        for value in WRONG:
            event = sample(kind)
            object.__setattr__(event, name, value)  # past the checks of the construction
            outcome = _outcome(partial(CODEC.encode, [event]))
            assert outcome == _outcome(partial(GENERAL.encode, [event])), (name, value)


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.wire_name)
def test_what_is_refused_on_reading_is_refused_likewise(kind: type[Event]) -> None:
    """A changed, missing or added member gives the same event, or the same error."""
    plain = CODEC.to_plain(sample(kind))
    changed = [{**plain, name: value} for name in plain for value in WRONG]
    changed += [{key: plain[key] for key in plain if key != name} for name in plain]
    changed += [{**plain, "codec": "x"}, {**plain, "more": 1}]
    for one in changed:
        outcome = _outcome(partial(CODEC.from_plain, one))
        assert outcome == _outcome(partial(GENERAL.from_plain, one)), one


def test_an_event_shares_nothing_with_the_object_that_it_was_read_from() -> None:
    """Whoever changes the plain object later must not change the event."""
    for kind in EVENT_TYPES:
        plain = orjson.loads(canonical_json(CODEC.to_plain(sample(kind))))
        event = CODEC.from_plain(plain)
        for value in plain.values():
            if isinstance(value, (dict, list)):
                value.clear()
        assert event == sample(kind)


def test_members_are_in_canonical_order() -> None:
    """Code points, ``type`` among the fields: what sorts in the encoder finds nothing to do."""
    write = writer_of(MessagesAccepted)
    assert write is not None
    plain = write(sample(MessagesAccepted))
    assert plain is not None
    assert list(plain) == sorted(plain)
    assert "type" in plain
