"""Checkpoints in lines of text, and as plain values for JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from ringflow.cli.checkpoint_files import EngineCheckpoints
from ringflow.cli.comparing import ChunkDifference, FieldDifference, label_of, layout_of
from ringflow.cli.points import KnownCheckpoint
from ringflow.cli.printing import columns, printable
from ringflow.cli.story import size_text, timestamp
from ringflow.errors import StorageError
from ringflow.storage.blocks import block_count
from ringflow.storage.checkpoint import Checkpoint
from ringflow.storage.chunks import ChunkType
from ringflow.storage.reading import read_head

VALUE_CHARACTERS_MAX: Final = 100
OUTBOX_BYTES_MAX: Final = 4 << 20  # a larger one is not counted: its outputs would fill memory
_LAST_YEAR_NS: Final = 253_402_300_799_000_000_000  # the end of 9999, after which no date is known


def when(at_ns: int) -> str:
    """Return a time that a file may have made up, "-" for none."""
    if not at_ns:
        return "-"
    return timestamp(at_ns) if at_ns <= _LAST_YEAR_NS else f"{at_ns} ns"


# list


@attrs.frozen(kw_only=True)
class Listed:
    """A row of the list.

    Attributes:
        state: as in ``KnownCheckpoint``; ``"orphan"``, or ``"file"`` where there is no journal.
        size_bytes: of the file; None where there is none.
        at_ns: of its event, else of the file's creation; 0 if unknown.
        problem: why a file that no event names can't be read.
    """

    kernel_id: str
    checkpoint: str
    state: str
    applied_sequence: int | None
    size_bytes: int | None
    at_ns: int
    version: str
    pinned: bool = False
    identity: str = ""
    reason: str = ""
    ended_at_ns: int = 0
    ended_why: str = ""
    problem: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it for JSON; times as text of digits, as in the journal."""
        return attrs.asdict(self)


def listed(there: EngineCheckpoints, *, every: bool) -> list[Listed]:
    """Return the rows, by kernel in the order of their first checkpoints, oldest first."""
    rows = [_known_row(there, one) for one in there.known or () if one.is_live or every]
    rows += [_file_row(there, name) for name in there.orphans]
    kernels = list(dict.fromkeys(row.kernel_id for row in rows))
    return sorted(rows, key=lambda row: kernels.index(row.kernel_id))


def _known_row(there: EngineCheckpoints, one: KnownCheckpoint) -> Listed:
    path = there.path_of(one.checkpoint)
    size_bytes, at_ns = None, one.committed_at_ns
    try:
        if one.is_live:
            size_bytes = path.stat().st_size
            at_ns = at_ns or read_head(path).created_at_us * 1000
    except (OSError, StorageError):
        pass  # `verify` tells what is wrong with it
    return Listed(
        kernel_id=one.kernel_id,
        checkpoint=one.checkpoint,
        state=one.state,
        applied_sequence=one.applied_sequence,
        size_bytes=size_bytes,
        at_ns=at_ns,
        version=one.version_id,
        pinned=one.pinned,
        identity=one.identity,
        reason=one.reason,
        ended_at_ns=one.ended_at_ns,
        ended_why=one.ended_why,
    )


def _file_row(there: EngineCheckpoints, name: str) -> Listed:
    state = "file" if there.known is None else "orphan"
    try:
        head = read_head(there.path_of(name))
    except StorageError as error:
        return Listed(
            kernel_id=name.partition("@")[0],
            checkpoint=name,
            state=state,
            applied_sequence=None,
            size_bytes=None,
            at_ns=0,
            version="",
            problem=str(error),
        )
    recovery = head.metadata.recovery
    return Listed(
        kernel_id=head.metadata.kernel_id,
        checkpoint=name,
        state=state,
        applied_sequence=head.metadata.current_step,
        size_bytes=head.size_bytes,
        at_ns=head.created_at_us * 1000,
        version=recovery.code_version if recovery else "",
    )


def list_lines(rows: Sequence[Listed], *, ended_count: int) -> Iterator[str]:
    """Yield the list; ``ended_count`` of others are only counted."""
    for kernel_id, group in itertools.groupby(rows, key=lambda row: row.kernel_id):
        yield f"kernel {printable(kernel_id, limit=VALUE_CHARACTERS_MAX)}"
        yield from columns([_HEADINGS, *map(_cells, group)], indent="  ")
    if not rows:
        yield "no checkpoints"
    if ended_count:
        yield f"{ended_count} more were retired or given up; --all lists them"


_HEADINGS: Final = ("checkpoint", "state", "applied", "size", "when", "version", "")


def _cells(row: Listed) -> tuple[str, ...]:
    is_gone = row.size_bytes is None and row.state in ("recovery point", "orphan", "file")
    notes = ["pinned"] if row.pinned else []
    if row.ended_at_ns:
        notes.append(f"{row.state} {when(row.ended_at_ns)} ({row.ended_why})")
    if row.problem:
        notes.append(row.problem)
    return (
        row.checkpoint,
        row.state,
        "?" if row.applied_sequence is None else str(row.applied_sequence),
        size_text(row.size_bytes) if row.size_bytes is not None else "missing" if is_gone else "-",
        when(row.at_ns),
        printable(row.version, limit=16) or "-",
        printable(", ".join(notes)),
    )


# show


