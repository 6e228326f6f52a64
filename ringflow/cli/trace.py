"""A journal as Chrome trace events, which Perfetto and chrome://tracing open.

- A track a kernel: its operations are spans, their steps spans within; messages, recovery points
  and what else befell the kernel are instants. The engine's own events have a track too.
- Times are microseconds since the journal's first record; the output depends on nothing else.
- Pure: records in, events out, one pass; spans come last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from ringflow.cli.operations import STREAM, OperationStories, OperationStory
from ringflow.journal.record import RawRecord

ENGINE_TRACK: Final = 1
_PROCESS: Final = 1


def trace_events(records: Iterable[RawRecord]) -> Iterator[dict[str, Any]]:
    """Yield trace events (``ph`` M, i and X)."""
    tracks: dict[str, int] = {"engine": ENGINE_TRACK}
    operations = OperationStories()
    first_ns: int | None = None
    last_ns = 0
    yield _named("process_name", 0, "ringflow")
    yield _named("thread_name", ENGINE_TRACK, "engine")
    for record in records:
        first_ns = record.at_ns if first_ns is None else first_ns
        last_ns = record.at_ns
        operations.take(record)
        if record.stream.startswith(STREAM):
            continue
        for event in record.events:
            kernel_id = str(event.get("kernel_id", ""))
            name = f"kernel {kernel_id}" if kernel_id else "engine"
            if name not in tracks:
                tracks[name] = len(tracks) + 1
                yield _named("thread_name", tracks[name], name)
            yield _instant(record, event, tracks[name], first_ns)
    for story in operations.by_id.values():
        track = tracks.get(f"kernel {story.kernel_id}", ENGINE_TRACK)
        yield from _spans(story, track, first_ns or 0, last_ns)


def _named(what: str, track: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": _PROCESS, "tid": track, "args": {"name": name}}


def _instant(record: RawRecord, event: dict[str, Any], track: int, first_ns: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        key: value for key, value in event.items() if key not in ("type", "payloads", "types")
    }
    if "types" in event:
        arguments["messages"] = len(event["types"])
    return {
        "ph": "i",
        "s": "t",
        "name": str(event.get("type", "?")).rsplit(".", 1)[0],
        "cat": record.stream.split("/", 1)[0],
        "pid": _PROCESS,
        "tid": track,
        "ts": (record.at_ns - first_ns) / 1e3,
        "args": {"sequence": record.sequence, "epoch": record.epoch, **arguments},
    }


def _spans(
    story: OperationStory, track: int, first_ns: int, last_ns: int
) -> Iterator[dict[str, Any]]:
    ended_ns = story.ended_ns or last_ns

    def span(name: str, began_ns: int, until_ns: int, arguments: dict[str, Any]) -> dict[str, Any]:
        return {
            "ph": "X",
            "name": name,
            "cat": story.kind,
            "pid": _PROCESS,
            "tid": track,
            "ts": (began_ns - first_ns) / 1e3,
            "dur": (until_ns - began_ns) / 1e3,
            "args": arguments,
        }

    outcome = story.state if story.is_over else f"{story.state}, not over"
    told = {**story.facts, "operation_id": story.id, "outcome": outcome}
    yield span(story.kind, story.began_ns, ended_ns, told)
    for step in story.steps:
        if step.ended_ns is not None or not story.is_over:
            yield span(
                step.state,
                step.began_ns,
                step.ended_ns or ended_ns,
                {"sequence": step.first_sequence},
            )
