"""Version 1 checkpoint files (RKCKPT01), as RingKernel 1.1 writes and reads them.

- A file is header (64 bytes) | u32 length and metadata | chunks, each 32 bytes and its data.
- All integers are little-endian; the CRC-32 covers all but the header.
- Reading trusts nothing: each size and count is held against the bytes that are there.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ringflow.errors import CorruptError, LimitExceededError, StorageError
from ringflow.files import Buffer
from ringflow.storage.blocks import bytes_of
from ringflow.storage.chunks import DataChunk
from ringflow.storage.facts import apply_facts, chunk_entry, identity_of
from ringflow.storage.headers import (
    CHUNK_HEADER_BYTES,
    HEADER_BYTES,
    RESTORE_ADVICE,
    SHORT_BYTES,
    CheckpointHeader,
    ChunkHeader,
)
from ringflow.storage.metadata import (
    IDENTITY_KEY,
    METADATA_BYTES_MAX,
    CheckpointMetadata,
    decode_metadata,
    encode_metadata,
)

if TYPE_CHECKING:
    from ringflow.storage.blocks import ArrayOrBytes

MAX_CHECKPOINT_SIZE: Final = 1 << 30
CHUNKS_MAX: Final = 4096
_U32: Final = struct.Struct("<I")
METADATA_END_MAX: Final = HEADER_BYTES + _U32.size + METADATA_BYTES_MAX


def header_of(chunk: DataChunk) -> ChunkHeader:
    return ChunkHeader(
        chunk_type=chunk.chunk_type,
        flags=chunk.flags,
        uncompressed_size=chunk.size_bytes,
        compressed_size=chunk.size_bytes,
        chunk_id=chunk.chunk_id,
    )


def encode(
    metadata: CheckpointMetadata, chunks: Sequence[DataChunk], *, created_at_us: int
) -> tuple[Buffer, ...]:
    """Return a file's bytes in pieces, the chunks' data as views; the same for equal content.

    It reads all data twice (digests and CRC), about 0.4 s a GB: call it in a worker thread.

    Raises:
        LimitExceededError: more than 4096 chunks, or more than ``MAX_CHECKPOINT_SIZE`` bytes.
    """
    if len(chunks) > CHUNKS_MAX:
        raise LimitExceededError(
            "the checkpoint's count of chunks", len(chunks), CHUNKS_MAX, "join small regions"
        )
    extra = {**chunk_entry(chunks), IDENTITY_KEY: identity_of(metadata, chunks)}
    block = encode_metadata(metadata, extra)
    body: list[Buffer] = [_U32.pack(len(block)), block]
    for chunk in chunks:
        body += [header_of(chunk).to_bytes(), chunk.data]
    total_bytes = HEADER_BYTES + sum(len(piece) for piece in body)
    if total_bytes > MAX_CHECKPOINT_SIZE:
        raise LimitExceededError(
            "the checkpoint's size in bytes",
            total_bytes,
            MAX_CHECKPOINT_SIZE,
            "give the kernel smaller regions or split it",
        )
    checksum = 0
    for piece in body:
        checksum = zlib.crc32(piece, checksum)
    header = CheckpointHeader(
        total_size=total_bytes - SHORT_BYTES,
        chunk_count=len(chunks),
        checksum=checksum,
        created_at=created_at_us,
    )
    return (header.to_bytes(), *body)


def _take_chunk(data: memoryview, at_bytes: int, index: int) -> tuple[DataChunk, int]:
    header = ChunkHeader.from_bytes(data[at_bytes : at_bytes + CHUNK_HEADER_BYTES])
    start = at_bytes + CHUNK_HEADER_BYTES
    size_bytes = header.compressed_size
    if size_bytes > len(data) - start:
        raise CorruptError(
            f"checkpoint chunk {index} says {size_bytes} bytes, {len(data) - start} are left; "
            f"{RESTORE_ADVICE}"
        )
    if header.uncompressed_size != size_bytes:
        raise CorruptError(
            f"checkpoint chunk {index} says {header.uncompressed_size} bytes uncompressed and "
            f"{size_bytes} stored, but is not compressed; {RESTORE_ADVICE}"
        )
    end = start + size_bytes
    chunk = DataChunk(
        chunk_type=header.chunk_type,
        data=data[start:end],
        chunk_id=header.chunk_id,
        flags=header.flags,
    )
    return chunk, end


def _take_chunks(data: memoryview, at_bytes: int, count: int) -> list[DataChunk]:
    if count * CHUNK_HEADER_BYTES > len(data) - at_bytes or count > CHUNKS_MAX:
        raise CorruptError(
            f"checkpoint header: {count} chunks, at most {CHUNKS_MAX} may lie in the "
            f"{len(data) - at_bytes} bytes left; {RESTORE_ADVICE}"
        )
    chunks = []
    for index in range(count):
        chunk, at_bytes = _take_chunk(data, at_bytes, index)
        chunks.append(chunk)
    if at_bytes != len(data):
        raise CorruptError(
            f"checkpoint has {len(data) - at_bytes} bytes after its last chunk; {RESTORE_ADVICE}"
        )
    return chunks


def _take_metadata(view: memoryview) -> tuple[CheckpointMetadata, dict[str, str], int]:
    """Return the metadata, the entries about chunks, and where the first chunk begins."""
    start = HEADER_BYTES + _U32.size
    if len(view) < start:
        raise CorruptError(f"checkpoint ends before its metadata; {RESTORE_ADVICE}")
    block_bytes = int(_U32.unpack_from(view, HEADER_BYTES)[0])
    if block_bytes > len(view) - start:
        raise CorruptError(
            f"checkpoint metadata says {block_bytes} bytes, {len(view) - start} are left; "
            f"{RESTORE_ADVICE}"
        )
    end = start + block_bytes
    return *decode_metadata(view[start:end]), end


def decode_head(
    data: ArrayOrBytes, *, file_bytes: int
) -> tuple[CheckpointHeader, CheckpointMetadata]:
    """Return what the beginning of a file says of itself; no chunk is looked at, no CRC checked.

    Args:
        data: uint8[n], the file's first ``METADATA_END_MAX`` bytes, or all if it has fewer.
        file_bytes: the length of the whole file.
    Raises:
        CorruptError: header or metadata contradict the format.
        StorageError: the file is of a newer version.
    """
    view = bytes_of(data)
    header = CheckpointHeader.from_bytes(view)
    header.validate(file_bytes=file_bytes)
    metadata, _, _ = _take_metadata(view)
    return header, metadata


def decode(data: ArrayOrBytes) -> tuple[CheckpointMetadata, tuple[DataChunk, ...], int]:
    """Return metadata, chunks (views of ``data``) and the time of creation in µs.

    Raises:
        CorruptError: the bytes contradict the format, their CRC, a digest or the identity.
        StorageError: the file is of a newer version, or larger than ``MAX_CHECKPOINT_SIZE``.
    """
    view = bytes_of(data)
    if len(view) > MAX_CHECKPOINT_SIZE:
        raise StorageError(
            f"checkpoint has {len(view)} bytes, over the limit of {MAX_CHECKPOINT_SIZE}; "
            "this is no version 1 file"
        )
    header = CheckpointHeader.from_bytes(view)
    header.validate(file_bytes=len(view))
    checksum = zlib.crc32(view[HEADER_BYTES:])
    if checksum != header.checksum:
        raise CorruptError(
            f"checkpoint CRC-32 is {checksum:#010x}, its header says {header.checksum:#010x}; "
            f"{RESTORE_ADVICE}"
        )
    metadata, extra, end = _take_metadata(view)
    chunks = _take_chunks(view, end, header.chunk_count)
    return metadata, apply_facts(metadata, chunks, extra), header.created_at
