"""The swarm itself: a bounded run, plans that are data, failures that shrink to short files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringflow.errors import StorageError
from ringflow.scenario.arguments import Arguments
from ringflow.scenario.running import run_file
from ringflow.scenario.script import parse
from ringflow.scenario.table import COMMANDS, PREFIXES
from ringflow.swarm.plan import Plan, draw
from ringflow.swarm.running import Failure, run_plan
from ringflow.swarm.swarm import made_short, simulate

SEED, RUNS = 1000, 10


def test_what_is_promised_holds_in_a_bounded_swarm(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """``--swarm-runs 1000 --swarm-seed N`` is the long run; a failure is a file to run again."""
    runs: int = request.config.getoption("--swarm-runs") or RUNS
    seed: int = request.config.getoption("--swarm-seed") or SEED
    report = simulate(seed, runs=runs, folder=tmp_path)
    assert report.found is None, report.found
    assert report.counts["runs"] == runs
    for name in ("operations", "messages", "outputs", "crashes", "faults", "openings"):
        assert report.counts[name] > 0, name


def test_some_plans_have_gpus_and_lose_them() -> None:
    """Never all devices: what can't go on anywhere is no finding."""
    plans = [draw(seed) for seed in range(60)]
    with_gpus = [plan for plan in plans if "cuda:" in plan.lines[0]]
    assert 5 <= len(with_gpus) <= 30
    assert all("host:0" in plan.lines[0] for plan in with_gpus)
    assert any(line.startswith("lose cuda:") for plan in with_gpus for line in plan.lines)
    others = [line for plan in plans if plan not in with_gpus for line in plan.lines]
    assert not any(line.startswith("lose") for line in others)


@pytest.mark.parametrize("seed", range(20))
def test_every_line_of_a_plan_is_a_command_of_the_language(seed: int) -> None:
    """A misspelt command would be tried, refused, and never missed."""
    script = parse(draw(seed).text("a plan"))
    for command in script.commands:
        words = [*command.words]
        while words[0].text in PREFIXES:
            del words[: 2 if words[0].text == "begin" else 1]
        usage = COMMANDS[words[0].text].usage
        bare = type(command)(tuple(words), "", (), command.line, command.ruler_line)
        Arguments(bare, usage, "plan")


def test_one_seed_gives_one_run() -> None:
    """The same plan, and the same counts of everything that happened."""
    assert draw(5) == draw(5) != draw(6)
    assert run_plan(draw(5)) == run_plan(draw(5))


def test_a_plan_as_a_file_runs_as_the_plan(tmp_path: Path) -> None:
    """What is written is what was run."""
    path = tmp_path / "plan.txt"
    path.write_text(draw(7).text("Seed 7."), encoding="utf-8")
    assert run_file(path).passed


def test_a_folder_that_refuses_a_finding_is_a_storage_error(tmp_path: Path) -> None:
    """The name in it has the seed, which finds the failure again."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"planned-7\.txt"):
        made_short(Plan(7, ("no such command",)), Failure("Planned", "x"), tmp_path / "file")
