"""Replay of decisions: a journal that an engine wrote has no difference, a changed one has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import orjson
import pytest

import ringflow
from ringflow.cli import main
from ringflow.engine.replay import Difference, replay_records
from ringflow.engine.replay_rules import RouteKey, check_messages, check_routes
from ringflow.engine.state import MessageMarks
from ringflow.events.codec import Event
from ringflow.events.messages import BulkMessageAccepted, MessagesAccepted
from ringflow.events.registry import default_codec
from ringflow.events.routing import RouteTaken
from ringflow.journal.opening import open_journal
from ringflow.journal.reader import read_records
from ringflow.journal.record import Record
from ringflow.simulate.files import CrashingFiles
from tests.engine.kernels import Add, adder, code
from tests.engine.story import Recorder, send_all

FOLDER = Path("/engine")


async def live(files: CrashingFiles) -> None:
    """Write a journal with each kind of decision: done, rolled back, cancelled."""
    async with ringflow.open_engine(FOLDER, devices=["host:0", "host:1"], files=files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        recorder = Recorder(kernel)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recorder.run)
            await recorder.started.wait()
            await kernel.send(Add(1), producer="p", number=1)
            await engine.migrate("adder", to="host:1")
            await engine.reload("adder", code("adder_double"), probation_messages=0)
            operation = await engine.start_reload("adder", code("adder_bad"))
            await until_event(operation, "reload.restored.v1")
            await kernel.send(Add(2), producer="p", number=2)
            last = await send_all(kernel, [3, 4, 5])
            with contextlib.suppress(ringflow.OperationFailedError):
                await operation.result()
            for _ in range(3):
                await engine.checkpoint("adder")
            await recorder.until(last)
            tasks.cancel_scope.cancel()
        waiting = await engine.start_reload("adder", code("adder_double"), at_sequence=last + 2)
        assert await waiting.cancel()


async def until_event(operation: Any, wire_name: str) -> None:
    async for event in operation.events():
        if event.wire_name == wire_name:
            return


async def two_lives(files: CrashingFiles) -> CrashingFiles:
    """Add a migration that a crash cuts short, and the engine that finds it."""
    async with ringflow.open_engine(FOLDER, devices=["host:0", "host:1"], files=files) as engine:
        operation = engine.start_migration("adder", to="host:0")
        async for _ in operation.events():
            after = files.after_crash()
            files.crash_before_step(0)
            break
    async with ringflow.open_engine(FOLDER, devices=["host:0", "host:1"], files=after) as engine:
        await (await engine.kernel("adder").send(Add(6))).done()
    return after


@pytest.fixture(scope="module")
def records() -> tuple[Record, ...]:
    """The journal of an engine that moved, reloaded, failed, crashed and came back."""
    files = CrashingFiles()
    anyio.run(live, files)
    files = anyio.run(two_lives, files)
    codec = default_codec()
    return tuple(record.decoded(codec) for record in read_records(FOLDER, files=files))


def changed(
    records: tuple[Record, ...],
    wire_name: str,
    change: Callable[[Any], Event | None],
    *,
    beside: str = "",
) -> list[Record]:
    """Return the records with the last event of this name changed, or left out for None.

    Args:
        beside: another event of the same record.
    """
    place = max(
        index
        for index, record in enumerate(records)
        if {wire_name, beside or wire_name} <= {event.wire_name for event in record.events}
    )
    made = []
    for event in records[place].events:
        new = change(event) if event.wire_name == wire_name else event
        made += [] if new is None else [new]
    here = [records[place]._replace(events=tuple(made))] if made else []
    return [*records[:place], *here, *records[place + 1 :]]


def difference_of(records: list[Record]) -> Difference:
    found = replay_records(records).difference
    assert found is not None
    return found


def test_an_engines_own_journal_has_no_difference(records: tuple[Record, ...]) -> None:
    """Every event follows, over crashes and failures too, and all kinds were there."""
    report = replay_records(records)
    assert report.difference is None
    assert (report.records, report.epochs) == (len(records), 3)
    assert report.decisions > 30
    names = {event.wire_name for record in records for event in record.events}
    assert names >= {
        "migration.completed.v1",
        "migration.rolled_back.v1",
        "reload.completed.v1",
        "reload.rolled_back.v1",
        "reload.cancelled.v1",
        "snapshot.saved.v1",
        "checkpoint.retired.v1",
        "consumer.acknowledged.v1",
    }


TAMPERED: list[tuple[str, dict[str, Any], str]] = [
    ("migration.target_restored.v1", {"digests": {"state": "0" * 64}}, "target_restored"),
    ("migration.rerouted.v1", {"target": "host:0"}, "target_restored"),
    ("migration.rerouted.v1", {"applied_sequence": 99}, "target_restored"),
    ("migration.requested.v1", {"source": "host:0", "target": "host:1"}, "another kernel"),
    ("migration.requested.v1", {"target": "host:1"}, "must be refused"),
    ("migration.step_failed.v1", {"reason": "nothing"}, "the restart"),
    ("reload.swapped.v1", {"digests": {"state": "0" * 64, "cells": "0" * 64}}, "swapped"),
    ("reload.requested.v1", {"old_version": "other"}, "another kernel"),
    ("reload.completed.v1", {"version_id": "other"}, "recovery point"),
    ("snapshot.saved.v1", {"checkpoint": "adder@other"}, "asked for"),
    ("messages.accepted.v1", {"first_sequence": 99}, "without a gap"),
    ("messages.accepted.v1", {"producers": ("p",), "numbers": (2,)}, "must be refused"),
    ("consumer.acknowledged.v1", {"sequence": 0}, "already"),
    ("consumer.acknowledged.v1", {"consumer": "nobody"}, "nobody knows"),
    ("kernel.recovery_point.v1", {"replay_from": 1000}, "last accepted"),
    ("kernel.quiesced.v1", {"applied_sequence": 1000}, "last accepted"),
    ("checkpoint.retired.v1", {"checkpoint": "adder@other"}, "no recovery point"),
]


@pytest.mark.parametrize(("name", "change", "reason"), TAMPERED)
def test_a_changed_decision_is_the_first_difference(
    records: tuple[Record, ...], name: str, change: dict[str, Any], reason: str
) -> None:
    """It is found at its own record, with what should stand there."""
    tampered = changed(records, name, lambda event: attrs.evolve(event, **change))
    found = difference_of(tampered)
    place = next(record for record in tampered if record.sequence == found.sequence)
    assert reason in found.reason
    assert any(event.wire_name == name for event in place.events)
    assert found.recorded != found.expected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("migration.rerouted.v1", "leads to something else"),
        ("migration.source_quiesced.v1", "can't follow"),
        ("migration.rolled_back.v1", "the restart leads to something else"),
        ("reload.cancelled.v1", "must be refused"),
        ("messages.accepted.v1", "last accepted"),
        ("consumer.registered.v1", "nobody knows"),
        ("kernel.launched.v1", "can't follow"),
    ],
)
def test_a_left_out_event_is_found(records: tuple[Record, ...], name: str, reason: str) -> None:
    """By what comes after it, or by what its record lacks."""
    assert reason in difference_of(changed(records, name, lambda event: None)).reason


@pytest.mark.parametrize("outcome", ["reload.completed.v1", "snapshot.saved.v1"])
def test_an_outcome_without_its_recovery_point_is_found(
    records: tuple[Record, ...], outcome: str
) -> None:
    """Recovery would go back to before it."""
    tampered = changed(records, "kernel.recovery_point.v1", lambda event: None, beside=outcome)
    assert "exactly one recovery point" in difference_of(tampered).reason


def test_a_restart_that_forgets_an_operation_is_found(records: tuple[Record, ...]) -> None:
    """The next message says so, with the events that are missing."""
    last_epoch = records[-1].epoch
    kept = [
        record
        for record in records
        if record.epoch < last_epoch or not record.stream.startswith("operation/")
    ]
    found = difference_of(kept)
    assert "the restart must end operation" in found.reason
    names = [event.wire_name for event in found.expected]
    assert names == ["migration.step_failed.v1", "migration.rolled_back.v1"]


async def _copy(records: list[Record], folder: Path) -> None:
    """Write the records of one epoch into a journal whose chain is whole."""
    async with open_journal(folder) as journal:
        for record in records:
            await journal.until_durable(journal.append(record.stream, record.events))


def test_the_command_shows_both_sides_and_exits_with_1(
    records: tuple[Record, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A journal that somebody rewrote and sealed anew verifies, and does not replay."""
    first = tuple(record for record in records if record.epoch == 1)
    wrong = {"digests": {"state": "0" * 64}}
    tampered = changed(
        first, "migration.target_restored.v1", lambda event: attrs.evolve(event, **wrong)
    )
    anyio.run(_copy, list(first), tmp_path / "good")
    anyio.run(_copy, tampered, tmp_path / "bad")
    text = _run(monkeypatch, capsys, 0, "replay", str(tmp_path / "good"))
    assert "each follows from its inputs" in text
    text = _run(monkeypatch, capsys, 1, "replay", str(tmp_path / "bad"))
    assert "in the journal:" in text
    assert "migration.rerouted.v1" in text
    assert "recomputed:" in text
    assert "the target's memory differs from the source's in cells, state" in text
    plain = orjson.loads(_run(monkeypatch, capsys, 1, "replay", str(tmp_path / "bad"), "--json"))
    assert plain["difference"]["expected"][1]["step"] == "verify"
    assert _run(monkeypatch, capsys, 0, "journal", "verify", str(tmp_path / "bad"))


