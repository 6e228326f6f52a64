"""What will happen in a simulation, and in which order: by virtual time, then rank, then number.

- The time stands still but for ``take`` and ``pass_to``; it never goes back.
- Ranks come from the seed: what is due at the same time happens in an order of the seed's.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Final, final

import attrs

LATENCIES: Final = 10  # a piece of work takes 1 << 0...9 microseconds


@final
@attrs.define(eq=False)
class Item:
    """Something due: ``call`` is called then, unless it was cancelled before.

    Attributes:
        is_time: it waits for a time only; what is settled may leave it waiting.
    """

    due_ns: int
    what: str
    call: Callable[[], object]
    is_time: bool
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@final
class Agenda:
    """Items in their order, and the virtual time in nanoseconds since the world began."""

    def __init__(self) -> None:
        self._begin(Random(0), 0)

    def _begin(self, random: Random, now_ns: int) -> None:
        self.now_ns = now_ns
        self._random = random
        self._numbers = 0
        self._items: list[tuple[int, float, int, Item]] = []

    def renew(self, random: Random, *, now_ns: int) -> None:
        """Drop everything, as a new process does; ranks come from ``random`` from now on."""
        self._begin(random, now_ns)

    def add(
        self,
        due_ns: int,
        what: str,
        call: Callable[[], object],
        *,
        is_time: bool = False,
        first: bool = False,
    ) -> Item:
        """Note that ``call`` is due at a time, or at once if that is over.

        Args:
            first: before all else that is due then.
        """
        item = Item(max(due_ns, self.now_ns), what, call, is_time)
        self._numbers += 1
        rank = -1.0 if first else self._random.random()
        heapq.heappush(self._items, (item.due_ns, rank, self._numbers, item))
        return item

    @property
    def longest_latency_ns(self) -> int:
        return 1_000 << LATENCIES - 1

    def latency_ns(self) -> int:
        """Return how long a piece of work takes: 1 us or some power of two more."""
        return 1_000 << self._random.randrange(LATENCIES)

    def next(self) -> Item | None:
        """Return the next item, which stays."""
        while self._items and self._items[0][3].cancelled:
            heapq.heappop(self._items)
        return self._items[0][3] if self._items else None

    def has_work(self) -> bool:
        """Return whether anything but times is waited for."""
        return any(not (item.is_time or item.cancelled) for _, _, _, item in self._items)

    def take(self) -> Item | None:
        """Remove and return the next item; its time is now."""
        if (item := self.next()) is not None:
            heapq.heappop(self._items)
            self.now_ns = item.due_ns
        return item

    def pass_to(self, now_ns: int) -> None:
        """Let time pass in which nothing is due."""
        following = self.next()
        assert following is None or following.due_ns >= now_ns
        self.now_ns = max(self.now_ns, now_ns)
