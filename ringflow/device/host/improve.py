"""Compiling in the background, so that a kernel starts at once and is fast soon.

- One thread, which lives as long as there is work; jobs are done in order.
- When the program ends, the job in progress is finished and the others are dropped.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

_lock: Final = threading.Lock()
_idle: Final = threading.Condition(_lock)
_jobs: Final[deque[Callable[[], None]]] = deque()
_working = False


def improve(job: Callable[[], None]) -> None:
    """Do ``job`` in the background; what it raises goes to ``threading.excepthook``."""
    global _working
    with _lock:
        _jobs.append(job)
        if _working:
            return
        _working = True
    threading.Thread(target=_work, name="ringflow-improve").start()


def wait_idle(timeout_s: float) -> bool:
    """Wait until nothing is left to do; return whether that is so."""
    with _lock:
        return _idle.wait_for(lambda: not _working, timeout_s)


def _work() -> None:
    while (job := _next()) is not None:
        try:
            job()
        except Exception:  # the quick code stays in use; somebody should know why
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), None)))


def _next() -> Callable[[], None] | None:
    """Return the next job, or None, after which the thread ends."""
    global _working
    with _lock:
        if _jobs and threading.main_thread().is_alive():
            return _jobs.popleft()
        _jobs.clear()
        _working = False
        _idle.notify_all()
        return None
