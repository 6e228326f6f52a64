"""The lines of a segment: a header, then records, then a closing line.

- Every line is canonical JSON and sealed by the hash chain (``ringflow.events.chain``).
- Header: ``{"epoch","first","format","opened_at_ns","prev","previous"}``; ``previous`` pins name,
  length and last hash of the segment before.
- Record: ``{"at_ns","durable","epoch","events","prev","seq","stream","version"}``; ``durable`` is
  the sequence that was durable when the record's batch was written.
- Closing: ``{"closed_at_ns","durable","prev"}``; written by an orderly close.
- Integers beyond 2**53, such as times, are decimal strings.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

import attrs
import orjson

from ringflow.errors import CorruptError, EventFormatError
from ringflow.events.chain import seal, unseal
from ringflow.events.codec import Event, EventCodec
from ringflow.events.values import SAFE_INTEGER, canonical_json, dump_integer, load_integer

FORMAT: Final = "ringflow-journal-1"


class Record(NamedTuple):
    """One decision as it is in the journal.

    Attributes:
        sequence: its number in the whole journal, from 1, without gaps.
        at_ns: wall time of the write; never less than the record's before.
        epoch: the opening of the journal that wrote it.
        stream, version: its stream and its number in it, from 1, without gaps.
        durable: the sequence that was durable when its batch was written.
        previous_hash, hash: its links in the chain, 64 hexadecimal digits.
        size_bytes: of its line in the journal.
    """

    sequence: int
    at_ns: int
    epoch: int
    stream: str
    version: int
    durable: int
    events: tuple[Event, ...]
    previous_hash: str
    hash: str
    size_bytes: int


class RawRecord(NamedTuple):
    """A verified record whose events are still plain JSON objects (``type`` and the fields).

    A named tuple: a replay makes one for each record, and an attrs value takes three times as long.
    """

    sequence: int
    at_ns: int
    epoch: int
    stream: str
    version: int
    durable: int
    events: tuple[dict[str, Any], ...]
    previous_hash: str
    hash: str
    size_bytes: int

    def decoded(self, codec: EventCodec) -> Record:
        """Return the record with its events; raises as ``EventCodec.from_plain``."""
        return Record(
            sequence=self.sequence,
            at_ns=self.at_ns,
            epoch=self.epoch,
            stream=self.stream,
            version=self.version,
            durable=self.durable,
            events=tuple([codec.from_plain(event) for event in self.events]),
            previous_hash=self.previous_hash,
            hash=self.hash,
            size_bytes=self.size_bytes,
        )


def plain_record(record: RawRecord) -> dict[str, Any]:
    """Return the record as the JSON object that its line holds."""
    return {
        "at_ns": dump_integer(record.at_ns),
        "durable": record.durable,
        "epoch": record.epoch,
        "events": list(record.events),
        "hash": record.hash,
        "prev": record.previous_hash,
        "seq": record.sequence,
        "stream": record.stream,
        "version": record.version,
    }


@attrs.frozen(kw_only=True)
class Pin:
    """Name, length and last hash of a segment that is followed by another one."""

    name: str
    size_bytes: int
    hash: str


@attrs.frozen(kw_only=True)
class Header:
    """A segment's first line."""

    epoch: int
    first_sequence: int
    opened_at_ns: int
    previous: Pin | None
    previous_hash: str
    hash: str = ""


@attrs.frozen(kw_only=True)
class Closing:
    """The line that an orderly close writes; everything before it is durable."""

    closed_at_ns: int
    durable: int
    previous_hash: str
    hash: str = ""


Line = Header | RawRecord | Closing


def header_line(header: Header) -> tuple[bytes, str]:
    """Return the sealed line and its hash."""
    pin = header.previous
    return seal(
        canonical_json(
            {
                "epoch": header.epoch,
                "first": header.first_sequence,
                "format": FORMAT,
                "opened_at_ns": dump_integer(header.opened_at_ns),
                "prev": header.previous_hash,
                "previous": None if pin is None else attrs.asdict(pin),
            }
        )
    )


