"""``ringflow checkpoint``: look into checkpoint files; nothing here changes one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ringflow.cli.checkpoint_files import Verdict

_PATH = typer.Argument(
    help="The engine's folder, its journal's, or a folder of checkpoint files.", show_default=False
)
_FILE = typer.Argument(
    help="A checkpoint file, or FOLDER/NAME; NAME with or without the kernel before its @.",
    show_default=False,
)
_NAME = typer.Argument(help="The checkpoint's name, where the first one is a folder.")
_JSON = typer.Option("--json", help="One JSON object, for machines.")
_JSON_LINES = typer.Option("--json", help="One JSON object a line, for machines.")
_ALL = typer.Option("--all", help="Also those that were retired or given up.")
_OUTPUT = typer.Option("--output", "-o", help="The .npy file to write.", show_default=False)

checkpoint = typer.Typer(
    help="Look into checkpoints: list, show, verify, compare, extract.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(checkpoint, name="checkpoint")


@checkpoint.command(name="list")
def list_(
    path: Annotated[Path, _PATH],
    every: Annotated[bool, _ALL] = False,
    as_json: Annotated[bool, _JSON_LINES] = False,
) -> None:
    """List an engine's checkpoints by kernel: state, applied messages, size, time, code version.

    A recovery point is one that the journal names; an orphan is a file that it does not name, left
    by a crash or just being made; a retired one is history, and its file is gone.
    """
    from ringflow.cli.checkpoint_files import open_folder
    from ringflow.cli.checkpoint_text import list_lines, listed
    from ringflow.cli.printing import json_line

    there = open_folder(path)
    rows = listed(there, every=every)
    if as_json:
        for row in rows:
            typer.echo(json_line(row.plain()))
        return
    ended = 0 if every or there.known is None else sum(not one.is_live for one in there.known)
    for line in list_lines(rows, ended_count=ended):
        typer.echo(line)


@checkpoint.command()
def show(
    path: Annotated[Path, _FILE],
    name: Annotated[str, _NAME] = "",
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Show what a checkpoint holds: kernel, messages, code, regions with their digests, outbox.

    The file is verified on the way.
    """
    from ringflow.cli.checkpoint_files import find_file
    from ringflow.cli.checkpoint_text import plain_checkpoint, show_lines
    from ringflow.cli.printing import json_line
    from ringflow.storage.reading import read_checkpoint

    file = find_file(path, name)
    plain = plain_checkpoint(read_checkpoint(file), file)
    if as_json:
        typer.echo(json_line(plain))
        return
    for line in show_lines(plain):
        typer.echo(line)


@checkpoint.command()
def verify(
    path: Annotated[Path, _FILE],
    name: Annotated[str, _NAME] = "",
    as_json: Annotated[bool, _JSON_LINES] = False,
) -> None:
    """Check a file, or all of an engine's: CRC, every block's digest, identity.

    In an engine's folder a recovery point is held against its event in the journal as well, and the
    spec and the code that go with it are checked. An orphan is reported, and is no error.

    Exits with 0 if all are whole, else with 1, naming what differs.
    """
    import attrs

    from ringflow.cli.checkpoint_files import verify_folder, verify_one
    from ringflow.cli.printing import json_line

    whole = not name and path.is_dir()
    verdicts = verify_folder(path) if whole else iter([verify_one(path, name)])
    count = bad = 0
    for verdict in verdicts:
        count += 1
        bad += bool(verdict.problems) and verdict.state != "orphan"
        typer.echo(
            json_line({"whole": not verdict.problems, **attrs.asdict(verdict)})
            if as_json
            else _verdict_text(verdict)
        )
    if whole and not as_json:
        typer.echo(f"{count} checkpoints, {bad} not as they should be")
    raise typer.Exit(1 if bad else 0)


def _verdict_text(verdict: Verdict) -> str:
    from ringflow.cli.printing import printable
    from ringflow.cli.story import size_text

    name = printable(verdict.name)
    if verdict.problems:
        problems = "; ".join(printable(problem) for problem in verdict.problems)
        return f"differs: {verdict.state} {name}: {problems}"
    what = "" if verdict.has_digests else ", by its CRC only: it carries no digests"
    return (
        f"whole: {verdict.state} {name}, {verdict.regions} regions, "
        f"{size_text(verdict.data_bytes)}, identity {verdict.identity}{what}"
    )


@checkpoint.command()
def diff(
    a: Annotated[Path, _FILE],
    b: Annotated[Path, _FILE],
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Compare two checkpoints: facts, regions, 64 KiB blocks, and where a region first differs.

    Exits with 0 if they hold the same, with 1 if not.
    """
    import attrs

    from ringflow.cli.checkpoint_files import find_file
    from ringflow.cli.checkpoint_text import diff_lines
    from ringflow.cli.comparing import chunk_differences, metadata_differences
    from ringflow.cli.printing import json_line
    from ringflow.storage.reading import read_checkpoint

    left, right = (read_checkpoint(find_file(one)) for one in (a, b))
    facts, chunks = metadata_differences(left, right), list(chunk_differences(left, right))
    if as_json:
        plain = {
            "same": not facts and not chunks,
            "identities": [left.identity(), right.identity()],
            "metadata": [attrs.asdict(one) for one in facts],
            "chunks": [attrs.asdict(one) for one in chunks],
        }
        typer.echo(json_line(plain))
    else:
        for line in diff_lines(left, right, facts, chunks):
            typer.echo(line)
    raise typer.Exit(1 if facts or chunks else 0)


@checkpoint.command()
def extract(
    file: Annotated[Path, _FILE],
    region: Annotated[str, typer.Argument(help="The region's name.", show_default=False)],
    output: Annotated[Path, _OUTPUT],
) -> None:
    """Write a region as a .npy file, which numpy.load opens; uint8 where it has no dtype.

    The file is whole or not there; one of this name is replaced.
    """
    from ringflow.cli.checkpoint_files import find_file, write_array
    from ringflow.cli.comparing import layout_of
    from ringflow.cli.printing import printable
    from ringflow.errors import UsageError
    from ringflow.storage.reading import read_checkpoint

    found = read_checkpoint(find_file(file))
    chunk = found.get_device_memory(region) or found.get_custom(region)
    if chunk is None:
        names = ", ".join(one.name or f"{one.chunk_id:#x}" for one in found.regions[:20])
        raise UsageError(f"no region {region!r}; there are: {printable(names) or 'none'}")
    write_array(output, chunk)
    typer.echo(f"{output}: {layout_of(chunk)}, digest {chunk.digest}")
