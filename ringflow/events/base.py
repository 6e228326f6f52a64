"""What every event type is made with: frozen, keyword-only, checked on construction."""

from __future__ import annotations

from typing import Any, Final, TypeVar, dataclass_transform

import attrs

from ringflow.errors import UsageError

T = TypeVar("T")
_PLAIN: Final = {"str": str, "int": int, "bool": bool, "bytes": bytes, "float": float}


def _check(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    kind = _PLAIN[str(attribute.type)]
    if type(value) is not kind:
        raise UsageError(
            f"{type(instance).__name__}.{attribute.name} must be {attribute.type}, got {value!r}"
        )
    if kind is int and value < 0:  # type: ignore[operator]
        raise UsageError(f"{type(instance).__name__}.{attribute.name} is negative: {value}")


def _checked(cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    return [
        field.evolve(validator=_check) if str(field.type) in _PLAIN else field for field in fields
    ]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def event(cls: type[T]) -> type[T]:
    """Make ``cls`` an event type; ints are counts, sizes or times and never negative."""
    return attrs.frozen(cls, kw_only=True, field_transformer=_checked)
