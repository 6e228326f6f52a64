"""The codec: canonical, exact, and refusing what it does not know."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringflow.errors import EventFormatError, UnknownEventError, UsageError
from ringflow.events.codec import EventCodec
from ringflow.events.upcasters import Upcaster
from ringflow.events.values import canonical_json


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen(kw_only=True)
class Part:
    name: str
    data: bytes


@attrs.frozen(kw_only=True)
class Everything:
    wire_name: ClassVar[str] = "everything.v2"
    text: str
    count: int
    ratio: float
    flag: bool
    data: bytes
    words: tuple[str, ...]
    parts: tuple[Part, ...]
    colour: Colour
    labels: Mapping[str, str]
    maybe: int | None = None
    maybe_part: Part | None = None


@attrs.frozen(kw_only=True)
class Empty:
    wire_name: ClassVar[str] = "empty.v1"


CODEC = EventCodec((Everything, Empty))
SAMPLE = Everything(
    text="ä",
    count=1,
    ratio=0.5,
    flag=True,
    data=b"\x00\xff",
    words=("a", "b"),
    parts=(Part(name="p", data=b"q"),),
    colour=Colour.BLUE,
    labels={"k": "v"},
    maybe=3,
    maybe_part=Part(name="m", data=b""),
)
parts = st.builds(Part, name=st.text(), data=st.binary())
everything = st.builds(
    Everything,
    text=st.text(),
    count=st.integers(),
    ratio=st.floats(allow_nan=False),
    flag=st.booleans(),
    data=st.binary(),
    words=st.lists(st.text()).map(tuple),
    parts=st.lists(parts).map(tuple),
    colour=st.sampled_from(Colour),
    labels=st.dictionaries(st.text(), st.text()),
    maybe=st.none() | st.integers(),
    maybe_part=st.none() | parts,
)


@given(everything)
def test_every_event_comes_back_equal_and_with_equal_bytes(event: Everything) -> None:
    """Writing, reading and writing again gives the same event and the same bytes."""
    data = CODEC.encode([event, Empty()])
    again = CODEC.decode(data)
    assert again == (event, Empty())
    assert CODEC.encode(again) == data


def test_the_bytes_of_an_event_never_change() -> None:
    """The wire form is pinned: old journals must stay readable."""
    assert CODEC.encode([SAMPLE]).decode() == (
        '[{"colour":"blue","count":1,"data":"AP8=","flag":true,"labels":{"k":"v"},"maybe":3,'
        '"maybe_part":{"data":"","name":"m"},"parts":[{"data":"cQ==","name":"p"}],"ratio":0.5,'
        '"text":"ä","type":"everything.v2","words":["a","b"]}]'
    )


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**64, 1_700_000_000_000_000_000])
def test_integers_beyond_two_to_the_53_are_strings(value: int) -> None:
    """Readers such as jq would round them."""
    plain = CODEC.to_plain(attrs.evolve(SAMPLE, count=value))
    assert plain["count"] == str(value)
    assert CODEC.from_plain(plain) == attrs.evolve(SAMPLE, count=value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_special_floats_are_explicit(value: float) -> None:
    """JSON has no NaN; null would be a silent loss."""
    plain = CODEC.to_plain(attrs.evolve(SAMPLE, ratio=value))
    assert plain["ratio"] in {"NaN", "Infinity", "-Infinity"}
    event = CODEC.from_plain(plain)
    assert isinstance(event, Everything)
    assert repr(event.ratio) == repr(value)


WRONG: list[tuple[str, Any]] = [
    ("count", 1.0),
    ("count", True),
    ("count", "1"),
    ("count", "01"),
    ("count", 2**53 + 1),
    ("count", None),
    ("ratio", 1),
    ("ratio", "nan"),
    ("flag", 1),
    ("text", 5),
    ("data", "AP8"),
    ("data", "AP8=\n"),
    ("data", [0]),
    ("words", "ab"),
    ("words", ["a", 1]),
    ("parts", [{"name": "p"}]),
    ("parts", [{"name": "p", "data": "", "more": 1}]),
    ("colour", "green"),
    ("labels", {"k": 1}),
    ("labels", ["k"]),
    ("maybe", 1.5),
    ("unknown", 1),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_nothing_is_coerced_on_reading(field: str, value: object) -> None:
    """A value of another type or an unknown field is refused and named by its event."""
    plain = CODEC.to_plain(SAMPLE)
    plain[field] = value
    with pytest.raises(EventFormatError, match=r"everything\.v2"):
        CODEC.from_plain(plain)


@pytest.mark.parametrize("field", ["text", "count", "labels"])
def test_a_missing_field_is_refused(field: str) -> None:
    """Fields without a default must be there."""
    plain = CODEC.to_plain(SAMPLE)
    del plain[field]
    with pytest.raises(EventFormatError, match=field):
        CODEC.from_plain(plain)


@pytest.mark.parametrize(
    ("field", "value"),
    [("count", 1.0), ("count", True), ("text", b"x"), ("flag", 1), ("data", "x"), ("words", "ab")],
)
def test_an_event_that_could_not_be_read_is_not_written(field: str, value: object) -> None:
    """Wrong values are refused before they reach the disk."""
    changes: dict[str, Any] = {field: value}
    with pytest.raises(UsageError):
        CODEC.encode([attrs.evolve(SAMPLE, **changes)])


def test_a_lone_surrogate_is_not_written() -> None:
    """Text that has no UTF-8 form is refused with the project's own error."""
    with pytest.raises(UsageError):
        CODEC.encode([attrs.evolve(SAMPLE, text="\ud800")])


