"""No kernel moves, and no code stays, on state that differs from what was checkpointed."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from ringflow.events.migration import (
    MigrationCheckpointed,
    MigrationRerouted,
    MigrationStepFailed,
    MigrationTargetRestored,
)
from ringflow.events.reload import ReloadStepFailed, ReloadSwapped
from ringflow.statemachines import hot_reload, migration
from ringflow.statemachines.effects import Restarted, StepFailure
from ringflow.statemachines.hot_reload import ReloadState
from ringflow.statemachines.migration import MigrationState, differing_regions
from ringflow.statemachines.table import is_terminal
from tests.events.samples import sample
from tests.statemachines.machines import OPERATIONS, illegal

MIGRATION, RELOAD = OPERATIONS[0], OPERATIONS[1]
IDS = {"operation_id": "x", "kernel_id": "x"}
digests = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["0", "1"]), max_size=3)


@given(st.sampled_from(MigrationState), digests, digests)
def test_differing_digests_never_reroute(
    state: MigrationState, source: dict[str, str], target: dict[str, str]
) -> None:
    """In no state does a restored target with other bytes lead to the commit point."""
    moving = attrs.evolve(MIGRATION.at(state), digests=source)
    decided = migration.decide(moving, MigrationTargetRestored(**IDS, digests=target))
    kinds = [type(event) for event in decided]
    if source == target:
        assert kinds == [MigrationTargetRestored, MigrationRerouted]
    else:
        assert kinds == [MigrationTargetRestored, MigrationStepFailed]


@given(digests, digests)
def test_the_failure_names_every_region_that_differs(
    source: dict[str, str], target: dict[str, str]
) -> None:
    """One on one side only differs too."""
    wrong = {name for name in "abc" if source.get(name) != target.get(name)}
    assert set(differing_regions(source, target)) == wrong
    restoring = attrs.evolve(MIGRATION.at(MigrationState.RESTORING), digests=source)
    after = MIGRATION.after(restoring, MigrationTargetRestored(**IDS, digests=target))
    if wrong:
        assert after.state is MigrationState.ROLLING_BACK
        assert after.failure.endswith(f" in {', '.join(sorted(wrong))}")
    else:
        assert after.state is MigrationState.RETIRING


@given(st.data())
def test_no_history_of_outcomes_moves_a_kernel_onto_other_bytes(data: st.DataObject) -> None:
    """Whatever comes in whatever order: a rerouted migration saw equal digests."""
    moving, restored = MIGRATION.first, None
    while not is_terminal(migration.TRANSITIONS, moving.state):
        given_event: object
        if data.draw(st.integers(0, 9)) == 0:
            given_event = data.draw(
                st.sampled_from([StepFailure(step="s", reason=""), Restarted()])
            )
        else:
            kind = data.draw(st.sampled_from(list(migration.TRANSITIONS[moving.state])))
            if kind is MigrationRerouted:
                break  # only ``decide`` makes it
            given_event = sample(kind, digests=data.draw(digests))
        if isinstance(given_event, MigrationTargetRestored):
            restored = given_event.digests
        moving = MIGRATION.after(moving, given_event)  # type: ignore[arg-type]
        if moving.state in (MigrationState.RETIRING, MigrationState.COMPLETED):
            assert restored == moving.digests


@given(digests, digests, st.data())
def test_a_region_that_a_swap_keeps_must_keep_its_bytes(
    old: dict[str, str], new: dict[str, str], data: st.DataObject
) -> None:
    """Kept regions with other digests lead back to the old code; converted ones may differ."""
    shared = sorted(old.keys() & new.keys())
    kept = tuple(data.draw(st.lists(st.sampled_from(shared), unique=True)) if shared else ())
    swapping = attrs.evolve(RELOAD.at(ReloadState.SWAPPING), digests=old)
    given_event = ReloadSwapped(**IDS, kept=kept, digests=new)
    decided = hot_reload.decide(swapping, given_event)
    if all(old[name] == new[name] for name in kept):
        assert decided == (given_event,)
    else:
        assert [type(event) for event in decided] == [ReloadStepFailed]
        assert RELOAD.after(swapping, given_event).state is ReloadState.ROLLING_BACK


def test_the_source_is_digested_before_anything_is_copied() -> None:
    """What the target is held against is fixed while only the source exists."""
    for state in MigrationState:
        refused = illegal(MIGRATION, MIGRATION.at(state), sample(MigrationCheckpointed))
        assert refused is (state is not MigrationState.CHECKPOINTING)
