"""The journal's benchmark runs; its figures are for people, not for tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson

from benchmarks.journal_peers import installed


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
    names = [row["name"] for row in found]
    assert len(set(names)) == len(names)
    for backend in ("asyncio", "trio"):
        of_backend = [name for name in names if name.endswith(f"({backend})")]
        # two ratios, five rates, and a ratio and a rate for each other library
        assert len(of_backend) == 7 + 2 * len(installed())
    assert len(names) == 2 * len(of_backend) + 4
    assert all(row["value"] > 0 and set(row) >= {"name", "unit", "goal", "met"} for row in found)
