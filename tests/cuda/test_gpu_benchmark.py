"""The benchmark of GPUs on the stand-in, a test double: its rows are measured, none is a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.table import Row, as_markdown
from ringflow.device.cuda.probe import probe
from tests.cuda.standin import Standin

TWO = {"memory_bytes": 400 << 20, "memcheck": False}
WITH_GOALS = {
    "launch, over bare",
    "round trip, over bare",
    "hold, over the bare word",
    "copy in, over bare",
    "copy out, over bare",
    "digest, over the bare copy out to pinned memory",
    "copy to the other GPU, over bare",
    "copy within the GPU, over bare",
    "snapshot, over the bare copy out",
    "migration, over bare copy and sync",
    "reload, over bare copy and sync",
}


@pytest.mark.parametrize("gpus", [TWO], indirect=True)
def test_each_row_is_measured(gpus: Standin, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """On two GPUs every row comes, and those with a goal say so."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    facts = probe()
    rows = gpu.measure(facts, quick=True)
    assert {row.name for row in rows if row.goal is not None} == WITH_GOALS
    assert all(row.value > 0 for row in rows)
    assert gpu.machine(facts).startswith("Stand-in GPU (a test double), Stand-in GPU")
    assert not any(folder.iterdir())


@pytest.mark.parametrize("gpus", [{"devices": 1, **TWO}], indirect=True)
def test_one_gpu_moves_its_kernel_to_the_host(gpus: Standin, tmp_path: Path) -> None:
    """The pauses need no second GPU."""
    rows = gpu.pause_rows(tmp_path, peers=False, quick=True)
    assert "pause of a migration, cuda:0 to host:0" in {row.name for row in rows}


def test_a_table_goes_into_a_document() -> None:
    """One line a row, headed by the machine."""
    rows = [Row("launch", 12.0, "us"), Row("ratio", 3.5, "times", 3.0, False)]
    lines = as_markdown("A GPU", rows).splitlines()
    assert lines[1] == "## A GPU"
    assert lines[-2:] == ["| launch | 12 |  | us |  |", "| ratio | 3.5 | 3 | times | NO |"]
