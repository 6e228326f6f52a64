"""The comparison sees a single bit, a lost reply and an extra one."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

from ringflow.demo.compare import differences, relative_error
from ringflow.demo.story import Ending


def ending(**changes: Any) -> Ending:
    """Return a run of three messages."""
    regions = {"height": np.array([1.0, -0.0, 2.0], np.float32), "n": np.array([7], np.uint32)}
    replies = {(sequence, 0): bytes([sequence]) for sequence in (1, 2, 3)}
    plain = Ending(last_number=3, regions=regions, replies=replies, absorb_at=2)
    return attrs.evolve(plain, **changes)


def test_equal_runs_have_no_differences() -> None:
    """Equal copies are equal."""
    assert differences(ending(), ending()) == []


def test_one_bit_of_a_region_is_seen() -> None:
    """Even minus zero against zero, which compare as equal numbers."""
    other = dict(ending().regions)
    other["height"] = np.array([1.0, 0.0, 2.0], np.float32)
    assert differences(ending(), ending(regions=other)) == ["region height: 1 of 3 values differ"]


@pytest.mark.parametrize("shape", [(4,), (3, 1)])
def test_other_shapes_and_missing_regions_are_seen(shape: tuple[int, ...]) -> None:
    """A region that was not restored at all is named."""
    other = dict(ending().regions)
    other["height"] = np.zeros(shape, np.float32)
    del other["n"]
    lines = differences(ending(), ending(regions=other))
    assert [line.split(":")[0] for line in lines] == ["region n", "region height"]


def test_lost_doubled_and_changed_replies_are_seen() -> None:
    """In the eventful run each message has exactly one reply, with the quiet run's bytes."""
    replies = {(1, 0): b"\1", (1, 1): b"\1", (3, 0): b"\7"}
    lines = differences(ending(replies=replies), ending())
    assert lines[:2] == ["reply 1 to message 1: extra", "reply 0 to message 2: lost"]
    assert len(lines) == 5
    assert "03 in the quiet one" in lines[-1]


def test_relative_error_is_over_the_largest_value_and_never_hides_nan() -> None:
    """NaN must not pass as a small error."""
    ours, theirs = np.array([1.0, 2.0], np.float32), np.array([1.0, 4.0], np.float32)
    assert relative_error(ours, theirs) == 0.5
    assert relative_error(np.array([np.nan], np.float32), np.array([1], np.float32)) == float("inf")
