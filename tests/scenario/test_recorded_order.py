"""Journals built by hand where a real run's timing decided: what their scenarios say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from ringflow.errors import UsageError
from ringflow.scenario.recorded_inputs import Moment, limits_said
from ringflow.scenario.recorded_order import (
    Act,
    Await,
    Cancel,
    Deliver,
    Do,
    Handled,
    Settle,
    Until,
    in_order,
)
from ringflow.scenario.recorded_requests import Finder, Stored
from tests.engine.kernels import adder

MOVE = "migration-0000000000000001"
RELOAD = "reload-0000000000000001"
WHO = {"actor": "", "reason": ""}
OPENED = {"type": "engine.opened.v1", "devices": ["host:0", "host:1"]}
CLOSED = {"type": "engine.closed.v1"}

Event = Mapping[str, Any]


def kernel(name: str, **more: Any) -> Event:
    return {"type": f"kernel.{name}.v1", "kernel_id": "adder", **more}


def step(name: str, **more: Any) -> Event:
    operation = MOVE if name.startswith("migration") else RELOAD
    return {"type": f"{name}.v1", "operation_id": operation, "kernel_id": "adder", **more}


def accepted(sequence: int) -> Event:
    return {
        "type": "messages.accepted.v1",
        "kernel_id": "adder",
        "first_sequence": sequence,
        "types": [2],
        "payloads": [""],
        "producers": [""],
        "numbers": [0],
    }


def acknowledged(sequence: int) -> Event:
    return {
        "type": "consumer.acknowledged.v1",
        "kernel_id": "adder",
        "consumer": "plotter",
        "sequence": sequence,
        "index": 0,
    }


LAUNCH = (
    OPENED,
    kernel("launch_requested", spec_digest="", device="host:0", **WHO),
    kernel("launched", device="host:0"),
)
CLOSING = (
    kernel("quiesce_started", purpose="close"),
    kernel("quiesced", applied_sequence=9),
    CLOSED,
)
MOVING = step("migration.requested", source="host:0", target="host:1", **WHO)
STOPPING = kernel("quiesce_started", purpose="migration")
RELOADING = step(
    "reload.requested",
    spec_digest="",
    convert="",
    at_sequence=0,
    probation_messages=1,
    probation_timeout_ns=10**9,
    **WHO,
)
MOVED = step("migration.completed", retire_failure="")


def acts(*epochs: Sequence[Event], durability: str = "durable") -> list[Act]:
    """Return what the scenario of a journal with these epochs does."""
    moments = [
        Moment(number, event, frozenset((event["type"],)))
        for number, events in enumerate(epochs, 1)
        for event in events
    ]
    spec = adder(durability=durability)
    stored = Stored(spec=lambda digest: spec, regions=lambda name: {}, data=lambda digest: None)
    return in_order(moments, Finder(moments, stored).find())


def said(*epochs: Sequence[Event]) -> list[str]:
    """Return that in words, without what opens the engine and launches the kernel."""
    return [_said(act) for act in acts(*epochs)][2:]


def _said(act: Act) -> str:
    match act:
        case Do():
            return f"begin {act.input.line}" if act.begun else act.input.line
        case Until(event, of):
            return f"until {event} of {of.split('-')[0]}"
        case Await():
            return "await"
        case Cancel():
            return "cancel"
        case Deliver(_, through):
            return f"deliver {'all' if through is None else through}"
        case Handled(_, sequence):
            return f"handled {sequence}"
        case Settle():
            return "settle"


def test_what_is_acknowledged_within_a_close_comes_before_it() -> None:
    """No engine is open behind ``close``."""
    quiesce_started, quiesced, closed = CLOSING
    events = (*LAUNCH, accepted(1), quiesce_started, quiesced, acknowledged(1), closed)
    assert said(events) == ["send adder Total", "acknowledge adder plotter through=1.0", "close"]


def test_a_message_that_came_after_the_stop_is_withheld_until_it_has_passed() -> None:
    """Message 2 had waited in the ring; a simulated kernel would have handled it."""
    events = (
        *(*LAUNCH, accepted(1), accepted(2), MOVING, STOPPING),
        kernel("quiesced", applied_sequence=1),
        step("migration.gate_opened", parked_count=1),
        MOVED,
    )
    assert said(events) == [
        *("send adder Total", "deliver 1", "send adder Total", "handled 1"),
        "begin migrate adder to=host:1",
        *("until migration.gate_opened of migration", "deliver all", "await"),
    ]


def test_a_message_that_came_during_a_move_and_before_its_stop_is_sent_first() -> None:
    """Else the kernel would be stopped before it."""
    events = (
        *(*LAUNCH, MOVING, accepted(1), STOPPING),
        kernel("quiesced", applied_sequence=1),
        step("migration.gate_opened", parked_count=0),
        MOVED,
    )
    assert said(events) == ["send adder Total", "handled 1", "migrate adder to=host:1"]


def test_what_was_parked_decides_and_not_the_journal_s_order() -> None:
    """Control records overtake messages: 2 waited at the gate and stands behind it."""
    events = (
        *(*LAUNCH, accepted(1), MOVING, STOPPING),
        kernel("quiesced", applied_sequence=1),
        step("migration.gate_opened", parked_count=1),
        *(accepted(2), accepted(3), MOVED),
    )
    assert said(events) == [
        *("send adder Total", "deliver 1", "send adder Total", "handled 1"),
        "begin migrate adder to=host:1",
        *("until migration.gate_opened of migration", "deliver all"),
        *("send adder Total", "await"),
    ]


def test_a_move_that_a_kill_broke_off_goes_to_its_last_event() -> None:
    """What came meanwhile is done before it: each command lets the world come to rest."""
    events = (
        *(*LAUNCH, MOVING, accepted(1), STOPPING),
        kernel("quiesced", applied_sequence=0),
        acknowledged(1),
    )
    assert said(events, (OPENED,)) == [
        *("deliver 0", "send adder Total", "acknowledge adder plotter through=1.0"),
        *("begin migrate adder to=host:1", "until kernel.quiesced of adder"),
        *("crash", "deliver all", "restart"),
    ]


def test_code_that_a_kill_found_on_probation_gets_no_message_before_it() -> None:
    """It would be found good."""
    events = (
        *LAUNCH,
        RELOADING,
        kernel("quiesce_started", purpose="reload"),
        kernel("quiesced", applied_sequence=0),
        step("reload.drained", applied_sequence=0),
        step("reload.restored", parked_count=0),
        accepted(1),
    )
    begun, *rest = said(events, (OPENED,))[1:]
    assert begun.startswith("begin reload adder code=code1 probation=1")
    assert rest == [
        *("until reload.restored of reload", "send adder Total"),
        *("crash", "deliver all", "restart"),
    ]


@pytest.mark.parametrize("waiting", [True, False])
def test_code_that_trapped_on_probation_has_its_messages_when_all_that_came_is_there(
    waiting: bool,
) -> None:
    """It would trap at once; the old code would handle what comes until somebody looks."""
    trap = "kernel 'adder' trapped at message 3: trap"
    events = (
        *(*LAUNCH, accepted(1), *([accepted(2)] if waiting else ()), RELOADING),
        kernel("quiesce_started", purpose="reload"),
        kernel("quiesced", applied_sequence=1),
        step("reload.drained", applied_sequence=1),
        step("reload.restored", parked_count=int(waiting)),
        *(*(() if waiting else [accepted(2)]), accepted(3), accepted(4)),
        step("reload.step_failed", step="WatchProbation", reason=trap),
        kernel("resumed", device="host:0", applied_sequence=1),
        step("reload.rolled_back", applied_sequence=1),
        *(MOVING, STOPPING, kernel("quiesced", applied_sequence=2)),
        step("migration.gate_opened", parked_count=2),
        MOVED,
    )
    before = ["deliver 1", *(["send adder Total"] if waiting else []), "handled 1"]
    assert [line.partition(" code=")[0] for line in said(events)] == [
        *("send adder Total", *before),
        *("begin reload adder", "until reload.restored of reload"),
        *["send adder Total"] * (2 if waiting else 3),
        *("deliver all", "until reload.step_failed of reload", "deliver 2", "await"),
        *("handled 2", "begin migrate adder to=host:1"),
        *("until migration.gate_opened of migration", "deliver all", "await"),
    ]


def test_a_cancelled_request_is_cancelled_where_it_was() -> None:
    """Here: before the kernel was stopped; the message that came meanwhile is sent first."""
    events = (
        *(*LAUNCH, MOVING, accepted(1), STOPPING),
        step("migration.step_failed", step="QuiesceKernel", reason="cancelled", cancelled=True),
        step("migration.cancelled"),
        accepted(2),
    )
    assert said(events) == [
        "send adder Total",
        *("begin migrate adder to=host:1", "until kernel.quiesce_started of adder", "cancel"),
        "send adder Total",
    ]


def test_what_was_sent_after_a_poison_message_is_sent_before_it_halts_the_kernel() -> None:
    """A halted kernel takes nothing."""
    events = (
        *(*LAUNCH, accepted(1), accepted(2)),
        kernel("trapped", applied_sequence=0, message_sequence=1),
        kernel("halted", applied_sequence=0, message_sequence=1, attempts=1, reason="a trap"),
        CLOSED,
    )
    assert said(events) == [
        *("deliver 0", "send adder Total", "send adder Total", "deliver all", "settle", "close")
    ]


def test_a_restart_that_a_kill_broke_off_ends_at_its_last_event() -> None:
    killed = (OPENED, kernel("resumed", device="host:0", applied_sequence=0))
    restarts = [act for act in acts(LAUNCH, killed, (OPENED,)) if isinstance(act, Do)]
    stops = [act.stop_at for act in restarts if act.input.line == "restart"]
    assert stops == [Until("kernel.resumed", "adder"), None]


def test_a_volatile_kernel_that_has_worked_is_refused() -> None:
    """Nothing could send its messages again; the error says so."""
    with pytest.raises(UsageError, match="is volatile: its messages are in no journal"):
        acts((*LAUNCH, *CLOSING), durability="volatile")


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (kernel("quiesce_started", purpose="restore"), "restored from a checkpoint that its"),
        (
            kernel("device_lost", device="cuda:0", applied_sequence=0),
            "lost its device, and the host devices",
        ),
    ],
)
def test_what_no_scenario_can_do_is_refused(event: Event, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        acts((*LAUNCH, event))


@pytest.mark.parametrize(("given", "said"), [("30.0", ""), ("0.5", "step_timeout_s=0.5s")])
def test_a_limit_is_said_where_it_is_not_the_usual_one(given: str, said: str) -> None:
    reason = f"kernel 'adder' has not obeyed QUIESCE within {given} s; give the step more time"
    failed = step("migration.step_failed", step="QuiesceKernel", reason=reason)
    assert limits_said([Moment(1, failed, frozenset())]) == said
