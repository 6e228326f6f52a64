"""The gaps that the demo reports."""

from __future__ import annotations

import pytest

from ringflow.demo.traffic import Timeline, longest_gap_ms


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "gap_ms"),
    [
        (0, 5, 10),  # the first gap touches it
        (11, 11, 2),  # inside one gap
        (13, 31, 20),  # touches the long one
        (51, 55, 5),  # the last
        (-1, 5, None),  # nothing was seen before it
        (52, 60, None),  # nor after it
    ],
)
def test_longest_gap_touches_the_operation(
    start_ms: int, end_ms: int, gap_ms: float | None
) -> None:
    """A gap counts if any part of it lies in the operation."""
    times_ns = [time_ms * 1_000_000 for time_ms in (0, 10, 12, 14, 34, 50, 55)]
    assert longest_gap_ms(times_ns, start_ms * 1_000_000, end_ms * 1_000_000) == gap_ms


def test_no_traffic_has_no_gap() -> None:
    """A resumed demo may have seen nothing yet."""
    assert Timeline([], [5]).timing(0, 10).reply_gap_ms is None
