"""What version 1 can't say about its chunks: names, dtypes, shapes, digests, and the identity.

- Both entries are there or neither is: RingKernel's files have none.
- The identity follows from the checkpoint's content alone, never from a file's format or time.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from ringflow.errors import CorruptError
from ringflow.storage.chunks import NAMED_TYPES, DataChunk, layout_error
from ringflow.storage.metadata import (
    CHUNKS_KEY,
    IDENTITY_KEY,
    CheckpointMetadata,
    encode_metadata,
)
from ringflow.storage.siphash import chunk_id_of

_IDENTITY_DOMAIN: Final = b"ringflow checkpoint identity 1\0"
_CHUNK: Final = struct.Struct("<IIQQ")
_FIELDS: Final = frozenset({"digest", "dtype", "name", "shape"})


def _described(chunk: DataChunk) -> dict[str, Any]:
    facts: dict[str, Any] = {"digest": chunk.digest}
    if chunk.name:
        facts["name"] = chunk.name
    if chunk.dtype:
        facts["dtype"] = chunk.dtype
        facts["shape"] = chunk.shape
    return facts


def chunk_entry(chunks: Sequence[DataChunk]) -> dict[str, str]:
    """Return the custom entry that describes the chunks, as canonical JSON in file order."""
    text = orjson.dumps([_described(chunk) for chunk in chunks], option=orjson.OPT_SORT_KEYS)
    return {CHUNKS_KEY: text.decode()}


def identity_of(metadata: CheckpointMetadata, chunks: Sequence[DataChunk]) -> str:
    """Return the SHA-256 (hex) over the metadata and the blocks' digests of all chunks."""
    described = encode_metadata(metadata, chunk_entry(chunks))
    digest = hashlib.sha256(_IDENTITY_DOMAIN + struct.pack("<Q", len(described)) + described)
    for chunk in chunks:
        digest.update(_CHUNK.pack(chunk.chunk_type, chunk.flags, chunk.chunk_id, chunk.size_bytes))
        digest.update(chunk.block_digests)
    return digest.hexdigest()


def _refuse(index: int, reason: str) -> CorruptError:
    return CorruptError(f"checkpoint chunk {index}: {reason}; restore the file from a copy")


def _parsed(text: str, count: int) -> list[dict[str, Any]]:
    try:
        described = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise CorruptError(f"checkpoint metadata: {CHUNKS_KEY!r} is no JSON ({error})") from error
    if not isinstance(described, list) or len(described) != count:
        raise CorruptError(f"checkpoint metadata: {CHUNKS_KEY!r} doesn't list {count} chunks")
    return described


def _with_facts(index: int, chunk: DataChunk, facts: Mapping[str, Any]) -> DataChunk:
    if not isinstance(facts, dict) or not facts.keys() <= _FIELDS:
        raise _refuse(index, f"its description has other fields than {', '.join(sorted(_FIELDS))}")
    name, dtype = facts.get("name", ""), facts.get("dtype", "")
    shape, digest = facts.get("shape", []), facts.get("digest")
    if not (isinstance(name, str) and isinstance(dtype, str) and isinstance(digest, str)):
        raise _refuse(index, "its name, dtype or digest is no text")
    if not isinstance(shape, list) or any(type(length) is not int for length in shape):
        raise _refuse(index, "its shape is no list of whole numbers")
    what = f"region {name[:80]!r}" if name else "its data"
    if name and (chunk.chunk_type not in NAMED_TYPES or chunk_id_of(name) != chunk.chunk_id):
        raise _refuse(index, f"{what} has another name than the chunk's id tells")
    if dtype or shape:
        error = layout_error(dtype, tuple(shape), chunk.size_bytes)
        if error:
            raise _refuse(index, f"{what}: {error}")
    if digest != chunk.digest:
        raise _refuse(index, f"{what} has digest {chunk.digest}, {digest[:64]} was written")
    return attrs.evolve(
        chunk, name=name, dtype=dtype, shape=shape, given_digests=chunk.block_digests
    )


def apply_facts(
    metadata: CheckpointMetadata, chunks: Sequence[DataChunk], entries: Mapping[str, str]
) -> tuple[DataChunk, ...]:
    """Return the chunks with their names and layouts, after their digests were verified.

    Args:
        entries: what ``decode_metadata`` found under ``CHUNKS_KEY`` and ``IDENTITY_KEY``.
    Raises:
        CorruptError: a description, a region's digest or the identity doesn't fit.
    """
    if not entries:
        return tuple(chunks)
    if len(entries) != 2:
        raise CorruptError(
            f"checkpoint metadata: one of {CHUNKS_KEY!r} and {IDENTITY_KEY!r} is missing; "
            "restore the file from a copy"
        )
    described = _parsed(entries[CHUNKS_KEY], len(chunks))
    full = tuple(
        _with_facts(index, chunk, facts)
        for index, (chunk, facts) in enumerate(zip(chunks, described, strict=True))
    )
    names = [(chunk.chunk_type, chunk.name) for chunk in full if chunk.name]
    if len(names) != len(set(names)):
        raise CorruptError("checkpoint: two regions have one name; restore the file from a copy")
    identity = identity_of(metadata, full)
    if identity != entries[IDENTITY_KEY]:
        raise CorruptError(
            f"checkpoint has identity {identity}, {entries[IDENTITY_KEY][:64]} was written; "
            "restore the file from a copy"
        )
    return full
