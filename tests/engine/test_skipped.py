"""Ranges of skipped messages, against a set of numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ringflow.engine.skipped import Ranges, cut_after, end_after, is_in, joined

pairs = st.tuples(st.integers(1, 30), st.integers(0, 6)).map(lambda one: (one[0], sum(one)))


@given(st.lists(pairs), st.integers(0, 40))
def test_ranges_agree_with_a_set(given_pairs: list[tuple[int, int]], cut: int) -> None:
    """However they overlap and touch, they hold what was put in, in as few ranges as possible."""
    ranges: Ranges = ()
    model: set[int] = set()
    for first, last in given_pairs:
        ranges = joined(ranges, first, last)
        model |= set(range(first, last + 1))
    assert {n for n in range(50) if is_in(ranges, n)} == model
    assert {n for n in range(50) if is_in(cut_after(ranges, cut), n)} == {
        n for n in model if n <= cut
    }
    for (_, end), (start, _) in pairwise(ranges):
        assert start > end + 1
    for n in range(45):
        end = end_after(ranges, n)
        assert end >= n
        assert set(range(n + 1, end + 1)) <= model
        assert end + 1 not in model
