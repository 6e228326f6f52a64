"""Every interleaving of steps, messages, faults, cancellations and a crash, for each machine.

The counts are printed: ``pytest -rP tests/statemachines/test_exploration.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from tests.statemachines.machines import OPERATIONS, Machine, case_id
from tests.statemachines.model import MESSAGES, World, choices

WORLDS_MAX = 400_000


def check(world: World) -> None:
    """Raise unless the world is one that users may find."""
    assert len(world.live) <= 1
    running = [one for one in (world.old, world.new) if one is not None and one.running]
    if len(running) == 2:
        assert world.machine.name == "migration", "two grids run"
        assert world.operation.state.value in ("retiring", "rolling_back", "failed")
    for instance in world.live:
        sent = [message for message, _ in instance.applied]
        assert sent == list(range(1, len(sent) + 1)), "lost, doubled, garbled or out of order"
        assert len(sent) <= world.accepted
    told = [message for message, _ in world.seen]
    assert len(told) == len(set(told)), f"one output, two values: {sorted(world.seen)}"
    if world.finished:
        _check_end(world)


def _check_end(world: World) -> None:
    completed = world.operation.state.value == "completed"
    (survivor,) = world.live
    if world.machine.name != "snapshot":
        assert (world.old is None) == completed
        assert (world.new is None) == (not completed)
    if not completed:
        assert survivor.code == "old"
        assert not world.outputs


def explore(first: World) -> tuple[int, dict[str, int]]:
    """Visit every world; return their number and how often each end was reached."""
    seen, ends = {first.key()}, dict[str, int]()
    queue: deque[tuple[World, tuple[str, ...]]] = deque([(first, ())])
    while queue:
        world, path = queue.popleft()
        try:
            check(world)
        except AssertionError as error:
            raise AssertionError(f"{error}, after: {'; '.join(path)}") from error
        if world.operation.is_terminal:
            end = world.operation.state.value
            ends[end] = ends.get(end, 0) + 1
        for name, following in choices(world):
            key = following.key()
            if key not in seen:
                assert len(seen) < WORLDS_MAX, "too many worlds; bound the model"
                seen.add(key)
                queue.append((following, (*path, name)))
    return len(seen), ends


@pytest.mark.parametrize("machine", OPERATIONS, ids=case_id)
def test_no_interleaving_breaks_a_promise(machine: Machine) -> None:
    """Each message once and in order, one live instance, no output with two values."""
    worlds, ends = explore(World(machine=machine, history=(machine.first,)))
    print(f"{machine.name}: {worlds} worlds of up to {MESSAGES} messages, ends: {ends}")
    terminal = {state.value for state in machine.terminal}
    assert set(ends) == terminal, "an end is out of reach"


@pytest.mark.parametrize("machine", OPERATIONS[:2], ids=case_id)
def test_a_comparison_that_is_left_out_is_found(machine: Machine) -> None:
    """The exploration can fail: here outcomes are taken as they come, garbled copies too."""
    assert machine.decide is not None
    real: Callable[[Any, Any], Any] = machine.decide

    def trusting(value: Any, given: Any) -> Any:
        expected = getattr(value, "digests", {})
        if hasattr(given, "digests") and expected:
            given = attrs.evolve(given, digests=expected)
        return real(value, given)

    broken = attrs.evolve(machine, decide=trusting)
    with pytest.raises(AssertionError, match="garbled"):
        explore(World(machine=broken, history=(broken.first,)))
