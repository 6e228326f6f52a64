"""The table at the end of the demo, and its verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import attrs
from rich import box
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
    state_bytes: int
    reply_gap_ms: float | None
    producer_gap_ms: float | None
    parked_count: int
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


def row_of(
    phase: Phase, status: ringflow.OperationStatus, timing: Timing | None, *, last_state_bytes: int
) -> Row:
    """Return the table's row of an operation, from the journal and from what the demo saw.

    Args:
        last_state_bytes: of the regions at the end; they are the reloads' new regions too.
    """
    details, ending = status.details, status.state.replace("_", " ")
    return Row(
        operation=phase.title if status.state == "completed" else f"{phase.title}: {ending}",
        state_bytes=details.get("state_bytes", last_state_bytes),
        reply_gap_ms=timing.reply_gap_ms if timing else None,
        producer_gap_ms=timing.producer_gap_ms if timing else None,
        parked_count=details["parked_count"],
        path=details.get("path", "in place"),
        digest=digest_of(details["digests"]),
    )


def digest_of(digests: Mapping[str, str]) -> str:
    """Return the SHA-256 (hex) over the regions' names and digests, in the names' order."""
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def show(console: Console, verdict: Verdict) -> None:
    """Print the table, the errors against the solver and the verdict."""
    table = Table(
        title="What happened while the producer sent",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("operation", no_wrap=True)
    for heading in ("state bytes", "pause ms", "gap ms", "parked"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("path", no_wrap=True)
    table.add_column("digest", no_wrap=True)
    for row in verdict.rows:
        table.add_row(
            row.operation,
            f"{row.state_bytes:,}",
            _milliseconds(row.reply_gap_ms),
            _milliseconds(row.producer_gap_ms),
            str(row.parked_count),
            row.path,
            row.digest[:8],
        )
    console.print(table)
    console.print(
        "pause: last reply before to first reply after; gap: the longest that the producer waited"
    )
    if any(None in (row.reply_gap_ms, row.producer_gap_ms) for row in verdict.rows):
        console.print("–: a kill took the figure away")
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
