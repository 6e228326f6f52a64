"""The simulation's benchmark runs; its figures are for people, not for tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson


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
