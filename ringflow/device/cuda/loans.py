"""Loans: memory of a device that other libraries read, kept from other uses until they are done.

- A loan ends when its object goes, in whatever thread and at whatever moment that is: then a note
  is left, and nothing else is done that could wait.
- Memory that was freed meanwhile is given back at the device's next call, or when it is closed.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import final


@final
class Loan:
    """Memory stays what it is for as long as this lives."""

    __slots__ = ("__weakref__",)


@final
class Loans:
    """What a device has lent, by address."""

    def __init__(self, settle: Callable[[int], None]) -> None:
        """``settle`` takes memory back that was freed while it was lent."""
        self._settle = settle
        self._lock = threading.Lock()
        self._lent: Counter[int] = Counter()
        self._freed: set[int] = set()
        self._returned: deque[int] = deque()
        self._at_last: deque[Callable[[], None]] = deque()

    def lend(self, address: int) -> Loan:
        """Return what keeps the memory at an address."""
        loan = Loan()
        weakref.finalize(loan, self.keep(address)).atexit = False
        return loan

    def keep(self, address: int) -> Callable[[], None]:
        """Keep the memory at an address until what is returned is called, once."""
        with self._lock:
            self._lent[address] += 1
        return partial(self._note, address)

    @contextmanager
    def freeing(self, address: int) -> Iterator[bool]:
        """Say whether memory that is freed in the block is lent; then it is settled later."""
        self.collect()
        with self._lock:
            is_lent = self._lent[address] > 0
            yield is_lent
            if is_lent:
                self._freed.add(address)

    def collect(self) -> None:
        """Take back what has been returned."""
        settled = []
        with self._lock:
            while self._returned:
                address = self._returned.popleft()
                self._lent[address] -= 1
                if not self._lent[address]:
                    del self._lent[address]
                    if address in self._freed:
                        self._freed.remove(address)
                        settled.append(address)
        for address in settled:
            self._settle(address)

    def after_all(self, work: Callable[[], None]) -> None:
        """Do ``work`` once nothing is lent any more; now, if nothing is. Nothing is lent after."""
        self.collect()
        self._at_last.append(work)
        self._finish()

    def _note(self, address: int) -> None:
        self._returned.append(address)
        self._finish()

    def _finish(self) -> None:
        """Do the last work, once; no lock is taken, since one may be this very thread's."""
        if self._at_last and len(self._returned) >= self._lent.total():
            try:
                work = self._at_last.pop()
            except IndexError:  # another thread was quicker
                return
            work()