def plain_checkpoint(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    """Return everything that ``show`` tells, as plain values."""
    metadata = attrs.asdict(checkpoint.metadata)
    return {
        "file": str(path),
        "identity": checkpoint.identity(),
        "created_at_us": checkpoint.created_at_us,
        "data_bytes": checkpoint.data_bytes,
        **metadata,
        "custom": dict(checkpoint.metadata.custom),
        "outbox": _outbox(checkpoint),
        "chunks": [
            {
                "name": chunk.name,
                "label": label_of(chunk),
                "type": int(chunk.chunk_type),
                "dtype": chunk.dtype,
                "shape": list(chunk.shape),
                "layout": layout_of(chunk),
                "size_bytes": chunk.size_bytes,
                "blocks": block_count(chunk.size_bytes),
                "digest": chunk.digest,
            }
            for chunk in checkpoint.chunks
        ],
    }


def _outbox(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Count the outputs that nobody acknowledged; None in files that no engine wrote."""
    from ringflow.engine.outputs import decode_outbox
    from ringflow.routing import decode_sends

    if checkpoint.metadata.recovery is None:
        return None
    found: dict[str, Any] = {"size_bytes": 0}
    kinds = (
        ("replies", ChunkType.K2H_QUEUE, decode_outbox),
        ("sends", ChunkType.K2K_ROUTING, decode_sends),
    )
    for what, kind, decode in kinds:
        chunk = checkpoint.get_chunk(kind)
        size_bytes = chunk.size_bytes if chunk else 0
        found["size_bytes"] += size_bytes
        if chunk is not None and size_bytes <= OUTBOX_BYTES_MAX:
            sequences = [one.sequence for one in decode(chunk.data)]
            found[what] = len(sequences)
            found[f"{what}_of_messages"] = [min(sequences), max(sequences)] if sequences else []
    return found


def show_lines(plain: Mapping[str, Any]) -> Iterator[str]:
    """Yield what ``plain_checkpoint`` found, as text."""
    grid, block = ("x".join(map(str, plain[name])) for name in ("grid_size", "tile_size"))
    created = when(plain["created_at_us"] * 1000)
    yield f"{plain['file']}: {size_text(plain['data_bytes'])} of data, created {created}"
    yield f"identity  {plain['identity']}"
    kernel, kind = (
        printable(plain[name], limit=VALUE_CHARACTERS_MAX) for name in ("kernel_id", "kernel_type")
    )
    yield f"kernel    {kernel} ({kind}), grid {grid}, block {block}"
    yield f"applied   {plain['current_step']}"
    recovery = plain["recovery"]
    if recovery is None:
        yield "recovery  no engine wrote this file"
    else:
        yield (
            f"recovery  replay mode {recovery['replay_mode']}, from message "
            f"{recovery['replay_from']}, epoch {recovery['epoch']}"
        )
        yield f"code      {printable(recovery['code_version'], limit=VALUE_CHARACTERS_MAX)}"
    if plain["outbox"] is not None:
        yield f"outbox    {_outbox_text(plain['outbox'])}"
    for key, value in sorted(plain["custom"].items()):
        name, text = (printable(one, limit=VALUE_CHARACTERS_MAX) for one in (key, value))
        yield f"custom    {name} = {text}"
    rows = [
        (
            printable(chunk["label"], limit=VALUE_CHARACTERS_MAX),
            chunk["layout"],
            size_text(chunk["size_bytes"]),
            f"{chunk['blocks']} blocks",
            chunk["digest"],
        )
        for chunk in plain["chunks"]
    ]
    yield from columns([("region", "layout", "size", "", "digest"), *rows])


def _outbox_text(outbox: Mapping[str, Any]) -> str:
    parts = []
    for what, text in (("replies", "replies"), ("sends", "sends to kernels")):
        if count := outbox.get(what):
            first, last = outbox[f"{what}_of_messages"]
            parts.append(f"{count} {text} (messages {first} to {last})")
    return f"{', '.join(parts) or 'empty'}, {size_text(outbox['size_bytes'])}"


# diff


def diff_lines(
    left: Checkpoint,
    right: Checkpoint,
    facts: Iterable[FieldDifference],
    chunks: Iterable[ChunkDifference],
) -> Iterator[str]:
    """Yield a line a difference, left before right; one line if there is none."""
    is_same = True
    for fact in facts:
        is_same = False
        yield f"{printable(fact.name)}: {_value(fact.left)} | {_value(fact.right)}"
    for chunk in chunks:
        is_same = False
        yield f"region {printable(chunk.label, limit=VALUE_CHARACTERS_MAX)}: {_change(chunk)}"
    if is_same:
        yield f"the same: identity {left.identity()}"
    else:
        yield f"identity: {left.identity()} | {right.identity()}"


def _value(value: object) -> str:
    return "-" if value is None else printable(str(value), limit=VALUE_CHARACTERS_MAX)


def _change(chunk: ChunkDifference) -> str:
    if chunk.change != "changed":
        return f"{chunk.change}, {chunk.left_layout or chunk.right_layout}"
    parts = []
    if chunk.left_layout != chunk.right_layout:
        parts.append(f"{chunk.left_layout} | {chunk.right_layout}")
    parts.append(f"{chunk.differing_blocks} of {chunk.blocks} blocks differ")
    if (first := chunk.first) is not None:
        place = f"element [{', '.join(map(str, first.index))}]" if first.index else "the end"
        parts.append(f"first at {place}, byte {first.offset_bytes}: {first.left} | {first.right}")
    return "; ".join(parts)
