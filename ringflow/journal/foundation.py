"""Places from which a journal can be verified and folded on, without what is before them.

- A ``Foundation`` is a place in the chain and the state that was folded up to it.
- As a snapshot it is a cache: whatever is wrong with it, it is discarded and the journal is read.
- As an archive's base record it stands for records that are gone: damage to it is an error.
- Pure: the form of both files is one sealed line of canonical JSON.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs
import orjson

from ringflow.errors import CorruptError
from ringflow.events.chain import seal, unseal
from ringflow.events.values import canonical_json, dump_integer, load_integer

FORMAT: Final = "ringflow-foundation-1"
_BASE_NAME: Final = re.compile(r"base-([0-9]{16})\.json")


@attrs.frozen(kw_only=True)
class Place:
    """The state of the chain's rules right behind a record, or at the end of its segment.

    Attributes:
        sequence: the last record's, 0 for the beginning.
        hash: the last line's, which the next line's ``prev`` must be.
        epoch, at_ns, durable: of the last record.
        versions: by stream, of its last record.
    """

    sequence: int
    hash: str
    epoch: int
    at_ns: int
    durable: int
    versions: Mapping[str, int]


@attrs.frozen(kw_only=True)
class Foundation:
    """A place and what was folded up to it.

    Attributes:
        state: canonical JSON; the journal doesn't look into it.
        code: what must be equal for the state to be taken from a cache, by name.
    """

    place: Place
    state: bytes
    code: Mapping[str, str]


def base_name(sequence: int) -> str:
    """Return the name of the base record that stands for the records up to ``sequence``."""
    return f"base-{sequence:016d}.json"


def base_sequence(name: str) -> int | None:
    """Return the sequence in a base record's file name, None for any other name."""
    match = _BASE_NAME.fullmatch(name)
    return int(match[1]) if match else None


def encode_foundation(foundation: Foundation) -> bytes:
    """Return the sealed line."""
    place = foundation.place
    line, _ = seal(
        canonical_json(
            {
                "code": dict(foundation.code),
                "format": FORMAT,
                "place": {
                    "at_ns": dump_integer(place.at_ns),
                    "durable": place.durable,
                    "epoch": place.epoch,
                    "hash": place.hash,
                    "seq": place.sequence,
                    "versions": dict(place.versions),
                },
                "state": orjson.Fragment(foundation.state),
                "state_hash": hashlib.sha256(foundation.state).hexdigest(),
            }
        )
    )
    return line


def decode_foundation(data: bytes) -> Foundation:
    """Return what ``encode_foundation`` wrote.

    Raises:
        CorruptError: the hash of the line or of the state differs, or it is no foundation.
    """
    body, _ = unseal(data.removesuffix(b"\n"))
    try:
        plain = orjson.loads(body)
        if plain["format"] != FORMAT:
            raise ValueError(f"format {plain['format']!r} is not {FORMAT!r}")
        state = canonical_json(plain["state"])
        if hashlib.sha256(state).hexdigest() != plain["state_hash"]:
            raise ValueError("the state's hash differs")
        code = {_text(name): _text(value) for name, value in plain["code"].items()}
        return Foundation(place=_place(plain["place"]), state=state, code=code)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"the file is no foundation ({error}); restore it") from error


def _place(plain: Mapping[str, Any]) -> Place:
    return Place(
        sequence=load_integer(plain["seq"]),
        hash=_text(plain["hash"]),
        epoch=load_integer(plain["epoch"]),
        at_ns=load_integer(plain["at_ns"]),
        durable=load_integer(plain["durable"]),
        versions={_text(name): load_integer(one) for name, one in plain["versions"].items()},
    )


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is not a string")
    return value
