"""What all benchmarks share: rows with a goal, one table, and the same rows as JSON.

- A goal is a bound from above or from below; a row without one is information.
- ``finish`` is the end of every benchmark's ``main``: prints, writes, and returns the exit code.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
from collections.abc import Sequence
from pathlib import Path

import attrs
import orjson
from rich.console import Console
from rich.table import Table


@attrs.frozen
class Row:
    """One figure; ``goal`` is ``None`` where the figure is information only."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    met: bool = True


def at_most(name: str, value: float, unit: str, goal: float) -> Row:
    """Return a row whose value should not be over ``goal``."""
    return Row(name, value, unit, goal, value <= goal)


def at_least(name: str, value: float, unit: str, goal: float) -> Row:
    """Return a row whose value should not be under ``goal``."""
    return Row(name, value, unit, goal, value >= goal)


def median(values: Sequence[float]) -> float:
    """Return the median; of the ratios of one run's interleaved pairs it is the fair one."""
    return statistics.median(values)


@attrs.frozen
class Choices:
    """What the command line asks for."""

    quick: bool
    json: Path | None
    markdown: Path | None = None


def choices(description: str) -> Choices:
    """Parse the command line that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a small form; its goals say little")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="append the table to FILE, dated"
    )
    given = parser.parse_args()
    return Choices(given.quick, given.json, given.markdown)


def finish(title: str, rows: Sequence[Row], given: Choices) -> int:
    """Print the table and write the JSON; return 1 if a goal was missed in a full run."""
    table = Table(title=title)
    table.add_column("what")
    for heading in ("value", "goal"):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    table.add_column("met")
    for row in rows:
        goal, met = _goal_of(row)
        table.add_row(row.name, f"{row.value:.4g}", goal, row.unit, met)
    Console().print(table)
    if given.json:
        given.json.write_bytes(orjson.dumps([attrs.asdict(row) for row in rows]))
    if given.markdown:
        with given.markdown.open("a", encoding="utf-8") as file:
            file.write(as_markdown(title, rows))
    return 0 if given.quick or all(row.met for row in rows) else 1


def as_markdown(title: str, rows: Sequence[Row]) -> str:
    """Return the table as a section of a document, with today's date."""
    lines = [f"\n## {title}", f"{datetime.date.today()}", ""]
    lines += ["| what | value | goal | unit | met |", "|---|---:|---:|---|---|"]
    for row in rows:
        goal, met = _goal_of(row)
        lines.append(f"| {row.name} | {row.value:.4g} | {goal} | {row.unit} | {met} |")
    return "\n".join(lines) + "\n"


def _goal_of(row: Row) -> tuple[str, str]:
    if row.goal is None:
        return "", ""
    return f"{row.goal:g}", "yes" if row.met else "NO"
