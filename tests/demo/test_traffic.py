"""The gaps that the demo reports."""

from __future__ import annotations

import pytest

from ringflow.demo.traffic import Timeline, longest_gap_ns


@pytest.mark.parametrize(
    ("start_ns", "end_ns", "gap_ns"),
    [
        (0, 5, 10),  # before everything: the first gap touches it
        (12, 13, 2),  # inside one gap
        (12, 31, 20),  # touches the long one
        (52, 60, 5),  # the last
        (70, 80, 0),  # after everything
    ],
)
def test_longest_gap_touches_the_operation(start_ns: int, end_ns: int, gap_ns: int) -> None:
    """A gap counts if any part of it lies in the operation."""
    times_ns = [0, 10, 12, 14, 34, 50, 55]
    assert longest_gap_ns(times_ns, start_ns, end_ns) == gap_ns


def test_no_traffic_has_no_gap() -> None:
    """One message alone has no neighbour."""
    assert Timeline([5], []).timing(0, 10).producer_gap_ms == 0
