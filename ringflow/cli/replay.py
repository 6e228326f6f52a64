"""``ringflow replay``: do a journal's decisions follow from its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ringflow.engine.replay import ReplayReport
    from ringflow.events.codec import Event

_PATH = typer.Argument(help="The engine's folder, or its journal's.", show_default=False)
_JSON = typer.Option("--json", help="One JSON object.")


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(replay)


def replay(
    path: Annotated[Path, _PATH],
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Recompute what the engine decided, from the journal's inputs; changes nothing.

    Verifies every line on the way.

    Exits with 0 if all is as the journal says, with 1 at the first difference, which is shown with
    both sides, or if the journal is damaged, with 2 for wrong use.
    """
    from ringflow.engine.replay import replay_records
    from ringflow.events.registry import default_codec
    from ringflow.journal.reader import read_records

    codec = default_codec()
    report = replay_records(record.decoded(codec) for record in read_records(path))
    if as_json:
        _print_json(_plain_report(report))
    else:
        _print_report(report)
    raise typer.Exit(0 if report.difference is None else 1)


def _print_report(report: ReplayReport) -> None:
    said = (
        f"{report.records} records of {report.epochs} openings, {report.decisions} decisions of "
        f"{report.operations} operations"
    )
    found = report.difference
    if found is None:
        typer.echo(f"replayed: {said}; each follows from its inputs")
        return
    typer.echo(f"first difference: record {found.sequence} of {found.stream}, epoch {found.epoch}")
    typer.echo(f"  {found.reason}")
    typer.echo(f"  in the journal: {_events(found.recorded)}")
    typer.echo(f"  recomputed:     {_events(found.expected)}")
    typer.echo(f"before it: {said}")


def _events(events: tuple[Event, ...]) -> str:
    from ringflow.events.codec import canonical_json

    return (
        "\n                  ".join(
            canonical_json(plain).decode() for plain in _plain_events(events)
        )
        or "nothing, the engine refuses"
    )


def _plain_events(events: tuple[Event, ...]) -> list[dict[str, Any]]:
    from ringflow.events.registry import default_codec

    codec = default_codec()
    return [codec.to_plain(event) for event in events]


def _plain_report(report: ReplayReport) -> dict[str, Any]:
    found = report.difference
    return {
        "records": report.records,
        "decisions": report.decisions,
        "operations": report.operations,
        "epochs": report.epochs,
        "difference": None
        if found is None
        else {
            "sequence": found.sequence,
            "stream": found.stream,
            "epoch": found.epoch,
            "reason": found.reason,
            "recorded": _plain_events(found.recorded),
            "expected": _plain_events(found.expected),
        },
    }


def _print_json(value: object) -> None:
    from ringflow.events.codec import canonical_json

    typer.echo(canonical_json(value))
