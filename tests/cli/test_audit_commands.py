"""``ringflow journal explain`` and ``export``, on the journal of an engine that really worked."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner

import ringflow
from ringflow.cli import build_app
from ringflow.cli.explain import explain, find_operation
from ringflow.cli.operations import operations_of
from ringflow.errors import UsageError
from ringflow.journal.reader import read_records
from tests.engine.kernels import adder, code
from tests.engine.story import send_all


async def _work(folder: Path) -> None:
    async with ringflow.open_engine(folder, devices=["host:0", "host:1"]) as engine:
        kernel = await engine.launch(adder(), device="host:0", actor="ops", reason="trial")
        await send_all(kernel, range(10))
        await engine.migrate("adder", to="host:1", actor="ops", reason="driver update")
        await engine.checkpoint("adder", actor="cron", reason="hourly")
        operation = await engine.start_reload(
            "adder",
            code("adder_bad"),
            at_sequence=11,
            probation_messages=5,
            actor="dev",
            reason="a try",
        )
        await send_all(kernel, range(10, 20))
        with pytest.raises(ringflow.OperationFailedError):
            await operation.result()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine's folder with a migration, a snapshot and a reload that was rolled back."""
    path = tmp_path_factory.mktemp("audit") / "engine"
    anyio.run(_work, path)
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(), [str(one) for one in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def operation(folder: Path, kind: str) -> str:
    (found,) = [one for one in operations_of(read_records(folder)) if one.startswith(kind)]
    return found


def test_a_migration_is_told_with_everything_that_an_auditor_asks(folder: Path) -> None:
    """Who, why, where from and to, steps, pause, messages, digests, outcome."""
    told = run("journal", "explain", folder, operation(folder, "migration"))
    for piece in (
        "by ops (driver update)",
        "to move kernel adder from host:0 to host:1",
        "quiescing",
        "held all messages to 10",
        "The kernel paused for",
        "It completed: the kernel works on host:1",
        "Digests of the regions: cells ",
    ):
        assert piece in told


def test_a_rolled_back_reload_names_the_step_and_the_reason(folder: Path) -> None:
    told = run("journal", "explain", folder, operation(folder, "reload"))
    assert "by dev (a try)" in told
    assert "It was rolled back: the kernel runs version" in told
    failed = told[told.index("Step ") :]
    assert failed.startswith("Step ")
    assert " failed: " in failed


def test_a_part_of_an_id_is_enough_if_no_other_has_it(folder: Path) -> None:
    """Without any id all operations are listed; an unknown one is answered with the nearest."""
    full, operations = operation(folder, "snapshot"), operations_of(read_records(folder))
    assert run("journal", "explain", folder, full[:11]) == run("journal", "explain", folder, full)
    listed = run("journal", "explain", folder).splitlines()
    assert [line.split()[-1] for line in listed] == ["completed", "saved", "rolled_back"]
    with pytest.raises(UsageError, match="no operation's id; the nearest: "):
        run("journal", "explain", folder, "nothing")
    two = {"x-1a": operations[full], "x-1b": operations[full]}
    with pytest.raises(UsageError, match="more than one operation's id"):
        find_operation(two, "x-1")


def test_an_operation_that_is_not_over_is_told_as_such(folder: Path) -> None:
    """As after a crash: cut the records off in the middle of the migration."""
    records = list(read_records(folder))
    wanted = operation(folder, "migration")
    positions = [n for n, one in enumerate(records) if one.stream == f"operation/{wanted}"]
    told = explain(operations_of(records[: positions[3]])[wanted])
    assert "It is not over: quiescing since" in told


def test_json_has_the_facts_and_the_text(folder: Path) -> None:
    plain = json.loads(run("journal", "explain", folder, operation(folder, "migration"), "--json"))
    assert plain["state"] == "completed"
    assert plain["facts"]["target"] == "host:1"
    assert plain["text"].startswith(plain["id"])


def test_the_export_as_lines_is_the_journal(folder: Path, tmp_path: Path) -> None:
    run("journal", "export", folder, "--output", tmp_path / "all.jsonl")
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines == run("journal", "show", folder, "--json").splitlines()


def test_the_trace_is_what_viewers_expect(folder: Path) -> None:
    """Complete events with times, named tracks, steps within their operation, one output."""
    text = run("journal", "export", folder, "--format", "chrome")
    assert text == run("journal", "export", folder, "--format", "chrome")
    events = json.loads(text)["traceEvents"]
    tracks = {one["tid"]: one["args"]["name"] for one in events if one["name"] == "thread_name"}
    assert set(tracks.values()) == {"engine", "kernel adder"}
    spans = defaultdict[str, list[dict[str, Any]]](list)
    for event in events:
        if event["ph"] == "M":
            continue
        assert event["tid"] in tracks
        assert event["ts"] >= 0
        if event["ph"] == "X":
            spans[event["cat"]].append(event)
        else:
            assert (event["ph"], event["s"]) == ("i", "t")
    assert set(spans) == {"migration", "snapshot", "reload"}
    for whole, *steps in spans.values():
        assert len(steps) > 3
        for step in steps:
            assert whole["ts"] <= step["ts"]
            assert step["ts"] + step["dur"] <= whole["ts"] + whole["dur"] + 1e-6
        assert whole["args"]["outcome"] in ("completed", "saved", "rolled_back")
