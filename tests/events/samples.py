"""Events for tests: one plain sample of a type, or a strategy for all of its values."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

import attrs
from hypothesis import strategies as st

from ringflow.events.codec import Event

_PLAIN: Mapping[Any, Any] = {str: "x", int: 1, float: 0.5, bool: False, bytes: b"\x00"}


def event_fields(kind: type[Any]) -> dict[str, Any]:
    """Return the resolved type of each field, in declared order."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in attrs.fields(kind)}


def sample(kind: type[Any], **given: Any) -> Any:
    """Return an event of ``kind``: the ``given`` fields that it has, fixed values for the rest."""
    fields = event_fields(kind)
    values = {name: _fixed(hint) for name, hint in fields.items()}
    return kind(**values | {name: value for name, value in given.items() if name in fields})


def _fixed(hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return (_fixed(arguments[0]),)
    if origin is Mapping:
        return {"region": "digest"}
    return _PLAIN[hint]


def events_of(kind: type[Event]) -> st.SearchStrategy[Event]:
    """Return a strategy for every value that an event of ``kind`` may have."""
    fields = {name: _values(hint) for name, hint in event_fields(kind).items()}
    return st.builds(kind, **fields)


def _values(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return st.lists(_values(arguments[0]), max_size=4).map(tuple)
    if origin is Mapping:
        return st.dictionaries(_values(arguments[0]), _values(arguments[1]), max_size=4)
    simple: Mapping[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=20),
        int: st.integers(0, 2**80) | st.sampled_from([2**53, 2**53 + 1, 2**63, 2**64 - 1]),
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
        bytes: st.binary(max_size=40),
    }
    return simple[hint]
