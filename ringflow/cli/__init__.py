"""The program ``ringflow``; each command imports what it needs only when it runs."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Annotated, Final

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
        rich_markup_mode="markdown",  # paragraphs are wrapped anew, for the terminal's width
    )
    app.callback()(_program)
    for name in COMMAND_MODULES:
        importlib.import_module(name).register(app)
    return app


def _print_version(asked: bool) -> None:
    from ringflow.version import __version__

    if asked:
        typer.echo(f"ringflow {__version__}")
        raise typer.Exit


_VERSION: Final = typer.Option(
    "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
)


def _program(version: Annotated[bool, _VERSION] = False) -> None:
    """Persistent GPU kernels that are checkpointed, migrated and reloaded while they work."""


def main() -> None:
    """Run the program; its errors are one line on stderr, exit code 2 for the user's, else 1."""
    from ringflow.cli.printing import printable
    from ringflow.errors import NotFoundError, RingflowError, UsageError

    try:
        build_app()()
    except RingflowError as error:
        print(f"ringflow: {printable(str(error), keep=_LAYOUT)}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, (UsageError, NotFoundError)) else 1) from None
    except OSError as error:  # of standard output, mostly: a full disk behind it
        said = f"{error}; check the disk's space and the permissions, then try again"
        print(f"ringflow: {printable(said)}", file=sys.stderr)
        with contextlib.suppress(OSError):  # what it still holds is not tried again at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
