"""What a thread has the event loop do: in order, in the loop's thread, and none lost."""

from __future__ import annotations

import contextvars
import threading
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from ringflow.journal.thread import Bell, LoopCaller

pytestmark = pytest.mark.anyio

_TENANT = contextvars.ContextVar("_TENANT", default="none")


async def test_a_threads_calls_run_in_the_loop_in_order_and_in_its_context() -> None:
    """The thread does not wait; what it asks for comes once each, with the asker's context."""
    _TENANT.set("mine")
    soon = LoopCaller()
    heard: list[tuple[int, int, str]] = []

    def note(number: int) -> None:
        heard.append((number, threading.get_ident(), _TENANT.get()))

    def work() -> None:
        for number in range(200):
            soon(lambda number=number: note(number))  # type: ignore[misc]

    await anyio.to_thread.run_sync(work)
    with anyio.fail_after(20):
        while len(heard) < 200:
            await anyio.lowlevel.checkpoint()
    assert heard == [(number, threading.get_ident(), "mine") for number in range(200)]


async def test_a_call_of_a_thread_wakes_a_loop_that_waits() -> None:
    """The loop sleeps in its selector; the call itself ends the wait."""
    soon, woken = LoopCaller(), anyio.Event()
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


@pytest.mark.parametrize("waiters", [1, 2, 6])
async def test_waiters_hear_of_every_event_in_whatever_order_they_come_and_go(waiters: int) -> None:
    """One of them is woken by the thread itself; it may be cancelled, or leave before the others.

    A thread sets the events of many waiters, some of whom give up meanwhile; each that stays hears
    of its own event, and functions run in the order in which they were given.
    """
    caller, bell = LoopCaller(), Bell()
    asked: list[tuple[int, anyio.Event]] = []
    ran: list[int] = []
    given = 0
    stop = False

    def call(number: int, event: anyio.Event) -> None:
        ran.append(number)
        event.set()

    def work() -> None:
        while not stop:
            bell.wait()
            while asked:
                number, event = asked.pop(0)
                caller(partial(call, number, event))

    async def wait_often(first: int, gives_up: bool) -> None:
        nonlocal given
        for _ in range(200):
            event = anyio.Event()
            asked.append((given, event))
            given += 1
            bell.ring()
            leaves = gives_up and given % 3 == first % 3
            with anyio.move_on_after(0) if leaves else anyio.fail_after(20):
                await caller.until(event)
                assert event.is_set()

    async with anyio.create_task_group() as threads:
        threads.start_soon(anyio.to_thread.run_sync, work)
        try:
            async with anyio.create_task_group() as tasks:
                for first in range(waiters):
                    tasks.start_soon(wait_often, first, first % 2 == 1)
        finally:
            stop = True
            bell.ring()
    last = anyio.Event()
    caller(last.set)
    with anyio.fail_after(20):
        await caller.until(last)
    assert ran == list(range(given))
    caller.close()


async def test_what_was_asked_for_when_the_woken_waiter_gives_up_is_done() -> None:
    """The others hear of it, though nobody asks for anything any more."""
    caller, first, second = LoopCaller(), anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as others, anyio.create_task_group() as tasks:
        tasks.start_soon(caller.until, first)
        await anyio.wait_all_tasks_blocked()
        others.start_soon(caller.until, second)
        await anyio.wait_all_tasks_blocked()
        caller(second.set)
        tasks.cancel_scope.cancel()
        others.cancel_scope.deadline = anyio.current_time() + 20
    assert second.is_set()
    assert not others.cancel_scope.cancelled_caught
    caller.close()
