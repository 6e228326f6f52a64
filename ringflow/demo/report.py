"""The table at the end of the demo, and its verdict."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from rich.console import Console
from rich.table import Table

import ringflow
from ringflow.demo.compare import ERROR_MAX
from ringflow.demo.plan import Phase
from ringflow.demo.records import Timing


@attrs.frozen(kw_only=True)
class Row:
    """One operation in the table; times in ms, ``None`` where a kill took the figure away."""

    operation: str
    state_bytes: int | None
    reply_gap_ms: float | None
    producer_gap_ms: float | None
    parked_count: int | None
    path: str
    digest: str


@attrs.frozen(kw_only=True)
class Verdict:
    """How the demo ended.

    Attributes:
        differences: what is not the same in both runs.
        errors: relative error against the numpy solver by region.
    """

    rows: tuple[Row, ...]
    differences: tuple[str, ...]
    errors: Mapping[str, float]
    message_count: int
    region_count: int

    @property
    def identical(self) -> bool:
        return not self.differences

    @property
    def good(self) -> bool:
        return self.identical and all(error <= ERROR_MAX for error in self.errors.values())


def row_of(phase: Phase, status: ringflow.OperationStatus, timing: Timing | None) -> Row:
    """Return the table's row of an operation, from the journal and from what the demo saw."""
    details = status.details
    return Row(
        operation=f"{phase.title}: {status.state.replace('_', ' ')}",
        state_bytes=details.get("state_bytes"),
        reply_gap_ms=timing.reply_gap_ms if timing else None,
        producer_gap_ms=timing.producer_gap_ms if timing else None,
        parked_count=details.get("parked_count"),
        path=str(details.get("path") or "in place"),
        digest=str(details.get("digest") or ""),
    )


def show(console: Console, verdict: Verdict) -> None:
    """Print the table, the errors against the solver and the verdict."""
    table = Table(title="What happened while the producer sent")
    table.add_column("operation")
    for heading in ("state bytes", "pause ms", "producer's gap ms", "parked"):
        table.add_column(heading, justify="right")
    table.add_column("path")
    table.add_column("digest")
    for row in verdict.rows:
        table.add_row(
            row.operation,
            "–" if row.state_bytes is None else f"{row.state_bytes:,}",
            _milliseconds(row.reply_gap_ms),
            _milliseconds(row.producer_gap_ms),
            "–" if row.parked_count is None else str(row.parked_count),
            row.path,
            row.digest[:12],
        )
    console.print(table)
    console.print(
        "pause: from the last reply before to the first reply after; producer's gap: the longest "
        "that it waited between two messages; – : the process was killed before it was noted"
    )
    for name, error in verdict.errors.items():
        fate = "" if error <= ERROR_MAX else f", over the bound of {ERROR_MAX:g}"
        console.print(f"relative error of {name} against the numpy solver: {error:.1e}{fate}")
    console.print(
        f"compared with a quiet run: {verdict.message_count} replies, "
        f"{verdict.region_count} regions"
    )
    for line in verdict.differences[:20]:
        console.print(f"  {line}", style="red")
    if len(verdict.differences) > 20:
        console.print(f"  and {len(verdict.differences) - 20} more", style="red")
    console.print(f"identical: {'yes' if verdict.identical else 'no'}")


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"
