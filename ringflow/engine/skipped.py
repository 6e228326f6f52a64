"""Which of a kernel's messages are never applied: ranges that a person decided to skip.

- Ranges are (first, last), both inclusive, ascending, neither overlapping nor touching.
"""

from __future__ import annotations

from bisect import bisect_right

Ranges = tuple[tuple[int, int], ...]


def joined(ranges: Ranges, first: int, last: int) -> Ranges:
    """Return the ranges with (first, last) added."""
    before = tuple(one for one in ranges if one[1] < first - 1)
    after = tuple(one for one in ranges if one[0] > last + 1)
    for low, high in ranges[len(before) : len(ranges) - len(after)]:
        first, last = min(first, low), max(last, high)
    return (*before, (first, last), *after)


def is_in(ranges: Ranges, sequence: int) -> bool:
    return end_after(ranges, sequence - 1) >= sequence


def end_after(ranges: Ranges, sequence: int) -> int:
    """Return the last of the skipped messages right after ``sequence``; itself without any."""
    at = bisect_right(ranges, (sequence + 1, sequence + 1 << 64)) - 1
    if at >= 0 and ranges[at][0] <= sequence + 1 <= ranges[at][1]:
        return ranges[at][1]
    return sequence


def cut_after(ranges: Ranges, sequence: int) -> Ranges:
    """Return what the ranges hold up to ``sequence``."""
    return tuple((low, min(high, sequence)) for low, high in ranges if low <= sequence)