def _run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, *words: str
) -> str:
    monkeypatch.setattr("sys.argv", ["ringflow", *words])
    with pytest.raises(SystemExit) as raised:
        main()
    assert (raised.value.code or 0) == code
    return capsys.readouterr().out


def _bulk(**changes: Any) -> BulkMessageAccepted:
    fields: dict[str, Any] = {
        "kernel_id": "k",
        "sequence": 4,
        "message_type": 1,
        "payload": b"",
        "digest": "0" * 64,
        "size_bytes": 9,
        "producer": "p",
        "number": 8,
    }
    return BulkMessageAccepted(**{**fields, **changes})


def test_a_message_with_an_array_is_numbered_like_any_other() -> None:
    """A gap is found, and so is a producer's number that had to be refused."""
    marks = MessageMarks(next_sequence=4, producers={"p": 7})
    assert check_messages(marks, _bulk()) is None
    assert check_messages(marks, _bulk(producer="", number=0)) is None
    gap = check_messages(marks, _bulk(sequence=5))
    assert gap is not None
    assert "without a gap" in gap.reason
    again = check_messages(marks, _bulk(number=7))
    assert again is not None
    assert "number 7 must be refused" in again.reason


def routed(*outputs: tuple[int, int], messages: int | None = None) -> tuple[Event, ...]:
    """Return a record's events: outputs of kernel a that become messages of kernel b."""
    count = len(outputs) if messages is None else messages
    accepted = MessagesAccepted(
        kernel_id="b",
        first_sequence=1,
        types=(1,) * count,
        payloads=(b"",) * count,
        producers=("",) * count,
        numbers=(0,) * count,
    )
    taken = RouteTaken(
        source="a",
        number=0,
        target="b",
        sequences=tuple(sequence for sequence, _ in outputs),
        indexes=tuple(index for _, index in outputs),
        through_sequence=outputs[-1][0],
        through_index=outputs[-1][1],
    )
    return accepted, taken


def test_an_output_that_a_route_takes_twice_is_found() -> None:
    """In a later record, in the same one, or as more or fewer messages than outputs."""
    passed: dict[RouteKey, tuple[int, int]] = {}
    assert check_routes(passed, routed((1, 0), (1, 1), (2, 0))) is None
    assert check_routes(passed, routed((3, 0))) is None
    again = check_routes(passed, routed((3, 0)))
    assert again is not None
    assert "twice" in again.reason
    assert check_routes(passed, routed((5, 0), (4, 0))) is not None
    more = check_routes(passed, routed((6, 0), messages=2))
    assert more is not None
    assert "got others" in more.reason
