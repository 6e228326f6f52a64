"""The two fixed headers of version 1 checkpoint files, as RingKernel 1.1 writes them.

- All integers are little-endian.
- RingKernel writes a ``header_size`` of 56 and a ``total_size`` that is 8 short: so do we, for its
  readers. The right values (64 and the length) are taken as well.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import attrs

from ringflow.errors import CorruptError, StorageError
from ringflow.storage.blocks import bytes_of

if TYPE_CHECKING:
    from ringflow.storage.blocks import ArrayOrBytes

CHECKPOINT_MAGIC: Final = 0x524B434B50543031
CHECKPOINT_VERSION_1: Final = 1
HEADER_BYTES: Final = 64
CHUNK_HEADER_BYTES: Final = 32
_HEADER_BYTES_WRITTEN: Final = 56
SHORT_BYTES: Final = 8
_HEADER: Final = struct.Struct("<QIIQIIIIQ16s")
_CHUNK: Final = struct.Struct("<IIQQQ")
_COMPRESSIONS: Final = {1: "lz4", 2: "zstd"}
RESTORE_ADVICE: Final = "restore the file from a copy"


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
                f"checkpoint has {len(view)} bytes, its header takes {HEADER_BYTES}; "
                f"{RESTORE_ADVICE}"
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
            raise CorruptError(f"checkpoint version is 0, which never was; {RESTORE_ADVICE}")
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
            file_bytes - SHORT_BYTES,
        ):
            raise CorruptError(
                f"checkpoint total size is {self.total_size}, the file has {file_bytes} bytes; "
                f"{RESTORE_ADVICE}"
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
                    f"checkpoint header: {what} {value!r} is not allowed; {RESTORE_ADVICE}"
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
                f"{CHUNK_HEADER_BYTES}; {RESTORE_ADVICE}"
            )
        kind, flags, uncompressed, compressed, chunk_id = _CHUNK.unpack_from(view)
        return cls(
            chunk_type=kind,
            flags=flags,
            uncompressed_size=uncompressed,
            compressed_size=compressed,
            chunk_id=chunk_id,
        )
