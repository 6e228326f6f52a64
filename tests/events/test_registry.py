"""All event types of this version: unique names, and each round-trips."""

from __future__ import annotations

import enum
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from ringflow.events.codec import Event
from ringflow.events.registry import EVENT_TYPES, default_codec


def sample(kind: Any) -> Any:
    """Return a value of a field's type that a lossy codec would not bring back."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return (sample(arguments[0]), sample(arguments[0]))
    if origin is Mapping:
        return {"a": "b"}
    if origin in (typing.Union, types.UnionType):
        return sample(next(one for one in arguments if one is not type(None)))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return list(kind)[-1]
    if attrs.has(kind):
        return filled(kind)
    return {str: "ä\n", int: 2**60 + 1, float: 0.1, bool: True, bytes: b"\x00\xff"}[kind]


def filled(kind: type[Any]) -> Any:
    hints = typing.get_type_hints(kind)
    return kind(**{field.name: sample(hints[field.name]) for field in attrs.fields(kind)})


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.wire_name)
def test_every_event_round_trips(kind: type[Event]) -> None:
    """Each type of the registry is written and read without a change."""
    codec = default_codec()
    event = filled(kind)
    data = codec.encode([event])
    assert codec.decode(data) == (event,)
    assert codec.encode(codec.decode(data)) == data


def test_wire_names_are_unique_versioned_and_lower_case() -> None:
    """``machine.what_happened.v1``: the name on disk never depends on a class's name."""
    names = [kind.wire_name for kind in EVENT_TYPES]
    assert len(set(names)) == len(names) > 20
    for name in names:
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+\.v[1-9][0-9]*", name)
