"""Messages that follow each other, as one ``send`` with a count: equal, or counting up. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

_WHOLE: Final = ("bytes", "data")
"""Options that never count up."""
_NUMBER: Final = "number"


def is_run(lines: Sequence[str]) -> bool:
    """Whether one command can send what these send one after the other, each one of them."""
    steps = [_counting(one, other) for one, other in pairwise(lines)]
    return None not in steps and len({step for step in steps if step is not None}) <= 1


def as_one(lines: Sequence[str]) -> str:
    """Return the command for a run of them: ``send a Add value=7.. number=3 count=5``."""
    if len(lines) == 1:
        return lines[0]
    counting = _counting(lines[0], lines[1]) or frozenset()
    said = [
        f"{word}.." if word.partition("=")[0] in counting - {_NUMBER} else word
        for word in lines[0].split(" ")
    ]
    return " ".join([*said, f"count={len(lines)}"])


def _counting(line: str, other: str) -> frozenset[str] | None:
    """Return the keys whose numbers are one more in the other line; None if more differs.

    A producer's number counts up by itself, so it must.
    """
    words, others = line.split(" "), other.split(" ")
    if len(words) != len(others):
        return None
    counting = set()
    for word, following in zip(words, others, strict=True):
        key, _, value = word.partition("=")
        known, _, next_value = following.partition("=")
        if word == following and key != _NUMBER:
            continue
        numbers = value.isdecimal() and next_value.isdecimal()
        if key != known or key in _WHOLE or not numbers or int(next_value) != int(value) + 1:
            return None
        counting.add(key)
    return frozenset(counting)
