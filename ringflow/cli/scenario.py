"""``ringflow scenario``: run readable scenario files, and make them of recorded journals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringflow.cli.backends import Backend
from ringflow.cli.backends import run as run_on
from ringflow.errors import UsageError
from ringflow.scenario.script import RULER

if TYPE_CHECKING:
    from ringflow.scenario.running import Outcome

_PATHS = typer.Argument(help="Scenario files, or folders of them (all *.txt below).")
_JOURNAL = typer.Argument(help="The engine's folder, or its journal's.", show_default=False)
_OUTPUT = typer.Option("--output", "-o", help="The scenario file to write.", show_default=False)
_CHECK = typer.Option(
    help="Run the scenario before it is written; one that comes to something else is refused."
)
_REWRITE = typer.Option(help="Write what was found into the files as what is expected.")
_SEED = typer.Option(
    min=0, help="Of every order, duration and id. Expected outputs are those of seed 0."
)
_KEEP = typer.Option(
    help="Keep each world's files (journal, checkpoints) here, a folder for each scenario.",
    show_default=False,
)
_BACKEND = typer.Option(help="What hosts the simulation. Changes no output.")


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    group = typer.Typer(
        name="scenario",
        help="Run readable scenarios in simulated worlds, or record them.",
        no_args_is_help=True,
    )
    group.callback()(_group)
    group.command("run")(run)
    group.command("record")(record)
    app.add_typer(group)


def _group() -> None:
    """Run readable scenarios in simulated worlds, or make them of journals."""


def record(
    path: Annotated[Path, _JOURNAL],
    output: Annotated[Path, _OUTPUT],
    check: Annotated[bool, _CHECK] = True,
) -> None:
    """Make a scenario of what a journal recorded: kernels, requests, messages, crashes.

    The events that the journal holds are its expected output. It is run once before it is written:
    what a journal can't tell (memory, files that were damaged, what a program wrote into a kernel's
    memory) may have decided, and then nothing is written and the first difference is shown.
    """
    from ringflow.cli.writing import write_file
    from ringflow.scenario.recorded_folder import check_recording, record_folder

    text = record_folder(path)
    if check:
        check_recording(text, path)
    write_file(output, [text.encode()])
    typer.echo(f"{output}: {text.count(chr(10) + RULER + chr(10))} commands")


def run(
    paths: Annotated[list[Path], _PATHS],
    rewrite: Annotated[bool, _REWRITE] = False,
    seed: Annotated[int, _SEED] = 0,
    keep: Annotated[Path | None, _KEEP] = None,
    backend: Annotated[Backend, _BACKEND] = Backend.ASYNCIO,
) -> None:
    """Run scenarios and compare their outputs with what the files expect.

    Exits with 0 if all pass, with 1 if one doesn't: its differences are shown, each with file and
    line. With another seed than 0 what is concurrent comes in other orders.
    """
    from ringflow.cli.writing import write_file

    if rewrite and seed:
        raise UsageError("expected outputs are those of seed 0; leave --seed away to rewrite")
    failed = 0
    files = _files(paths)
    for path in files:
        outcome = _outcome(path, seed, backend)
        if keep is not None:
            _keep(keep / path.parent.name / path.stem, outcome.contents)
        if rewrite and not outcome.failure:
            write_file(path, [outcome.rewritten().encode()])
        elif not outcome.passed:
            failed += 1
            typer.echo(outcome.report)
    typer.echo(f"{len(files) - failed} of {len(files)} scenarios passed")
    raise typer.Exit(1 if failed else 0)


def _files(paths: list[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"no file or folder {str(path)!r}; correct the path")
        found += sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not found:
        raise UsageError("the folders hold no *.txt; name one with scenarios")
    return found


def _outcome(path: Path, seed: int, backend: Backend) -> Outcome:
    import anyio.to_thread

    from ringflow.scenario.running import run_file

    async def hosted() -> Outcome:
        return await anyio.to_thread.run_sync(lambda: run_file(path, seed=seed))

    return run_on(hosted, backend)


def _keep(folder: Path, contents: Mapping[str, bytes]) -> None:
    from ringflow.cli.writing import write_file
    from ringflow.storage.folders import storage_errors

    for place, content in contents.items():
        path = folder / place
        with storage_errors("make", path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, [content])