def record_opening(*, at_ns: int, durable: int, epoch: int) -> bytes:
    """Return what all records of a batch begin with, up to their events."""
    time = b'"%d"' % at_ns if at_ns > SAFE_INTEGER else b"%d" % at_ns
    return b'{"at_ns":%b,"durable":%d,"epoch":%d,"events":' % (time, durable, epoch)


@lru_cache(1024)
def stream_json(stream: str) -> bytes:
    """Return a record's ``stream`` as it is in its line."""
    return canonical_json(stream)


def closing_line(closing: Closing) -> tuple[bytes, str]:
    """Return the sealed line and its hash."""
    return seal(
        canonical_json(
            {
                "closed_at_ns": dump_integer(closing.closed_at_ns),
                "durable": closing.durable,
                "prev": closing.previous_hash,
            }
        )
    )


def parse_line(line: bytes) -> Line:
    """Return what ``line`` (without its line feed) holds; its own hash is verified.

    Raises:
        CorruptError: the hash differs, or the line is none of the three kinds.
    """
    body, digest = unseal(line)
    try:
        plain = orjson.loads(body)
        if len(plain) == 8 and "seq" in plain:
            return _record(plain, digest, len(line) + 1)
        return _closing(plain, digest) if "closed_at_ns" in plain else _header(plain, digest)
    except (ValueError, KeyError, TypeError, EventFormatError) as error:
        raise CorruptError(f"the line is no journal line ({error})") from error


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is not a string")
    return value


def _exact_keys(plain: dict[str, Any], count: int) -> None:
    if len(plain) != count:
        raise ValueError(f"unknown members among {sorted(plain)}")


_load_time: Final = lru_cache(1, typed=True)(load_integer)  # a batch has one time


def _record(plain: dict[str, Any], digest: str, size_bytes: int) -> RawRecord:
    sequence, epoch, version, durable = (
        plain["seq"],
        plain["epoch"],
        plain["version"],
        plain["durable"],
    )
    if not (
        type(sequence) is type(epoch) is type(version) is type(durable) is int
        and 0 <= sequence <= SAFE_INTEGER
        and 0 <= epoch <= SAFE_INTEGER
        and 0 <= version <= SAFE_INTEGER
        and 0 <= durable <= SAFE_INTEGER
    ):  # one test instead of four calls: nearly all lines pass it
        sequence, epoch, version, durable = map(load_integer, (sequence, epoch, version, durable))
    events = plain["events"]
    if type(events) is not list:
        raise ValueError("'events' is not a list")
    for event in events:
        if type(event) is not dict or type(event.get("type")) is not str:
            raise ValueError("an event is no object with a 'type'")
    return RawRecord(
        sequence,
        _load_time(plain["at_ns"]),
        epoch,
        _text(plain["stream"]),
        version,
        durable,
        tuple(events),
        _text(plain["prev"]),
        digest,
        size_bytes,
    )


def _closing(plain: dict[str, Any], digest: str) -> Closing:
    _exact_keys(plain, 3)
    return Closing(
        closed_at_ns=load_integer(plain["closed_at_ns"]),
        durable=load_integer(plain["durable"]),
        previous_hash=_text(plain["prev"]),
        hash=digest,
    )


def _header(plain: dict[str, Any], digest: str) -> Header:
    _exact_keys(plain, 6)
    if plain["format"] != FORMAT:
        raise ValueError(f"format {plain['format']!r} is not {FORMAT!r}")
    pin = plain["previous"]
    return Header(
        epoch=load_integer(plain["epoch"]),
        first_sequence=load_integer(plain["first"]),
        opened_at_ns=load_integer(plain["opened_at_ns"]),
        previous=None
        if pin is None
        else Pin(
            name=_text(pin["name"]),
            size_bytes=load_integer(pin["size_bytes"]),
            hash=_text(pin["hash"]),
        ),
        previous_hash=_text(plain["prev"]),
        hash=digest,
    )
