"""The simulation's benchmark runs; its figures are for people, not for tests."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import orjson
import pytest

from benchmarks.simulate import scenario_rows, swarm_rows
from ringflow.swarm.plan import Plan
from ringflow.swarm.running import Failure, Result


def test_the_quick_form_writes_every_row(tmp_path: Path) -> None:
    """Four rates of the swarm, and the scenarios' time and number."""
    rows = tmp_path / "rows.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.simulate", "--quick", "--json", str(rows)],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[2],
    )
    found = orjson.loads(rows.read_bytes())
    assert len({row["name"] for row in found}) == len(found) == 6
    assert all(row["value"] > 0 for row in found if "crashes" not in row["name"])


def test_a_failure_ends_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast something went wrong is no figure."""
    story = tmp_path / "wrong.txt"
    story.write_text("# Nobody comes.\n\nkernels\n----\nadder running\n")
    with pytest.raises(AssertionError, match=r"wrong.txt:3: kernels\n[^$]*-adder running"):
        scenario_rows([story])

    def broken(plan: Plan) -> Result:
        return Result(Counter(), Failure("kind", "what was said"))

    monkeypatch.setattr("ringflow.swarm.swarm.run_plan", broken)
    with pytest.raises(AssertionError, match="seed 10000 fails: what was said"):
        swarm_rows(1)
