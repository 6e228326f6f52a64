"""What a thread has the event loop do: in order, in the loop's thread, and none lost."""

from __future__ import annotations

import contextvars
import threading

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from ringflow.journal.thread import Bell, loop_caller

pytestmark = pytest.mark.anyio

_TENANT = contextvars.ContextVar("_TENANT", default="none")


async def test_a_threads_calls_run_in_the_loop_in_order_and_in_its_context() -> None:
    """The thread does not wait; what it asks for comes once each, with the asker's context."""
    _TENANT.set("mine")
    soon = loop_caller()
    heard: list[tuple[int, int, str]] = []

    def note(number: int) -> None:
        heard.append((number, threading.get_ident(), _TENANT.get()))

    def work() -> None:
        for number in range(200):
            soon(lambda number=number: note(number))  # type: ignore[misc]

    await anyio.to_thread.run_sync(work)
    while len(heard) < 200:
        await anyio.lowlevel.checkpoint()
    assert heard == [(number, threading.get_ident(), "mine") for number in range(200)]


async def test_a_call_of_a_thread_wakes_a_loop_that_waits() -> None:
    """The loop sleeps in its selector; the call itself ends the wait."""
    soon, woken = loop_caller(), anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, lambda: soon(woken.set))
        with anyio.fail_after(20):
            await woken.wait()


def test_rings_before_a_wait_are_one_and_none_is_lost() -> None:
    """Whoever finds the bell rung looks at all there is; a later ring makes it look again."""
    bell, seen, produced = Bell(), 0, 0
    done = threading.Event()

    def watch() -> None:
        nonlocal seen
        while seen < 2000:
            bell.wait()
            seen = produced
        done.set()

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(2000):
        produced += 1
        bell.ring()
    assert done.wait(timeout=20)
    thread.join()
    bell.ring()
    bell.ring()
    bell.wait()
    assert bell._rings.empty()
