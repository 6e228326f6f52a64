"""``ringflow replay``: decisions from the journal's inputs, and an exact kernel's states, again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ringflow.engine.replay import ReplayReport
    from ringflow.engine.rerun import RerunReport
    from ringflow.events.codec import Event

_PATH = typer.Argument(help="The engine's folder, or its journal's.", show_default=False)
_KERNEL = typer.Option(help="Run this kernel again, from one recovery point to the next.")
_DEVICE = typer.Option(help="Where to run it.")
_JSON = typer.Option("--json", help="One JSON object.")


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(replay)


def replay(
    path: Annotated[Path, _PATH],
    kernel: Annotated[str | None, _KERNEL] = None,
    device: Annotated[str, _DEVICE] = "host:0",
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Recompute what the engine decided, from the journal's inputs; changes nothing.

    Verifies every line on the way. With --kernel an exact kernel runs again, on a device of this
    machine, from each recovery point that is kept to the next, and its memory must become the same.

    Exits with 0 if all is as the journal says, with 1 at the first difference, which is shown with
    both sides, or if the journal is damaged, with 2 for wrong use.
    """
    if kernel is None:
        _replay_decisions(path, as_json=as_json)
    else:
        _rerun(path, kernel, device, as_json=as_json)


def _replay_decisions(path: Path, *, as_json: bool) -> None:
    from ringflow.engine.replay import replay_records
    from ringflow.events.registry import default_codec
    from ringflow.journal.reader import read_history

    codec = default_codec()
    base, records = read_history(path)
    report = replay_records((record.decoded(codec) for record in records), base)
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
    if report.begun_at:
        typer.echo(f"records 1 to {report.begun_at} were archived: begun with the base record")
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
    from ringflow.events.values import canonical_json

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
        "begun_at": report.begun_at,
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


def _rerun(path: Path, kernel: str, device: str, *, as_json: bool) -> None:
    import anyio
    import attrs

    from ringflow.engine.rerun import rerun_kernel

    report = anyio.run(lambda: rerun_kernel(path, kernel, device=device))
    if as_json:
        _print_json(attrs.asdict(report))
    else:
        _print_rerun(report)
    raise typer.Exit(0 if report.equal else 1)


def _print_rerun(report: RerunReport) -> None:
    for span in report.spans:
        said = f"{span.start} -> {span.end}: {span.messages} messages"
        if span.skipped:
            typer.echo(f"{said}, not run: {span.skipped}")
        elif span.difference:
            typer.echo(f"{said}, {span.outputs} outputs: DIFFERS\n  {span.difference}")
        else:
            typer.echo(f"{said}, {span.outputs} outputs: equal in every region")


def _print_json(value: object) -> None:
    from ringflow.events.values import canonical_json

    typer.echo(canonical_json(value))
