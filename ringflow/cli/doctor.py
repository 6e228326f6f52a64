"""``ringflow doctor``: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Annotated

import typer

_FOLDER = typer.Option(
    help="A folder for an engine: is it local, how much is free, how long takes a sync.",
    show_default=False,
)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(doctor)


def doctor(
    folder: Annotated[Path | None, _FOLDER] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Check what ringflow needs here, and say what to do about what is missing.

    Exits with 0 if all that is needed is there, else with 1; what only GPUs need may be missing.
    """
    import attrs

    from ringflow.cli.checks import all_checks
    from ringflow.cli.printing import columns, json_line, printable

    found = all_checks(sys.version_info, (sys.platform, platform.machine()), folder)
    if as_json:
        for check in found:
            typer.echo(json_line(attrs.asdict(check)))
    else:
        rows = [(check.verdict, check.name, printable(check.text)) for check in found]
        for line in columns(rows):
            typer.echo(line)
    raise typer.Exit(1 if any(check.is_needed and not check.is_ok for check in found) else 0)
