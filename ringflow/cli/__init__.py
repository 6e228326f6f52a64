"""The program ``ringflow``; each command imports what it needs only when it runs."""

from __future__ import annotations

import importlib
import sys
from typing import Final

import typer

COMMAND_MODULES: Final = (
    "ringflow.cli.audit",
    "ringflow.cli.check",
    "ringflow.cli.checkpoint",
    "ringflow.cli.demo",
    "ringflow.cli.devices",
    "ringflow.cli.diagram",
    "ringflow.cli.doctor",
    "ringflow.cli.journal",
    "ringflow.cli.repair",
    "ringflow.cli.archive",
    "ringflow.cli.replay",
    "ringflow.cli.scenario",
    "ringflow.cli.simulate",
)


_LAYOUT: Final = "\n\t"  # of a compiler's log in an error


def build_app() -> typer.Typer:
    """Return the program with all its commands."""
    app = typer.Typer(
        name="ringflow",
        help="Persistent GPU kernels that are checkpointed, migrated and reloaded while they work.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_program)
    for name in COMMAND_MODULES:
        importlib.import_module(name).register(app)
    return app


def _program() -> None:
    """Persistent GPU kernels that are checkpointed, migrated and reloaded while they work."""


def main() -> None:
    """Run the program; its errors are one line on stderr, exit code 2 for the user's, else 1."""
    from ringflow.cli.printing import printable
    from ringflow.errors import RingflowError, UsageError

    try:
        build_app()()
    except RingflowError as error:
        print(f"ringflow: {printable(str(error), keep=_LAYOUT)}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from None
