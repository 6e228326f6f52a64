"""``ringflow diagram``: the state machines as Mermaid text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ringflow.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command("diagram")(diagram)


def diagram(
    name: Annotated[str, typer.Argument(help="lifecycle, migration, reload or snapshot.")] = "",
    write: Annotated[
        Path | None,
        typer.Option(help="Write the page with all machines to this file instead."),
    ] = None,
) -> None:
    """Print a state machine as a Mermaid diagram, drawn from its table.

    Any Mermaid viewer shows it; so do the web pages of most source code hosts.
    """
    from ringflow.cli.writing import write_file
    from ringflow.statemachines.diagrams import DRAWINGS, document, mermaid

    if write is not None:
        write_file(write, [document().encode()])
        return
    if name not in DRAWINGS:
        asked = f"no machine is named {name!r}" if name else "a machine's name is missing"
        raise UsageError(f"{asked}; name one of {', '.join(DRAWINGS)}")
    typer.echo(mermaid(DRAWINGS[name]))
