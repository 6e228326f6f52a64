"""Upcasters bring the fields of an old event's shape to the next one's.

- Pure functions from plain JSON values to plain JSON values; they never look at a clock or a file.
- Chained: ``x.v1`` -> ``x.v2`` -> ``x.v3``; the table is keyed by the old wire name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from ringflow.errors import UsageError

Fields = Mapping[str, Any]


@attrs.frozen
class Upcaster:
    """One step: the wire name that it leads to and the change of the fields."""

    target: str
    change: Callable[[Fields], Fields]


UPCASTERS: Final[Mapping[str, Upcaster]] = {}


def check_upcasters(upcasters: Mapping[str, Upcaster], wire_names: frozenset[str]) -> None:
    """Raise ``UsageError`` unless every chain ends at one of ``wire_names`` without a loop."""
    for start in upcasters:
        if start in wire_names:
            raise UsageError(f"event {start!r} is current and has an upcaster; remove one of them")
        seen = {start}
        name = start
        while name in upcasters:
            name = upcasters[name].target
            if name in seen:
                raise UsageError(f"the upcasters of event {start!r} form a loop; break it")
            seen.add(name)
        if name not in wire_names:
            raise UsageError(
                f"the upcasters of event {start!r} end at the unknown {name!r}; add that event type"
            )


def upcast(upcasters: Mapping[str, Upcaster], wire_name: str, fields: Fields) -> tuple[str, Fields]:
    """Return the newest wire name that the table leads to, and the fields in its shape."""
    while (step := upcasters.get(wire_name)) is not None:
        wire_name, fields = step.target, step.change(fields)
    return wire_name, fields
