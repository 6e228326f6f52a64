"""``ringflow journal archive``: take what nothing needs out of a journal that nobody has open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ringflow.cli.journal import PATH, journal

_TO = typer.Option("--to", help="The folder that the segments go to.", show_default=False)
_DELETE = typer.Option("--delete", help="Delete the segments instead.")
_UNTIL = typer.Option("--until", min=0, help="Take nothing behind this sequence.")


def register(app: typer.Typer) -> None:
    """Add the command to the group of the journal's commands."""
    journal.command()(archive)


def archive(
    path: Annotated[Path, PATH],
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without, only say it.")] = False,
    to: Annotated[Path | None, _TO] = None,
    delete: Annotated[bool, _DELETE] = False,
    until: Annotated[int | None, _UNTIL] = None,
    actor: Annotated[str, typer.Option(help="Who does it; journaled.", show_default=False)] = "",
    reason: Annotated[str, typer.Option(help="Why; journaled.", show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Take the oldest records out of a journal, as far as nothing needs them.

    First without --apply: it says what would go and what keeps the rest. What goes is replaced by a
    record of the state at its end, from which the journal opens and verifies on. With --apply and
    --to the segments become a journal of their own in that folder, which every command reads.
    """
    from functools import partial

    import anyio
    import attrs

    from ringflow.engine.archiving import archive_folder
    from ringflow.events.values import canonical_json

    work = partial(
        archive_folder,
        path,
        target=to,
        delete=delete,
        to_sequence=until,
        dry_run=not apply,
        actor=actor,
        reason=reason,
    )
    plan = anyio.run(work)
    if as_json:
        typer.echo(canonical_json({"applied": apply, "plan": attrs.asdict(plan)}))
        return
    did = "went" if apply else "would go"
    if plan.segments:
        typer.echo(
            f"records {plan.first_sequence} to {plan.last_sequence} {did}: "
            f"{len(plan.segments)} segments, {plan.size_bytes} bytes of text"
        )
    elif plan.leftovers:
        typer.echo(f"{len(plan.leftovers)} segments {did} that an earlier archiving left")
    else:
        typer.echo("nothing may go")
    for one in plan.kept:
        typer.echo(f"kept from {one.sequence} on: {one.what}")
