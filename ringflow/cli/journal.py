"""``ringflow journal``: read and verify a journal; nothing here takes a lock or changes a byte."""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from ringflow.journal.record import RawRecord

PATH = typer.Argument(
    help="The engine's folder, the journal's, or a folder that holds one engine's.",
    show_default=False,
)
_JSON = typer.Option("--json", help="One JSON object a line, for machines.")
_STREAM = typer.Option(help="Only this stream, e.g. kernel/wave; a trailing * matches any rest.")
_ALL = typer.Option("--all", help="Don't put successive messages together in one line.")

_TYPES = typer.Option(
    "--type", help="Only records that hold such an event; may be repeated.", show_default=False
)
_SINCE = typer.Option(
    metavar="TIME",
    help="Only what was written at this time (UTC) or later, e.g. 2026-01-31T11:50:43.",
    show_default=False,
)
_UNTIL = typer.Option(
    metavar="TIME", help="Only what was written before this time (UTC).", show_default=False
)
_HEAD = typer.Option(
    help="A published head, or a file that holds what `head` printed.", show_default=False
)

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

journal = typer.Typer(help="Read and verify the journal of what happened.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(journal, name="journal")


@journal.command()
def show(
    path: Annotated[Path, PATH],
    stream: Annotated[str, _STREAM] = "*",
    from_sequence: Annotated[
        int, typer.Option("--from", min=0, help="Start at this sequence.")
    ] = 0,
    to_sequence: Annotated[
        int | None, typer.Option("--to", min=0, help="End with this sequence.", show_default=False)
    ] = None,
    types: Annotated[list[str] | None, _TYPES] = None,
    since: Annotated[str, _SINCE] = "",
    until: Annotated[str, _UNTIL] = "",
    every_record: Annotated[bool, _ALL] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Tell what happened: time, sequence, epoch, stream, event and its fields.

    Every line is verified as it is read. Damage is named on stderr after the whole records before
    it, and the exit code is 1. Where nothing matches, stderr says so, and the exit code is 0.
    """
    from ringflow.errors import UsageError
    from ringflow.events.registry import default_codec
    from ringflow.journal.reader import select_records
    from ringflow.journal.selection import Selection

    if to_sequence is not None and to_sequence < from_sequence:
        raise UsageError(f"--from {from_sequence} comes after --to {to_sequence}; swap them")
    wanted = Selection.of(
        default_codec(),
        streams=stream,
        types=types or None,
        since_ns=_ns("--since", since) if since else 0,
        until_ns=_ns("--until", until) if until else None,
    )
    records = select_records(path, wanted, from_sequence=from_sequence, to_sequence=to_sequence)
    _print(records, every_record=every_record, as_json=as_json)


@journal.command()
def tail(
    path: Annotated[Path, PATH],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many records.")] = 20,
    stream: Annotated[str, _STREAM] = "*",
    every_record: Annotated[bool, _ALL] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Show the last records."""
    records = iter(deque(_records(path, stream), maxlen=count))
    _print(records, every_record=every_record, as_json=as_json)


@journal.command()
def verify(
    path: Annotated[Path, PATH],
    head: Annotated[str, _HEAD] = "",
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Check every line: hashes, links, sequences, versions, epochs, times and pinned lengths.

    With --head it is an error too if the journal, whole as it may be, does not hold the head that
    was published: then its history was rewritten or cut.

    Exits with 0 if the journal is whole (an end that was never acknowledged is reported, the next
    opening cuts it), else with 1, naming segment, line and sequence of the first damage.
    """
    import attrs

    from ringflow.errors import CorruptJournalError
    from ringflow.events.values import canonical_json
    from ringflow.journal.reader import verify as verify_journal

    wanted = _hash_of(head) if head else None
    try:
        report = verify_journal(path, head=wanted)
    except CorruptJournalError as error:
        if not as_json:
            raise
        damage = {
            "segment": error.segment,
            "line": error.line,
            "sequence": error.sequence,
            "reason": error.reason,
        }
        typer.echo(canonical_json({"whole": False, **damage}))
        raise typer.Exit(1) from None
    if as_json:
        plain = attrs.asdict(report, value_serializer=lambda _, __, value: _plain(value))
        typer.echo(canonical_json({"whole": True, **plain}))
        return
    typer.echo(
        f"whole: {report.records} records of {report.streams} streams in {report.segments} "
        f"segments, epoch {report.epoch}, "
        f"{'closed cleanly' if report.closed_cleanly else 'not closed'}\nhead {report.head}"
    )
    if wanted:
        typer.echo(f"proven: the published head {wanted} is at sequence {report.head_sequence}")
    for torn in report.torn:
        typer.echo(
            f"torn tail: {torn.size_bytes} bytes of {torn.segment} from {torn.offset_bytes} on "
            f"were never acknowledged ({torn.reason}); the next opening backs them up and cuts them"
        )
    for late in report.ignored:
        typer.echo(
            f"ignored: {late.size_bytes} bytes of {late.segment} from {late.offset_bytes} on came "
            "from a writer that a later opening had fenced off"
        )


@journal.command()
def head(path: Annotated[Path, PATH], as_json: Annotated[bool, _JSON] = False) -> None:
    """Print the last sequence and the hash of the last line, after verifying all lines.

    Kept elsewhere, the hash proves later that nothing before it was rewritten: give this output,
    or a file that holds it, to `ringflow journal verify --head`.
    """
    from ringflow.events.values import canonical_json
    from ringflow.journal.reader import verify as verify_journal

    report = verify_journal(path)
    if as_json:
        plain = {"sequence": report.last_sequence, "epoch": report.epoch, "head": report.head}
        typer.echo(canonical_json(plain))
    else:
        typer.echo(f"{report.last_sequence} {report.head}")


def _hash_of(head: str) -> str:
    """Return the hash in ``head``, or in the file of that name."""
    import re

    from ringflow.errors import UsageError

    pattern = r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])"
    found = re.findall(pattern, head)
    if not found and Path(head).is_file():
        found = re.findall(pattern, Path(head).read_bytes()[: 2**16].decode("utf-8", "replace"))
    if len(found) != 1:
        raise UsageError(
            f"--head {head!r} is neither a hash of 64 hexadecimal digits nor a file that holds one"
        )
    return str(found[0])


def _plain(value: object) -> object:
    from ringflow.journal.segments import SegmentName

    return str(value) if isinstance(value, SegmentName) else value


def _ns(option: str, text: str) -> int:
    """Return a time of the command line in nanoseconds; one without an offset is in UTC."""
    from ringflow.errors import UsageError

    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is no date and time; write it as 2026-01-31 or 2026-01-31T11:50:43"
        ) from None
    since_1970 = (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)) - _EPOCH
    return since_1970 // datetime.timedelta(microseconds=1) * 1000


def _records(path: Path, stream: str) -> Iterator[RawRecord]:
    from ringflow.journal.reader import read_records

    for record in read_records(path):
        if record.stream == stream or (
            stream.endswith("*") and record.stream.startswith(stream[:-1])
        ):
            yield record


def _print(records: Iterator[RawRecord], *, every_record: bool, as_json: bool) -> None:
    from ringflow.cli.story import story
    from ringflow.events.values import canonical_json
    from ringflow.journal.record import plain_record

    lines = (
        (canonical_json(plain_record(record)).decode() for record in records)
        if as_json
        else story(records, every_record=every_record)
    )
    shown = False
    for line in lines:
        typer.echo(line)
        shown = True
    if not shown:
        typer.echo("no record is as asked for; journal show without options shows all", err=True)
