"""How fast the simulation is: the swarm's operations a minute, and the repository's scenarios.

``python -m benchmarks.simulate [--quick] [--json FILE]``. An operation is a launch, a migration, a
reload, a snapshot, a rollback, the end of a halt or a stop; messages, openings and crashes come on
top. Runs on the calling thread alone.
"""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.table import Row, at_least, at_most, choices, finish
from ringflow.scenario.running import run_file
from ringflow.swarm.swarm import simulate

SCENARIOS = Path(__file__).parents[1] / "scenarios"


def swarm_rows(runs: int) -> list[Row]:
    """Return the rates of so many runs; the kernels' code was compiled before."""
    simulate(1, runs=1)
    report = simulate(10_000, runs=runs)
    assert report.found is None, f"seed {report.found.seed} fails: {report.found.failure.said}"
    minutes = report.duration_s / 60.0
    done = report.counts["operations"] + report.counts["openings"]
    return [
        at_least("swarm: operations and restarts", done / minutes, "1/min", 1000.0),
        Row("swarm: messages", report.counts["messages"] / minutes, "1/min"),
        Row("swarm: crashes", report.counts["crashes"] / minutes, "1/min"),
        Row("swarm: runs", report.counts["runs"] / minutes, "1/min"),
    ]


def scenario_rows(paths: list[Path]) -> list[Row]:
    """Return how long these scenario files take, one after the other."""
    begun = time.perf_counter()
    outcomes = [run_file(path) for path in paths]
    duration_s = time.perf_counter() - begun
    for outcome in outcomes:
        assert outcome.passed, outcome.report
    return [
        at_most("scenarios: all files", duration_s, "s", 60.0),
        Row("scenarios: files", len(paths), ""),
    ]


def main() -> int:
    given = choices("The simulation's speed")
    paths = sorted(SCENARIOS.rglob("*.txt"))
    rows = swarm_rows(2 if given.quick else 60)
    rows += scenario_rows(paths[::20] if given.quick else paths)
    return finish("Simulation", rows, given)


if __name__ == "__main__":
    raise SystemExit(main())
