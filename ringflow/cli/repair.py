"""``ringflow journal repair``: the one command that changes a journal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ringflow.cli.journal import journal

_PATH = typer.Argument(help="The engine's folder, or the journal's.", show_default=False)


def register(app: typer.Typer) -> None:
    """Add the command to the group of the journal's commands."""
    journal.command()(repair)


def repair(
    path: Annotated[Path, _PATH],
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without, only say it.")] = False,
    actor: Annotated[str, typer.Option(help="Who does it; journaled.", show_default=False)] = "",
    reason: Annotated[str, typer.Option(help="Why; journaled.", show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Cut a damaged journal at the damage, so that an engine can open it again.

    First without --apply: it says what would be lost. Records behind the damage were acknowledged
    once; a copy of the segment from a backup is better than a repair. With --apply, --actor and
    --reason all files that change are copied to a folder beside them, and the repair itself is
    journaled. Exits with 1 if there is damage and nothing was applied.
    """
    import attrs

    from ringflow.events.values import canonical_json
    from ringflow.journal.repair import plan_repair
    from ringflow.journal.repair import repair as repair_journal

    plan = repair_journal(path, actor=actor, reason=reason) if apply else plan_repair(path)
    if as_json:
        typer.echo(canonical_json({"applied": apply, "plan": plan and attrs.asdict(plan)}))
    elif plan is None:
        typer.echo("no damage: nothing to repair")
    else:
        last = plan.last_sequence
        kept = "no record" if last < 1 else "record 1" if last == 1 else f"records 1 to {last}"
        one, several = ("was", "were") if apply else ("would be", "would be")
        typer.echo(
            f"damage: segment {plan.segment}, line {plan.line}: {plan.damage}\n"
            f"{kept} {several if last > 1 else one} kept; {plan.cut_bytes} bytes with "
            f"{plan.lost_records} whole records {several} cut; copies of the files that change "
            f"{several} put into {plan.backup}/"
        )
        typer.echo(
            "checkpoints that only records of the cut part name go to "
            f"checkpoints/{plan.backup}/ at the next opening of the engine"
        )
        for name in plan.goes:
            typer.echo(f"segment {name} {one} taken out whole")
    if plan is not None and not apply:
        raise typer.Exit(1)
