"""The events on disk: their names and shapes are frozen, and every value of them comes back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringflow.errors import UsageError
from ringflow.events.codec import Event
from ringflow.events.registry import EVENT_TYPES, default_codec
from tests.events.samples import event_fields, events_of, sample

FROZEN = Path(__file__).with_name("frozen_events.txt")
CODEC = default_codec()


def _shape(kind: type[Event]) -> str:
    fields = (
        f"{name}:{hint.__name__ if isinstance(hint, type) else hint}"
        for name, hint in event_fields(kind).items()
    )
    return " ".join([kind.wire_name, *fields]).replace("collections.abc.", "").replace(", ", ",")


def test_names_and_shapes_are_the_frozen_ones() -> None:
    """A journal outlives its writer: a changed shape is a new version with an upcaster.

    A new event gets a new line in the file; a line that was released never changes.
    """
    assert FROZEN.read_text().splitlines() == sorted(_shape(kind) for kind in EVENT_TYPES)


def test_the_registry_holds_every_event_class_of_its_modules() -> None:
    """An event class that is left out of its module's tuple could not be written."""
    modules = {kind.__module__ for kind in EVENT_TYPES}
    defined = {
        value
        for module in modules
        for value in vars(sys.modules[module]).values()
        if isinstance(value, type) and "wire_name" in vars(value) and value.__module__ == module
    }
    assert defined == set(EVENT_TYPES)


@given(st.data())
def test_every_value_of_every_event_comes_back(data: st.DataObject) -> None:
    """Written and read, an event is equal and has equal bytes."""
    kind = data.draw(st.sampled_from(EVENT_TYPES))
    event = data.draw(events_of(kind))
    written = CODEC.encode([event])
    assert CODEC.decode(written) == (event,)
    assert CODEC.encode(CODEC.decode(written)) == written


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.wire_name)
def test_an_event_of_wrong_values_cannot_be_made(kind: type[Event]) -> None:
    """Numbers are never negative, and no bool or float passes for one."""
    wrong = {int: (-1, True, 1.0, "1"), str: (1, b"x", None), bool: (1, 0, "no")}
    for name, hint in event_fields(kind).items():
        for value in wrong.get(hint, ()):
            with pytest.raises(UsageError, match=name):
                sample(kind, **{name: value})