def test_an_int_in_a_float_field_is_written_as_a_float() -> None:
    """``0`` is a usual way to write ``0.0``; it must be readable afterwards."""
    data = CODEC.encode([attrs.evolve(SAMPLE, ratio=2)])
    assert b'"ratio":2.0' in data
    assert CODEC.decode(data) == (attrs.evolve(SAMPLE, ratio=2.0),)


def test_unknown_types_are_refused_on_both_ways() -> None:
    """A type outside the list is neither written nor guessed."""
    with pytest.raises(UnknownEventError, match=r"nothing\.v1"):
        CODEC.decode(b'[{"type":"nothing.v1"}]')
    with pytest.raises(EventFormatError):
        CODEC.decode(b"[{}]")
    with pytest.raises(UsageError, match="not among"):
        EventCodec((Empty,)).encode([SAMPLE])


def test_wire_names_are_unique_and_fields_never_named_type() -> None:
    """Two classes under one name, or a field over the tag, would lose data."""

    @attrs.frozen
    class Twin:
        wire_name: ClassVar[str] = "empty.v1"

    @attrs.frozen
    class Typed:
        wire_name: ClassVar[str] = "typed.v1"
        type: str

    with pytest.raises(UsageError, match=r"empty\.v1"):
        EventCodec((Empty, Twin))
    with pytest.raises(UsageError, match="type"):
        EventCodec((Typed,))


def test_upcasters_are_chained_to_the_newest_shape() -> None:
    """A v0 event passes v1 on its way to v2."""
    upcasters = {
        "everything.v0": Upcaster("everything.v1", lambda old: {**old, "count": old["n"]}),
        "everything.v1": Upcaster(
            "everything.v2", lambda old: {key: old[key] for key in old if key != "n"}
        ),
    }
    codec = EventCodec((Everything,), upcasters)
    plain = codec.to_plain(SAMPLE)
    plain["type"] = "everything.v0"
    plain["n"] = plain.pop("count")
    assert codec.decode(canonical_json([plain])) == (SAMPLE,)


@pytest.mark.parametrize(
    "table",
    [
        {"a": Upcaster("b", dict), "b": Upcaster("a", dict)},
        {"a": Upcaster("nowhere", dict)},
        {"empty.v1": Upcaster("everything.v2", dict)},
    ],
)
def test_broken_upcaster_tables_are_refused(table: dict[str, Upcaster]) -> None:
    """Loops, dead ends and upcasters of current events are found when the codec is made."""
    with pytest.raises(UsageError):
        EventCodec((Everything, Empty), table)
