"""The machines drawn as Mermaid state diagrams, from nothing but their tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from ringflow.statemachines import hot_reload, lifecycle, migration, snapshot
from ringflow.statemachines.table import RestartRule, Table


@attrs.frozen
class Drawing:
    """What a diagram is drawn from: what the machine is about, its table, its restart rules."""

    subject: str
    transitions: Table[Any]
    restart: Mapping[Any, RestartRule]


DRAWINGS: Final[Mapping[str, Drawing]] = {
    "lifecycle": Drawing("A kernel's life", lifecycle.TRANSITIONS, lifecycle.RESTART),
    "migration": Drawing("A live migration", migration.TRANSITIONS, migration.RESTART),
    "reload": Drawing("A hot reload", hot_reload.TRANSITIONS, hot_reload.RESTART),
    "snapshot": Drawing("A snapshot", snapshot.TRANSITIONS, snapshot.RESTART),
}


def mermaid(drawing: Drawing) -> str:
    """Return a ``stateDiagram-v2``: an arrow for each pair of states, labelled with its events."""
    table = drawing.transitions
    lines = ["stateDiagram-v2", f"    [*] --> {next(iter(table)).value}"]
    for state, row in table.items():
        targets: dict[Any, list[str]] = {}
        for event, target in row.items():
            targets.setdefault(target, []).append(short_name(event))
        lines += [
            f"    {state.value} --> {target.value}: {', '.join(sorted(events))}"
            for target, events in targets.items()
        ]
        if not row:
            lines.append(f"    {state.value} --> [*]")
    return "\n".join(lines)


def short_name(event: type[Any]) -> str:
    """Return an event's wire name without its stream and version: ``gate_opened``."""
    name: str = event.wire_name
    return name.rsplit(".", 1)[0].split(".", 1)[-1]


def restart_rows(drawing: Drawing) -> list[tuple[str, str]]:
    """Return each state with what the next engine does when it finds it."""
    return [(state.value, rule.value) for state, rule in drawing.restart.items()]


def document() -> str:
    """Return the page that shows all machines: docs/machines.md."""
    parts = [
        "# The state machines\n\nDrawn from the tables in `ringflow/statemachines/`; "
        "`ringflow diagram NAME` prints one, "
        "`ringflow diagram --write docs/machines.md` draws this page again, and a test compares. "
        "An arrow is labelled with the events that lead along it.\n"
    ]
    for name, drawing in DRAWINGS.items():
        rules = "\n".join(f"| `{state}` | {rule} |" for state, rule in restart_rows(drawing))
        parts.append(
            f"## {drawing.subject} (`{name}`)\n\n"
            f"```mermaid\n{mermaid(drawing)}\n```\n\n"
            f"| left in | the next engine's rule |\n|---|---|\n{rules}\n"
        )
    return "\n".join(parts)
