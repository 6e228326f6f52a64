"""What every event type is made with: frozen, keyword-only, checked on construction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, dataclass_transform

import attrs

from ringflow.errors import UsageError
from ringflow.events.payloads import LeftOutPayload

T = TypeVar("T")
_PLAIN: Final = {"str": str, "int": int, "bool": bool, "bytes": bytes, "float": float}


def _check(kind: type) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if type(value) is kind and (type(value) is not int or value >= 0):
            return
        name = f"{type(instance).__name__}.{attribute.name}"
        if type(value) is not kind and not isinstance(value, LeftOutPayload):
            raise UsageError(f"{name} must be {kind.__name__}, got {value!r}")
        if isinstance(value, int) and value < 0:
            raise UsageError(f"{name} is negative: {value}")

    return check


def _checked(cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    return [
        field.evolve(validator=_check(_PLAIN[str(field.type)]))
        if str(field.type) in _PLAIN
        else field
        for field in fields
    ]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def event(cls: type[T]) -> type[T]:
    """Make ``cls`` an event type; ints are counts, sizes or times and never negative."""
    return attrs.frozen(cls, kw_only=True, field_transformer=_checked)
