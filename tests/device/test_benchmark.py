"""The host device's benchmark, in its small form, so that it can't rot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson

ROOT = Path(__file__).parent.parent.parent
GOALS = {
    "stencil in cache, direct, over numpy",
    "stencil in cache, tiled, over numpy",
    "persistent stencil, direct, over numpy",
    "persistent stencil, tiled, over numpy",
    "matrix product 64²",
    "barrier, a thread: uniform",
    "barrier, a thread: divergent",
    "round trip, worker spins",
    "round trip, worker parked",
    "messages in a row, send_many, volatile",
    "50 parked kernels: a core's share",
    "50 parked kernels: memory",
    "50 parked kernels: stop all",
    "kernel from source, cold",
    "kernel from source, cached",
}


def test_benchmark_has_a_row_for_each_goal(tmp_path: Path) -> None:
    """Every figure that was promised is measured, and the table can be read by machines."""
    out = tmp_path / "rows.json"
    command = [sys.executable, "-m", "benchmarks.host_device", "--quick", "--json", str(out)]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 0, ended.stderr
    rows = orjson.loads(out.read_bytes())
    assert set(rows[0]) == {"name", "value", "unit", "goal", "met"}
    with_goal = {row["name"] for row in rows if row["goal"] is not None}
    assert with_goal >= GOALS, f"{GOALS - with_goal} are missing"
    assert all(row["value"] > 0 for row in rows if "parked kernels" not in row["name"])
