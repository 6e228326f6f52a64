"""The journal's benchmark runs; its figures are for people, not for tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson


def test_the_benchmark_writes_its_rows(tmp_path: Path) -> None:
    """The small form measures every part on both backends."""
    rows = tmp_path / "rows.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.journal", "--quick", "--json", str(rows)],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[2],
    )
    found = orjson.loads(rows.read_bytes())
    assert len(found) == 6
    assert all(row["value"] > 0 and set(row) >= {"name", "unit", "goal", "met"} for row in found)
