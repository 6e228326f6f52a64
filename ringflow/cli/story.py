"""A journal as readable lines.

- Works on plain events, so that a journal of another version can be read, too.
- Digests, long texts and lists are shortened; runs of message traffic become one line.
- Pure: records in, lines out.
"""

from __future__ import annotations

import binascii
import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from ringflow.journal.record import RawRecord

ACCEPTED: Final = "messages.accepted.v1"
ACKNOWLEDGED: Final = "consumer.acknowledged.v1"
TAKEN: Final = "route.taken.v1"
_TRAFFIC: Final = frozenset((ACCEPTED, ACKNOWLEDGED, TAKEN))
_FIRST: Final = ("kernel_id", "operation_id", "source", "target", "device", "step", "reason")
_TEXT_MAX: Final = 72
_ITEMS_MAX: Final = 6
_HEX: Final = frozenset("0123456789abcdef")


def story(records: Iterable[RawRecord], *, every_record: bool = False) -> Iterator[str]:
    """Yield one line an event; successive traffic of one stream is one line in all.

    Args:
        every_record: don't put traffic together.
    """
    run: list[RawRecord] = []
    for record in records:
        if run and (record.stream != run[0].stream or not _is_traffic(record)):
            yield _traffic_line(run)
            run = []
        if not every_record and _is_traffic(record):
            run.append(record)
            continue
        for event in record.events:
            yield f"{_start(record, record)}  {event.get('type', '?')}  {_fields(event)}".rstrip()
    if run:
        yield _traffic_line(run)


def _is_traffic(record: RawRecord) -> bool:
    return all(event.get("type") in _TRAFFIC for event in record.events)


def _start(first: RawRecord, last: RawRecord) -> str:
    numbers = f"#{first.sequence}"
    if last.sequence != first.sequence:
        numbers += f"-{last.sequence}"
    return f"{timestamp(first.at_ns)}  {numbers:<11} e{first.epoch}  {first.stream:<18}"


def timestamp(at_ns: int) -> str:
    """Return the time as ISO 8601 in UTC, to the millisecond."""
    seconds, rest = divmod(at_ns, 1_000_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"


def _traffic_line(run: Sequence[RawRecord]) -> str:
    events = [event for record in run for event in record.events]
    accepted = [event for event in events if event["type"] == ACCEPTED]
    parts = []
    if accepted:
        first = int(accepted[0]["first_sequence"])
        last = int(accepted[-1]["first_sequence"]) + len(accepted[-1]["types"]) - 1
        count = sum(len(event["types"]) for event in accepted)
        size = sum(_base64_bytes(text) for event in accepted for text in event["payloads"])
        span = f"message {first}" if first == last else f"messages {first} to {last}"
        parts.append(f"{span} accepted ({count} in {_plural(len(accepted), 'record')}, {size} B)")
    sources = [event for event in events if event["type"] == TAKEN]
    for name in dict.fromkeys(event["source"] for event in sources):
        count = sum(len(event["sequences"]) for event in sources if event["source"] == name)
        parts.append(f"{count} of them from kernel {name!r}")
    marks = {
        event["consumer"]: event["sequence"] for event in events if event["type"] == ACKNOWLEDGED
    }
    parts += [f"{name!r} acknowledged outputs up to {mark}" for name, mark in marks.items()]
    return f"{_start(run[0], run[-1])}  {'; '.join(parts)}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _base64_bytes(text: str) -> int:
    return len(binascii.a2b_base64(text))


def _fields(event: Mapping[str, Any]) -> str:
    """Return the fields, the most telling first, those that say nothing left out."""
    first = [name for name in _FIRST if name in event]
    names = first + [name for name in event if name not in _FIRST]
    return "  ".join(
        f"{_label(name)}={_value(name, event[name])}"
        for name in names
        if name != "type" and event[name] not in ("", None, [], {})
    )


def _label(name: str) -> str:
    return name.removesuffix("_ns").removesuffix("_bytes")


def _value(name: str, value: Any) -> str:
    if name.endswith("_ns") and not name.startswith("at") and str(value).isdigit():
        return f"{int(value) / 1e6:.3f}ms"
    if name.endswith("_bytes") and isinstance(value, int):
        return size_text(value)
    return _short(value)


def size_text(size_bytes: int) -> str:
    """Return a size in the largest fitting binary unit."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f}{unit}"
    return f"{size_bytes}B"


def _short(value: Any) -> str:
    if isinstance(value, str):
        if len(value) >= 32 and set(value) <= _HEX:
            return value[:12] + "…"
        text = value.replace("\n", " ")
        text = text if len(text) <= _TEXT_MAX else text[:_TEXT_MAX] + "…"
        return repr(text) if " " in text else text
    if isinstance(value, dict):
        inside = [f"{name}:{_short(one)}" for name, one in list(value.items())[:_ITEMS_MAX]]
        return "{" + ", ".join(inside) + (", …" if len(value) > _ITEMS_MAX else "") + "}"
    if isinstance(value, list):
        if len(value) > _ITEMS_MAX:
            return f"[{len(value)} items]"
        return "[" + ", ".join(_short(one) for one in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
