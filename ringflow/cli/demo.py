"""``ringflow demo``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ringflow.cli.backends import Backend, run


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(demo)


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the pictures, the replies and the engines.")
    ] = Path("ringflow-demo"),
    scale: Annotated[
        float | None,
        typer.Option(
            help="Size of the grid; 1, the default, is about 1,000 x 1,300 cells.",
            show_default=False,
        ),
    ] = None,
    messages: Annotated[
        int | None,
        typer.Option(
            min=60,
            help="Messages that the producer sends at least; 240 by default.",
            show_default=False,
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            help="Where it begins, where it moves to, and, of three, moves last; "
            "host:0,host:1 by default.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the demo in the folder, after a kill, with its settings; "
            "where there is none yet, a new one begins.",
        ),
    ] = False,
    backend: Annotated[Backend, typer.Option(help="What runs it.")] = Backend.ASYNCIO,
) -> None:
    """Migrate and reload a wave simulation while it runs, then prove that nothing was lost.

    A persistent kernel steps waves over the sea floor around Vancouver Island. While a producer
    keeps sending, the kernel is migrated, reloaded with a second version, given a third version
    that traps and is rolled back, and migrated back. Then the same messages run once more without
    all that, and every region and every reply is compared bit for bit. Exits with 1 unless they
    are identical.
    """
    from rich.console import Console

    from ringflow.demo.run import Options, run_demo
    from ringflow.errors import RingflowError

    console = Console()
    options = Options(
        folder=out,
        scale=scale,
        message_count=messages,
        devices=None if devices is None else tuple(devices.split(",")),
        resume=resume,
    )
    try:
        verdict = run(lambda: run_demo(options, console), backend)
    except BaseExceptionGroup as group:
        causes = list(_leaves(group))
        if not all(isinstance(cause, RingflowError) for cause in causes):
            raise
        raise causes[0] from None
    console.print(f"read what happened: ringflow journal show {out}")
    raise typer.Exit(0 if verdict.good else 1)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error
