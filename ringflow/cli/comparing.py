"""Two checkpoints side by side: metadata, regions, blocks, the first element that differs.

- Bytes decide: a NaN equals itself, 0.0 differs from -0.0.
- Pure: checkpoints in, values out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ringflow.storage.blocks import BLOCK_BYTES, block_count, differing_blocks
from ringflow.storage.checkpoint import Checkpoint
from ringflow.storage.chunks import ChunkType, DataChunk
from ringflow.storage.metadata import CheckpointMetadata


@attrs.frozen
class FieldDifference:
    """A fact of the metadata in both; None where one side has none."""

    name: str
    left: object
    right: object


@attrs.frozen
class FirstDifference:
    """Where the data begins to differ.

    Attributes:
        offset_bytes: of the first byte that differs; the shorter one's length if that is all.
        index: of the element, in each dimension where both have the same shape, else counted
            through; empty where there is no element on one side.
        left, right: the element as text; the bytes in hex where both texts are equal or there is no
            dtype in common.
    """

    offset_bytes: int
    index: tuple[int, ...]
    left: str
    right: str


@attrs.frozen(kw_only=True)
class ChunkDifference:
    """A region, or another chunk, that is not the same on both sides.

    Attributes:
        change: ``"added"``, ``"removed"`` or ``"changed"``.
        left_layout, right_layout: dtype, shape and size in bytes as text; "" where it isn't.
        blocks, differing_blocks: of 64 KiB; those on one side only differ.
        first: None where data is equal, or on one side only.
    """

    label: str
    change: str
    left_layout: str
    right_layout: str
    blocks: int
    differing_blocks: int
    first: FirstDifference | None = None


def label_of(chunk: DataChunk) -> str:
    """Return what to call a chunk: its name, or its type and, where types repeat, its id."""
    if chunk.name:
        return chunk.name
    known = isinstance(chunk.chunk_type, ChunkType)
    kind = ChunkType(chunk.chunk_type).name.lower() if known else f"type {chunk.chunk_type}"
    return f"{kind} {chunk.chunk_id:#x}" if chunk.chunk_id else kind


def layout_of(chunk: DataChunk) -> str:
    """Return dtype and shape as text, ``bytes[n]`` where a chunk has no dtype."""
    shape = ", ".join(map(str, chunk.shape if chunk.dtype else (chunk.size_bytes,)))
    return f"{chunk.dtype or 'bytes'}[{shape}]"


def metadata_fields(metadata: CheckpointMetadata) -> dict[str, object]:
    """Return every fact under one flat name."""
    plain: dict[str, Any] = attrs.asdict(metadata, recurse=True)
    fields: dict[str, object] = {}
    for name, value in plain.items():
        if isinstance(value, dict):
            fields |= {f"{name}.{key}": one for key, one in value.items()}
        elif value is not None:
            fields[name] = value
    return fields


def metadata_differences(left: Checkpoint, right: Checkpoint) -> list[FieldDifference]:
    """Return the facts that differ, those on one side only included."""
    a, b = metadata_fields(left.metadata), metadata_fields(right.metadata)
    return [
        FieldDifference(name, a.get(name), b.get(name))
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]


def chunk_differences(left: Checkpoint, right: Checkpoint) -> Iterator[ChunkDifference]:
    """Yield the chunks that differ in layout or data, in the order of the files."""
    a, b = _by_identity(left), _by_identity(right)
    for key in dict.fromkeys([*a, *b]):
        one, other = a.get(key), b.get(key)
        if one is None or other is None:
            chunk = one or other
            assert chunk is not None
            count = block_count(chunk.size_bytes)
            yield ChunkDifference(
                label=label_of(chunk),
                change="added" if one is None else "removed",
                left_layout=layout_of(chunk) if one else "",
                right_layout=layout_of(chunk) if other else "",
                blocks=count,
                differing_blocks=count,
            )
        elif (found := _compared(one, other)) is not None:
            yield found


def _by_identity(checkpoint: Checkpoint) -> Mapping[object, DataChunk]:
    """Return the chunks by type and id, and by their position among equals."""
    seen: Counter[object] = Counter()
    found: dict[object, DataChunk] = {}
    for chunk in checkpoint.chunks:
        seen[chunk.identity] += 1
        found[chunk.identity, seen[chunk.identity]] = chunk
    return found


def _compared(left: DataChunk, right: DataChunk) -> ChunkDifference | None:
    blocks = differing_blocks(left.block_digests, right.block_digests)
    layouts = layout_of(left), layout_of(right)
    if not blocks and layouts[0] == layouts[1]:
        return None
    return ChunkDifference(
        label=label_of(left) if left.name else label_of(right),
        change="changed",
        left_layout=layouts[0],
        right_layout=layouts[1],
        blocks=block_count(max(left.size_bytes, right.size_bytes)),
        differing_blocks=len(blocks),
        first=_first(left, right, blocks[0]) if blocks else None,
    )


def _first(left: DataChunk, right: DataChunk, block_index: int) -> FirstDifference:
    import numpy as np

    start = block_index * BLOCK_BYTES
    a, b = (
        np.frombuffer(bytes(one.data[start : start + BLOCK_BYTES]), np.uint8)
        for one in (left, right)
    )
    common = min(len(a), len(b))
    unequal = np.flatnonzero(a[:common] != b[:common])
    if not len(unequal):
        ends = ("ends" if len(one) == common else "goes on" for one in (a, b))
        return FirstDifference(start + common, (), *ends)
    at = start + int(unequal[0])
    dtype = left.dtype if left.dtype == right.dtype else ""
    item_bytes = np.dtype(dtype or "uint8").itemsize
    number = at // item_bytes
    index: tuple[int, ...] = (number,)
    if dtype and left.shape == right.shape:
        index = tuple(int(one) for one in np.unravel_index(number, left.shape))
    pieces = [
        bytes(one.data[number * item_bytes : (number + 1) * item_bytes]) for one in (left, right)
    ]
    texts = [str(np.frombuffer(piece, dtype)[0]) if dtype else "" for piece in pieces]
    if texts[0] == texts[1]:
        texts = [f"0x{piece.hex()}" for piece in pieces]
    return FirstDifference(at, index, texts[0], texts[1])
