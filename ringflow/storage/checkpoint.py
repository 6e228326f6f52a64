"""A kernel's whole state as a value, and the builder that collects it.

- A checkpoint names its chunks: no two regions share a name.
- ``identity`` follows from metadata and data; the time of creation is not part of it.
- Data is held as views: it must not change between ``add_...`` and the end of the save.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from ringflow.errors import UsageError
from ringflow.files import Buffer
from ringflow.spec import ReplayMode
from ringflow.storage import format_v1
from ringflow.storage.chunks import ChunkType, DataChunk
from ringflow.storage.facts import identity_of
from ringflow.storage.metadata import CheckpointMetadata, HlcTimestamp, RecoveryFacts

if TYPE_CHECKING:
    from ringflow.storage.blocks import ArrayOrBytes


@attrs.define
class Checkpoint:
    """A kernel's state at one step.

    Attributes:
        created_at_us: UNIX time in µs, 0 where nobody said; not part of the identity.
    """

    metadata: CheckpointMetadata
    _chunks: list[DataChunk] = attrs.field(factory=list, init=False)
    created_at_us: int = attrs.field(default=0, kw_only=True)

    @property
    def chunks(self) -> tuple[DataChunk, ...]:
        """The chunks in the order of the file."""
        return tuple(self._chunks)

    def add_chunk(self, chunk: DataChunk) -> None:
        """Append a chunk; raises ``UsageError`` if its name is there already."""
        if chunk.name and self._named(chunk.chunk_type, chunk.name) is not None:
            raise UsageError(f"region {chunk.name!r} is in the checkpoint already; rename one")
        self._chunks.append(chunk)

    def add_control_block(self, data: ArrayOrBytes) -> None:
        self._add(ChunkType.CONTROL_BLOCK, data)

    def add_h2k_queue(self, data: ArrayOrBytes) -> None:
        self._add(ChunkType.H2K_QUEUE, data)

    def add_k2h_queue(self, data: ArrayOrBytes) -> None:
        self._add(ChunkType.K2H_QUEUE, data)

    def add_hlc_state(self, data: ArrayOrBytes) -> None:
        self._add(ChunkType.HLC_STATE, data)

    def add_device_memory(
        self,
        name: str,
        data: ArrayOrBytes,
        *,
        dtype: str = "",
        shape: tuple[int, ...] = (),
        digests: bytes | None = None,
    ) -> None:
        """Append a region.

        Args:
            data: the region's bytes, or a C-contiguous array.
            dtype, shape: of the array; both or neither.
            digests: uint8[blocks * 16] as ``block_digests`` makes them, where they are known.
        """
        self.add_chunk(
            DataChunk.named(
                ChunkType.DEVICE_MEMORY, name, data, dtype=dtype, shape=shape, digests=digests
            )
        )

    def add_custom(self, name: str, data: ArrayOrBytes) -> None:
        """Append bytes of ringflow's or the user's own under a name."""
        self.add_chunk(DataChunk.named(ChunkType.CUSTOM, name, data))

    def _add(self, chunk_type: ChunkType, data: ArrayOrBytes) -> None:
        self._chunks.append(DataChunk(chunk_type=chunk_type, data=data))

    def _named(self, chunk_type: int, name: str) -> DataChunk | None:
        wanted = DataChunk.named(ChunkType(chunk_type), name, b"").identity
        for chunk in self._chunks:
            if chunk.identity == wanted and chunk.name in ("", name):
                return chunk
        return None

    def get_chunk(self, chunk_type: int) -> DataChunk | None:
        """Return the first chunk of a type."""
        return next((chunk for chunk in self._chunks if chunk.chunk_type == chunk_type), None)

    def get_chunks(self, chunk_type: int) -> tuple[DataChunk, ...]:
        return tuple(chunk for chunk in self._chunks if chunk.chunk_type == chunk_type)

    def get_device_memory(self, name: str) -> DataChunk | None:
        """Return a region by name; in RingKernel's files, by the id that the name hashes to."""
        return self._named(ChunkType.DEVICE_MEMORY, name)

    def get_custom(self, name: str) -> DataChunk | None:
        return self._named(ChunkType.CUSTOM, name)

    @property
    def regions(self) -> tuple[DataChunk, ...]:
        """The device memory chunks in the order of the file."""
        return self.get_chunks(ChunkType.DEVICE_MEMORY)

    @property
    def data_bytes(self) -> int:
        """Bytes of data in all chunks; ``total_size`` adds headers and metadata."""
        return sum(chunk.size_bytes for chunk in self._chunks)

    def identity(self) -> str:
        """Return the SHA-256 (hex) over metadata and block digests; hashes what isn't yet."""
        return identity_of(self.metadata, self._chunks)

    def pieces(self) -> tuple[Buffer, ...]:
        """Return the file's bytes in pieces that are not copied; see ``format_v1.encode``."""
        return format_v1.encode(
            self.metadata, tuple(self._chunks), created_at_us=self.created_at_us
        )

    def total_size(self) -> int:
        """Return the file's size in bytes; it costs as much as ``pieces``."""
        return sum(len(piece) for piece in self.pieces())

    def to_bytes(self) -> bytes:
        """Return the whole file in memory; ``pieces`` avoids the copy."""
        return b"".join(self.pieces())

    @classmethod
    def from_bytes(cls, data: ArrayOrBytes) -> Checkpoint:
        """Return the checkpoint in a file's bytes, verified; its chunks are views of them.

        Raises:
            CorruptError: the bytes contradict the format, their CRC or a digest.
            StorageError: the file is of a newer version or too large.
        """
        metadata, chunks, created_at_us = format_v1.decode(data)
        made = cls(metadata, created_at_us=created_at_us)
        made._chunks.extend(chunks)
        return made


