"""The simulator's speed: operations and crashes a minute, and how long the scenarios take.

Kernels are compiled before the clock starts; the worlds share the cache, as the suite's do.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.table import Row, at_least, at_most, choices, finish
from ringflow.engine.engine import Engine
from ringflow.scenario.describing import code_of, spec_of
from ringflow.scenario.running import run_file
from ringflow.simulate.world import World

SCENARIOS = Path(__file__).parent.parent / "scenarios"
KERNELS = SCENARIOS / "kernels"
MESSAGES = 3  # before each operation


class Load:
    """A small kernel that is moved, saved and reloaded in turn, with messages between."""

    def __init__(self) -> None:
        source = (KERNELS / "adder.cu").read_text()
        self.spec = spec_of("adder", source, {}, "adder")
        twice = (KERNELS / "adder_twice.cu").read_text()
        self._codes = (code_of(source, {}, "adder"), code_of(twice, {}, "twice"))
        self._done = 0

    async def operate(self, engine: Engine, count: int) -> None:
        for _ in range(count):
            self._done += 1
            for value in range(MESSAGES):
                await engine.send("adder", 1, value.to_bytes(8, "little"))
            match self._done % 3:
                case 0:
                    (status,) = engine.kernels()
                    target = "host:1" if status.device == "host:0" else "host:0"
                    await engine.migrate("adder", to=target)
                case 1:
                    await engine.checkpoint("adder")
                case _:
                    code = self._codes[self._done // 3 % 2]
                    await engine.reload("adder", code, probation_messages=0)


def opened(load: Load) -> World:
    """Return a world in which the kernel runs and all code is compiled."""
    world = World()
    world.open()
    world.run(lambda engine: engine.launch(load.spec, device="host:0"))
    world.run(lambda engine: load.operate(engine, 6))
    return world


def operations(count: int) -> list[Row]:
    """Time operations, one after the other."""
    load = Load()
    world = opened(load)
    effects, start_s = len(world.faults.effects), time.perf_counter()
    world.run(lambda engine: load.operate(engine, count))
    minutes = (time.perf_counter() - start_s) / 60
    effects = len(world.faults.effects) - effects
    world.close()
    return [
        at_least("migrations, snapshots and reloads", count / minutes, "1/min", 1000),
        Row("effects", effects / minutes / 60, "1/s"),
    ]


def crashes(count: int) -> Row:
    """Time crashes within a snapshot, each with its restart."""
    load = Load()
    world = opened(load)
    start_s = time.perf_counter()
    for _ in range(count):
        world.start(lambda engine: engine.checkpoint("adder"))
        for _ in range(20):
            world.step()
        world.crash()
        world.restart()
    minutes = (time.perf_counter() - start_s) / 60
    world.close()
    return Row("crashes and restarts", count / minutes, "1/min")


def scenarios(*, quick: bool) -> Row:
    """Time the scenario files, one after the other."""
    paths = sorted(SCENARIOS.rglob("*.txt"))[: 3 if quick else None]
    start_s = time.perf_counter()
    failed = [path.name for path in paths if not run_file(path).passed]
    assert not failed, failed
    return at_most(f"{len(paths)} scenarios", time.perf_counter() - start_s, "s", 60)


def main() -> int:
    """Measure and print."""
    given = choices(__doc__ or "")
    count = 12 if given.quick else 300
    rows = [*operations(count), crashes(count // 3), scenarios(quick=given.quick)]
    return finish("Simulator", rows, given)


if __name__ == "__main__":
    sys.exit(main())
