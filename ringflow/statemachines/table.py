"""What all machines share: a table of transitions, and what a restart does in each state.

- A table has a row for every state; terminal states have an empty one.
- Every state that is not terminal has a restart rule; nothing resumes midway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from ringflow.errors import IllegalTransitionError

S = TypeVar("S", bound=Enum)

Table = Mapping[S, Mapping[type[Any], S]]


class RestartRule(Enum):
    """What a new engine does with an operation that was in some state when its engine ended."""

    ROLL_BACK = "roll back: the kernel is placed as before the operation"
    COMPLETE = "complete: the kernel is placed as after the operation"
    ABANDON = "abandon: what was begun is deleted"
    KEEP = "keep: it stays as it is until a person decides"


def next_state(table: Table[S], state: S, event: object) -> S:
    """Return the state after ``event``; raises ``IllegalTransitionError`` and changes nothing."""
    try:
        return table[state][type(event)]
    except KeyError:
        name = getattr(type(event), "wire_name", type(event).__name__)
        raise IllegalTransitionError(state, name) from None


def is_terminal(table: Table[S], state: S) -> bool:
    return not table[state]


def table_digest(*tables: Mapping[Any, Mapping[type[Any], Any]]) -> str:
    """Return a SHA-256 (hex) over the rows of tables; it goes into the journal as information."""
    lines = sorted(
        f"{type(state).__name__}.{state.value} {event.wire_name} {target.value}"
        for table in tables
        for state, row in table.items()
        for event, target in row.items()
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
