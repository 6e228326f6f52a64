"""The benchmark of the simulator runs, and measures what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson


def test_the_benchmark_writes_its_rows(tmp_path: Path) -> None:
    """A quick run ends well; every figure is a positive number, with its goal."""
    subprocess.run(
        [sys.executable, "-m", "benchmarks.simulate", "--quick", "--json", tmp_path / "rows"],
        check=True,
        cwd=Path(__file__).parents[2],
        capture_output=True,
    )
    rows = {row["name"]: row for row in orjson.loads((tmp_path / "rows").read_bytes())}
    assert rows["migrations, snapshots and reloads"]["goal"] == 1000
    assert len(rows) == 4
    assert all(row["value"] > 0 for row in rows.values())
