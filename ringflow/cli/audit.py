"""``ringflow journal explain`` and ``export``: what happened, in words and for other tools."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ringflow.cli.journal import PATH, journal


class ExportFormat(StrEnum):
    JSONL = "jsonl"
    CHROME = "chrome"


def register(app: typer.Typer) -> None:
    """Add the commands to ``ringflow journal``, which another module adds to the program."""
    del app
    journal.command()(explain)
    journal.command()(export)


def explain(
    path: Annotated[Path, PATH],
    operation: Annotated[
        str, typer.Argument(help="Its id, or a beginning or end that no other has; empty: list.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")] = False,
) -> None:
    """Tell an operation in plain words: who, why, steps, pause, digests, outcome.

    Without an id it lists the operations. Every line of the journal is verified as it is read.
    """
    import attrs

    from ringflow.cli.explain import explain as paragraph
    from ringflow.cli.explain import find_operation
    from ringflow.cli.operations import operations_of
    from ringflow.cli.story import timestamp
    from ringflow.events.values import canonical_json
    from ringflow.journal.reader import read_records

    operations = operations_of(read_records(path))
    chosen = [find_operation(operations, operation)] if operation else list(operations.values())
    for one in chosen:
        if as_json:
            plain = {**attrs.asdict(one), "state": one.state, "text": paragraph(one)}
            typer.echo(canonical_json(plain))
        elif operation:
            typer.echo(paragraph(one))
        else:
            typer.echo(f"{timestamp(one.began_ns)}  {one.id}  {one.kernel_id}  {one.state}")


def export(
    path: Annotated[Path, PATH],
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format", help="jsonl: a record a line. chrome: trace events, which Perfetto opens."
        ),
    ] = ExportFormat.JSONL,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file instead of standard output.")
    ] = None,
) -> None:
    """Write the whole verified journal in a form that other tools read.

    A file is written whole or not at all: where the journal is damaged, or the disk full, what the
    file held before stays.
    """
    from ringflow.cli.writing import write_file

    lines = _jsonl(path) if form is ExportFormat.JSONL else _chrome(path)
    if output is None:
        for line in lines:
            typer.echo(line)
        return
    write_file(output, (f"{line}\n".encode() for line in lines))


def _jsonl(path: Path) -> Iterator[str]:
    from ringflow.events.values import canonical_json
    from ringflow.journal.reader import read_records
    from ringflow.journal.record import plain_record

    for record in read_records(path):
        yield canonical_json(plain_record(record)).decode()


def _chrome(path: Path) -> Iterator[str]:
    from ringflow.cli.trace import trace_events
    from ringflow.events.values import canonical_json
    from ringflow.journal.reader import read_records

    before = '{"displayTimeUnit":"ms","traceEvents":['
    for event in trace_events(read_records(path)):
        yield before + canonical_json(event).decode()
        before = ","
    yield "]}"
