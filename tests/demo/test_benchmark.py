"""The benchmark of the main job runs, so that it can't rot; its quick figures prove nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson

ROOT = Path(__file__).parents[2]


def test_quick_form_writes_every_row(tmp_path: Path) -> None:
    """Each figure of the main job is there, with its goal, in the table and in the JSON."""
    out = tmp_path / "rows.json"
    command = [sys.executable, "-m", "benchmarks.demo", "--quick", "--json", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rows = orjson.loads(out.read_bytes())
    assert all(set(row) == {"name", "value", "unit", "goal", "met"} for row in rows)
    goals = {row["name"]: row["goal"] for row in rows if row["goal"] is not None}
    assert goals == {
        "step v1, speed over numpy's": 1.5,
        "step v2, speed over numpy's": 1.5,
        "compile v1, cold": 1.0,
        "compile v1, cached": 50.0,
        "round trip, volatile": 200.0,
        "durable over fdatasync": 2.0,
        "import ringflow": 0.3,
        "ringflow demo": 90.0,
    }
    assert all(row["value"] > 0 for row in rows)
    assert "round trip, volatile" in done.stdout
