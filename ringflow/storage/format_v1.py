"""Version 1 checkpoint files (RKCKPT01), as RingKernel 1.1 writes and reads them.

- A file is header (64 bytes) | u32 length and metadata | chunks, each 32 bytes and its data.
- All integers are little-endian; the CRC-32 covers all but the header.
- Writing gives RingKernel 1.1's own header bytes: ``header_size`` 56 and a ``total_size`` that is
  8 short. Reading takes these and the right values (64 and the length).
- Reading trusts nothing: each size and count is held against the bytes that are there.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs

from ringflow.errors import CorruptError, LimitExceededError, StorageError
from ringflow.files import Buffer
from ringflow.storage.blocks import bytes_of
from ringflow.storage.chunks import DataChunk
from ringflow.storage.facts import apply_facts, chunk_entry, identity_of
from ringflow.storage.metadata import (
    IDENTITY_KEY,
    CheckpointMetadata,
    decode_metadata,
    encode_metadata,
)

if TYPE_CHECKING:
    from ringflow.storage.blocks import ArrayOrBytes

CHECKPOINT_MAGIC: Final = 0x524B434B50543031
CHECKPOINT_VERSION_1: Final = 1
MAX_CHECKPOINT_SIZE: Final = 1 << 30
CHUNKS_MAX: Final = 4096
HEADER_BYTES: Final = 64
CHUNK_HEADER_BYTES: Final = 32
_HEADER_BYTES_WRITTEN: Final = 56
_SHORT_BYTES: Final = 8
_HEADER: Final = struct.Struct("<QIIQIIIIQ16s")
_CHUNK: Final = struct.Struct("<IIQQQ")
_U32: Final = struct.Struct("<I")
_COMPRESSIONS: Final = {1: "lz4", 2: "zstd"}
_RESTORE: Final = "restore the file from a copy"


@attrs.frozen(kw_only=True)
class CheckpointHeader:
    """The first 64 bytes of a file.

    Attributes:
        header_size: bytes; RingKernel 1.1 writes 56.
        total_size: bytes of the file; RingKernel 1.1 writes 8 less.
        compression: 0 none, 1 lz4, 2 zstd; only 0 exists in version 1 files.
        checksum: CRC-32 (IEEE) of all bytes after the header.
        created_at: UNIX time in µs.
    """

    magic: int = CHECKPOINT_MAGIC
    version: int = CHECKPOINT_VERSION_1
    header_size: int = _HEADER_BYTES_WRITTEN
    total_size: int
    chunk_count: int
    compression: int = 0
    checksum: int
    flags: int = 0
    created_at: int = 0
    reserved: bytes = bytes(16)

    def to_bytes(self) -> bytes:
        return _HEADER.pack(
            self.magic,
            self.version,
            self.header_size,
            self.total_size,
            self.chunk_count,
            self.compression,
            self.checksum,
            self.flags,
            self.created_at,
            self.reserved,
        )

    @classmethod
    def from_bytes(cls, data: ArrayOrBytes) -> CheckpointHeader:
        """Return the header at the front of ``data``, not validated.

        Raises:
            CorruptError: there are fewer than 64 bytes.
        """
        view = bytes_of(data)
        if len(view) < HEADER_BYTES:
            raise CorruptError(
                f"checkpoint has {len(view)} bytes, its header takes {HEADER_BYTES}; {_RESTORE}"
            )
        names = [field.name for field in attrs.fields(cls)]
        return cls(**dict(zip(names, _HEADER.unpack_from(view), strict=True)))

    def validate(self, *, file_bytes: int | None = None) -> None:
        """Check the fields against each other and, if given, the file's length.

        Raises:
            CorruptError: a field has no value that a version 1 writer gives it.
            StorageError: the file is of a newer version, or compressed.
        """
        if self.magic != CHECKPOINT_MAGIC:
            raise CorruptError(
                f"checkpoint magic is {self.magic:#018x}, not {CHECKPOINT_MAGIC:#018x}; "
                "this is no checkpoint file"
            )
        if self.version == 0:
            raise CorruptError(f"checkpoint version is 0, which never was; {_RESTORE}")
        if self.version != CHECKPOINT_VERSION_1:
            raise StorageError(
                f"checkpoint version is {self.version}, this ringflow reads "
                f"{CHECKPOINT_VERSION_1}; read it with a newer ringflow"
            )
        if self.compression in _COMPRESSIONS:
            raise StorageError(
                f"checkpoint is compressed with {_COMPRESSIONS[self.compression]}, which version "
                "1 files never are; save it uncompressed"
            )
        self._check_constant_fields()
        if file_bytes is not None and self.total_size not in (
            file_bytes,
            file_bytes - _SHORT_BYTES,
        ):
            raise CorruptError(
                f"checkpoint total size is {self.total_size}, the file has {file_bytes} bytes; "
                f"{_RESTORE}"
            )

    def _check_constant_fields(self) -> None:
        for what, value, allowed in (
            ("header size", self.header_size, (_HEADER_BYTES_WRITTEN, HEADER_BYTES)),
            ("compression", self.compression, (0,)),
            ("flags", self.flags, (0,)),
            ("reserved bytes", self.reserved, (bytes(16),)),
        ):
            if value not in allowed:
                raise CorruptError(
                    f"checkpoint header: {what} {value!r} is not allowed; {_RESTORE}"
                )


@attrs.frozen(kw_only=True)
class ChunkHeader:
    """The 32 bytes before a chunk's data; sizes in bytes."""

    chunk_type: int
    flags: int = 0
    uncompressed_size: int
    compressed_size: int
    chunk_id: int = 0

    def to_bytes(self) -> bytes:
        return _CHUNK.pack(
            self.chunk_type,
            self.flags,
            self.uncompressed_size,
            self.compressed_size,
            self.chunk_id,
        )

    @classmethod
    def from_bytes(cls, data: ArrayOrBytes) -> ChunkHeader:
        """Return the chunk header at the front of ``data``; raises ``CorruptError``."""
        view = bytes_of(data)
        if len(view) < CHUNK_HEADER_BYTES:
            raise CorruptError(
                f"checkpoint has {len(view)} bytes where a chunk's header takes "
                f"{CHUNK_HEADER_BYTES}; {_RESTORE}"
            )
        kind, flags, uncompressed, compressed, chunk_id = _CHUNK.unpack_from(view)
        return cls(
            chunk_type=kind,
            flags=flags,
            uncompressed_size=uncompressed,
            compressed_size=compressed,
            chunk_id=chunk_id,
        )


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
        total_size=total_bytes - _SHORT_BYTES,
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
            f"{_RESTORE}"
        )
    if header.uncompressed_size != size_bytes:
        raise CorruptError(
            f"checkpoint chunk {index} says {header.uncompressed_size} bytes uncompressed and "
            f"{size_bytes} stored, but is not compressed; {_RESTORE}"
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
            f"{len(data) - at_bytes} bytes left; {_RESTORE}"
        )
    chunks = []
    for index in range(count):
        chunk, at_bytes = _take_chunk(data, at_bytes, index)
        chunks.append(chunk)
    if at_bytes != len(data):
        raise CorruptError(
            f"checkpoint has {len(data) - at_bytes} bytes after its last chunk; {_RESTORE}"
        )
    return chunks


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
            f"{_RESTORE}"
        )
    start = HEADER_BYTES + _U32.size
    if len(view) < start:
        raise CorruptError(f"checkpoint ends before its metadata; {_RESTORE}")
    block_bytes = int(_U32.unpack_from(view, HEADER_BYTES)[0])
    if block_bytes > len(view) - start:
        raise CorruptError(
            f"checkpoint metadata says {block_bytes} bytes, {len(view) - start} are left; "
            f"{_RESTORE}"
        )
    metadata, extra = decode_metadata(view[start : start + block_bytes])
    chunks = _take_chunks(view, start + block_bytes, header.chunk_count)
    return metadata, apply_facts(metadata, chunks, extra), header.created_at
