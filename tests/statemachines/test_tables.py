"""Every machine's table: complete, closed, and with a way out of each state."""

from __future__ import annotations

from enum import Enum
from typing import Any

import attrs
import pytest

from ringflow.errors import IllegalTransitionError
from ringflow.events.registry import EVENT_TYPES
from ringflow.statemachines.effects import Effect, Restarted, StepFailure
from ringflow.statemachines.lifecycle import LifecycleState
from ringflow.statemachines.migration import MigrationState
from ringflow.statemachines.table import RestartRule, table_digest
from tests.events.samples import sample
from tests.statemachines.machines import (
    CASES,
    MACHINES,
    OPERATION_CASES,
    OPERATIONS,
    Machine,
    case_id,
)

machines = pytest.mark.parametrize("machine", MACHINES, ids=case_id)
every_state = pytest.mark.parametrize(("machine", "state"), CASES, ids=case_id)
operation_states = pytest.mark.parametrize(("machine", "state"), OPERATION_CASES, ids=case_id)
FAILURE = StepFailure(step="Step", reason="broken")
CANCELLATION = StepFailure(step="Step", reason="withdrawn", cancelled=True)


def _plain(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = attrs.asdict(value)
    return plain


def _reachable(machine: Machine, start: Enum) -> set[Enum]:
    seen, queue = {start}, [start]
    for reached in queue:
        for target in machine.transitions[reached].values():
            if target not in seen:
                seen.add(target)
                queue.append(target)
    return seen


@machines
def test_every_state_has_a_row_and_every_row_leads_to_a_state(machine: Machine) -> None:
    """A terminal state has an empty row, not none."""
    states = set(machine.states)
    assert set(machine.transitions) == states
    assert {target for row in machine.transitions.values() for target in row.values()} <= states
    assert machine.terminal


@every_state
def test_a_missing_pair_is_refused_and_changes_nothing(machine: Machine, state: Enum) -> None:
    """Every (state, event) pair outside the table raises; the value is what it was."""
    value = machine.at(state)
    before = _plain(value)
    refused = 0
    for kind in EVENT_TYPES:
        if kind in machine.transitions[state] or kind in machine.facts:
            continue
        with pytest.raises(IllegalTransitionError, match=kind.wire_name):
            machine.evolve(value, sample(kind))
        refused += 1
    assert refused > len(EVENT_TYPES) // 2
    assert _plain(value) == before


@every_state
def test_a_listed_pair_leads_where_the_table_says(machine: Machine, state: Enum) -> None:
    """``evolve`` adds facts to the row's state, never another state."""
    value = machine.at(state)
    for kind, target in machine.transitions[state].items():
        assert machine.evolve(value, sample(kind)).state is target
    for kind in machine.facts:
        assert machine.evolve(value, sample(kind)).state is state


@every_state
def test_each_state_is_reached_and_leads_to_an_end(machine: Machine, state: Enum) -> None:
    """Events alone lead from the request to the state, and from it to a terminal one."""
    assert machine.at(state).state is state
    assert _reachable(machine, state) & machine.terminal


@machines
def test_every_event_of_the_machine_is_used(machine: Machine) -> None:
    """An event is the request, a transition or a declared fact; none is left over."""
    used = {kind for row in machine.transitions.values() for kind in row}
    assert used | {machine.request} | set(machine.facts) == set(machine.events)
    assert not used & {machine.request, *machine.facts}


@machines
def test_every_state_but_the_terminal_ones_says_what_a_restart_does(machine: Machine) -> None:
    """No state is forgotten, and a finished operation is not touched again."""
    assert set(machine.restart) == set(machine.states) - machine.terminal


@operation_states
def test_a_restart_ends_the_operation_as_its_rule_says(machine: Machine, state: Enum) -> None:
    """Nothing resumes midway: one decision leads to a terminal state."""
    if state in machine.terminal:
        assert state not in machine.restart
        return
    ended = machine.after(machine.at(state), Restarted()).state
    assert ended in machine.terminal
    expected = {
        RestartRule.ROLL_BACK: "rolled_back",
        RestartRule.COMPLETE: "completed",
        RestartRule.ABANDON: "failed",
    }
    assert ended.value == expected[machine.restart[state]]


def test_only_a_rerouted_migration_is_completed_by_a_restart() -> None:
    """The commit point of a migration is ``rerouted``; a reload has none before its end."""
    completing = {
        state
        for machine in OPERATIONS
        for state, rule in machine.restart.items()
        if rule is RestartRule.COMPLETE
    }
    assert completing == {MigrationState.RETIRING}


def test_no_event_leads_back_past_the_commit_point() -> None:
    """After ``rerouted`` a migration can only complete."""
    ahead = _reachable(OPERATIONS[0], MigrationState.RETIRING)
    assert ahead == {MigrationState.RETIRING, MigrationState.COMPLETED}


def test_a_kernel_that_was_launched_can_always_be_resumed_or_stopped() -> None:
    """A trap or a halt is no dead end: a person may resume the kernel, or end it."""
    lifecycle = next(machine for machine in MACHINES if machine.name == "lifecycle")
    for state in set(LifecycleState) - lifecycle.terminal - {LifecycleState.STOPPING}:
        assert {LifecycleState.RUNNING, LifecycleState.STOPPED} <= _reachable(lifecycle, state)
    row = lifecycle.transitions[LifecycleState.HALTED]
    assert set(row.values()) == {LifecycleState.QUIESCED, LifecycleState.STOPPING}


@pytest.mark.parametrize("failure", [FAILURE, CANCELLATION], ids=["failed", "cancelled"])
@operation_states
def test_a_failure_before_the_commit_point_leads_back(
    machine: Machine, state: Enum, failure: StepFailure
) -> None:
    """The kernel ends where it was; a withdrawn operation says that it was cancelled."""
    value = machine.at(state)
    if not value.may_cancel:
        return
    failed = machine.after(value, failure)
    if machine.name == "snapshot":
        assert failed.state.value == ("cancelled" if failure.cancelled else "failed")
        return
    assert failed.state.value == "rolling_back"
    assert failed.failure == f"{failure.step}: {failure.reason}"
    rolled_back = _rolled_back(machine)
    ended = machine.after(failed, rolled_back)
    assert ended.state.value == ("cancelled" if failure.cancelled else "rolled_back")
    assert machine.after(failed, FAILURE).state.value == "failed"


def _rolled_back(machine: Machine) -> Any:
    row = machine.transitions[next(s for s in machine.states if s.value == "rolling_back")]
    return sample(next(kind for kind, target in row.items() if target.value == "rolled_back"))


def test_every_operation_may_be_cancelled_before_its_commit_point_only() -> None:
    """What may not be cancelled is the way back, the commit and the end."""
    refused = {
        (machine.name, state.value)
        for machine, state in OPERATION_CASES
        if state not in machine.terminal and not machine.at(state).may_cancel
    }
    assert refused == {
        ("migration", "rolling_back"),
        ("migration", "retiring"),
        ("reload", "rolling_back"),
    }


def test_a_failure_after_the_commit_point_is_told_and_never_undone() -> None:
    """The source's memory could not be freed: the migration is complete all the same."""
    migration = OPERATIONS[0]
    ended = migration.after(migration.at(MigrationState.RETIRING), FAILURE)
    assert ended.state is MigrationState.COMPLETED
    assert ended.failure == ""


@operation_states
def test_a_state_asks_for_one_effect_unless_it_ends(machine: Machine, state: Enum) -> None:
    """An operation never waits for nothing; ``rerouting`` is left in the record that enters it."""
    assert machine.effect_of is not None
    effect = machine.effect_of(machine.at(state))
    if state in machine.terminal or state is MigrationState.REROUTING:
        assert effect is None
    else:
        assert isinstance(effect, Effect)
        assert effect.operation_id == machine.first.operation_id


@pytest.mark.parametrize("machine", OPERATIONS, ids=case_id)
def test_no_two_states_ask_for_the_same_step(machine: Machine) -> None:
    """Operation and step name an effect, so that twice is once."""
    assert machine.effect_of is not None
    asked = [machine.effect_of(machine.at(state)) for state in machine.states]
    steps = [effect.step for effect in asked if effect is not None]
    assert len(steps) == len(set(steps))


def test_the_digest_of_tables_sees_every_row() -> None:
    """Journals record it; a row more or a target changed must show."""
    tables = [machine.transitions for machine in MACHINES]
    whole = table_digest(*tables)
    assert whole == table_digest(*reversed(tables))
    for machine in MACHINES:
        for state in machine.states:
            for kind in machine.transitions[state]:
                row = {k: v for k, v in machine.transitions[state].items() if k is not kind}
                cut = {**machine.transitions, state: row}
                others = [table for table in tables if table is not machine.transitions]
                assert table_digest(cut, *others) != whole
