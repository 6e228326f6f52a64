"""The loop and the agenda: orders that depend on the seed alone."""

from __future__ import annotations

from random import Random

import pytest

from ringflow.errors import SimulationStuckError
from ringflow.simulate.agenda import Agenda
from ringflow.simulate.loop import SimulatedLoop


def loop_of(seed: int) -> SimulatedLoop:
    agenda = Agenda()
    agenda.renew(Random(seed), now_ns=0)
    return SimulatedLoop(agenda, Random(seed))


def order_of_tasks(seed: int) -> list[int]:
    """Return in which order eight tasks run that are ready together."""
    loop, order = loop_of(seed), list[int]()

    async def run(number: int) -> None:
        order.append(number)

    tasks = [loop.create_task(run(number)) for number in range(8)]
    loop.run_ready()
    assert all(task.done() for task in tasks)
    loop.close()
    return order


def test_ready_tasks_run_in_the_seeds_order() -> None:
    """Each once; one seed one order, many seeds many."""
    orders = [tuple(order_of_tasks(seed)) for seed in range(6)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len(set(orders)) > 4
    assert tuple(order_of_tasks(3)) == orders[3]


def test_sets_of_tasks_have_one_order() -> None:
    """anyio iterates sets of tasks: by address they would differ between processes."""
    loop = loop_of(0)

    async def nothing() -> None: ...

    tasks = [loop.create_task(nothing()) for _ in range(7)]
    assert list(set(tasks)) == tasks
    loop.run_ready()
    loop.close()


def test_callbacks_without_an_end_are_found() -> None:
    """A loop that keeps itself busy for ever is an error, not a hang."""
    loop = loop_of(0)

    def again() -> None:
        loop.call_soon(again)

    loop.call_soon(again)
    with pytest.raises(SimulationStuckError, match="without an end"):
        loop.run_ready()
    loop.close()


def test_what_is_due_comes_by_time_then_by_the_seeds_rank() -> None:
    """Cancelled items don't come; the time is that of what was taken."""
    agenda, taken = Agenda(), []
    agenda.renew(Random(1), now_ns=100)
    for number in range(6):
        agenda.add(500, f"at 500: {number}", lambda: None)
    early = agenda.add(50, "late already", lambda: None)
    agenda.add(300, "cancelled", lambda: None).cancel()
    assert early.due_ns == 100
    while (item := agenda.take()) is not None:
        taken.append((agenda.now_ns, item.what))
    assert taken[0] == (100, "late already")
    assert [at for at, _ in taken[1:]] == [500] * 6
    assert [what for _, what in taken[1:]] != sorted(what for _, what in taken[1:])
