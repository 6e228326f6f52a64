"""``ringflow simulate``: random scenarios, as many as time allows; a failure comes as a file."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ringflow.swarm.swarm import Report

_SEED = typer.Option(min=0, help="Of the first run; the next ones count up. Random if left out.")
_HOURS = typer.Option(min=0, help="End after so much time.", show_default=False)
_RUNS = typer.Option(
    min=1, help="End after so many runs. 100 if neither is given.", show_default=False
)
_LENGTH = typer.Option(min=1, help="Commands of a run, about.")
_FOUND = typer.Option(help="Where the scenario file of a failure is written.")


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("simulate")(simulate)


def simulate(
    seed: Annotated[int | None, _SEED] = None,
    hours: Annotated[float | None, _HOURS] = None,
    runs: Annotated[int | None, _RUNS] = None,
    length: Annotated[int, _LENGTH] = 60,
    found: Annotated[Path, _FOUND] = Path("scenarios/found"),
) -> None:
    """Run random scenarios in simulated worlds: kernels, messages, operations, faults, crashes.

    After each everything that is promised is checked. The first failure ends it with exit code 1:
    it is made short and written as a scenario file, which ``ringflow scenario run`` runs again.
    """
    from ringflow.swarm.swarm import simulate as run

    first = secrets.randbelow(1 << 32) if seed is None else seed
    typer.echo(f"seed {first}")
    report = run(
        first,
        runs=100 if runs is None and hours is None else runs,
        duration_s=None if hours is None else hours * 3600.0,
        length=length,
        folder=found,
        progress=_progress,
    )
    typer.echo(str(report))
    if (failure := report.found) is not None:
        typer.echo(f"seed {failure.seed} fails: {failure.failure.said}", err=True)
        typer.echo(f"shrunk to {len(failure.plan.lines)} commands: {failure.path}", err=True)
        raise typer.Exit(1)


def _progress(report: Report) -> None:
    if report.counts["runs"] % 10 == 0 and report.found is None:
        typer.echo(str(report))
