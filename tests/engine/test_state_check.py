"""What can't be folded is refused before it is written, by a look at what it is about alone."""

from __future__ import annotations

import copy

import pytest

from ringflow.engine.state import EngineState
from ringflow.errors import IllegalTransitionError
from ringflow.events.codec import Event
from ringflow.events.lifecycle import KernelLaunched, KernelLaunchRequested
from ringflow.events.migration import MigrationRequested
from ringflow.events.registry import EVENT_TYPES
from ringflow.events.reload import ReloadRequested
from ringflow.events.snapshot import SnapshotRequested
from tests.events.samples import sample

REQUESTS = (MigrationRequested, ReloadRequested, SnapshotRequested)


def state_with(request: type[Event]) -> EngineState:
    """Return a state with two running kernels, ``x`` in an operation ``x``."""
    state = EngineState()
    for kernel_id in ("x", "other"):
        state.apply(sample(KernelLaunchRequested, kernel_id=kernel_id))
        state.apply(sample(KernelLaunched, kernel_id=kernel_id))
    state.apply(sample(request))
    return state


def outcome_of_all(state: EngineState, events: list[Event]) -> type[Exception] | None:
    """Return what a fold of ``events`` into the whole state raises."""
    whole = copy.deepcopy(state)
    try:
        for event in events:
            whole.apply(event)
    except (IllegalTransitionError, LookupError) as error:
        return type(error)
    return None


@pytest.mark.parametrize("request_kind", REQUESTS, ids=lambda kind: kind.wire_name)
def test_a_check_refuses_what_the_whole_state_would(request_kind: type[Event]) -> None:
    """For every event type, alone and twice in one decision; nothing is changed by the look."""
    state = state_with(request_kind)
    refused = 0
    for kind in EVENT_TYPES:
        if kind.wire_name.startswith(("messages.", "consumer.", "route.")):
            continue
        for events in ([sample(kind)], [sample(kind), sample(kind)]):
            before = copy.deepcopy(state)
            expected = outcome_of_all(state, events)
            refused += expected is not None
            if expected is None:
                state.check(events)
            else:
                with pytest.raises(expected):
                    state.check(events)
            assert state == before
    assert refused > 20


def test_an_unknown_kernel_is_not_looked_up_elsewhere() -> None:
    """An event about a kernel that was never launched is refused, whoever else is there."""
    with pytest.raises(LookupError):
        state_with(MigrationRequested).check([sample(KernelLaunched, kernel_id="nobody")])