class CheckpointBuilder:
    """Collects a checkpoint; each method but ``build`` returns the builder itself."""

    def __init__(self, kernel_id: str, kernel_type: str) -> None:
        self._metadata = CheckpointMetadata(kernel_id=kernel_id, kernel_type=kernel_type)
        self._chunks: list[DataChunk] = []
        self._created_at_us = 0

    def _with(self, **changes: object) -> CheckpointBuilder:
        self._metadata = attrs.evolve(self._metadata, **changes)  # type: ignore[arg-type]
        return self

    def step(self, step: int) -> CheckpointBuilder:
        return self._with(current_step=step)

    def grid_size(self, x: int, y: int = 1, z: int = 1) -> CheckpointBuilder:
        return self._with(grid_size=(x, y, z))

    def tile_size(self, x: int, y: int = 1, z: int = 1) -> CheckpointBuilder:
        return self._with(tile_size=(x, y, z))

    def hlc(self, timestamp: HlcTimestamp) -> CheckpointBuilder:
        return self._with(hlc_timestamp=timestamp)

    def custom(self, key: str, value: str) -> CheckpointBuilder:
        """Add a metadata entry; raises ``UsageError`` for ringflow's own keys."""
        return self._with(custom={**self._metadata.custom, key: value})

    def recovery(
        self, *, replay_from: int, code_version: str, epoch: int, replay_mode: ReplayMode
    ) -> CheckpointBuilder:
        """Say what recovery must know; see ``RecoveryFacts``."""
        facts = RecoveryFacts(
            replay_from=replay_from,
            code_version=code_version,
            epoch=epoch,
            replay_mode=replay_mode,
        )
        return self._with(recovery=facts)

    def created_at(self, at_us: int) -> CheckpointBuilder:
        """Set the time of creation, UNIX time in µs; 0 if it is never set."""
        if not 0 <= at_us < 1 << 64:
            raise UsageError(f"time {at_us} µs is out of range; give UNIX time in µs")
        self._created_at_us = at_us
        return self

    def control_block(self, data: ArrayOrBytes) -> CheckpointBuilder:
        return self.chunk(DataChunk(chunk_type=ChunkType.CONTROL_BLOCK, data=data))

    def h2k_queue(self, data: ArrayOrBytes) -> CheckpointBuilder:
        return self.chunk(DataChunk(chunk_type=ChunkType.H2K_QUEUE, data=data))

    def k2h_queue(self, data: ArrayOrBytes) -> CheckpointBuilder:
        return self.chunk(DataChunk(chunk_type=ChunkType.K2H_QUEUE, data=data))

    def k2k_routing(self, data: ArrayOrBytes) -> CheckpointBuilder:
        return self.chunk(DataChunk(chunk_type=ChunkType.K2K_ROUTING, data=data))

    def device_memory(
        self,
        name: str,
        data: ArrayOrBytes,
        *,
        dtype: str = "",
        shape: Iterable[int] = (),
        digests: bytes | None = None,
    ) -> CheckpointBuilder:
        """Add a region; see ``Checkpoint.add_device_memory``."""
        return self.chunk(
            DataChunk.named(
                ChunkType.DEVICE_MEMORY,
                name,
                data,
                dtype=dtype,
                shape=tuple(shape),
                digests=digests,
            )
        )

    def custom_chunk(self, name: str, data: ArrayOrBytes) -> CheckpointBuilder:
        """Add bytes under a name, such as an outbox."""
        return self.chunk(DataChunk.named(ChunkType.CUSTOM, name, data))

    def chunk(self, chunk: DataChunk) -> CheckpointBuilder:
        self._chunks.append(chunk)
        return self

    def build(self) -> Checkpoint:
        """Return the checkpoint; raises ``UsageError`` if two regions share a name."""
        made = Checkpoint(self._metadata, created_at_us=self._created_at_us)
        for chunk in self._chunks:
            made.add_chunk(chunk)
        return made
