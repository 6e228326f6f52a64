"""The pieces of a checkpoint: typed chunks of bytes, some of them named arrays.

- A chunk's bytes are a view of what the caller gave; they must not change afterwards.
- Digests are computed once, on first use, unless the caller already has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import attrs

from ringflow.errors import UsageError
from ringflow.spec import DTYPE_BYTES
from ringflow.storage.blocks import (
    BLOCK_DIGEST_BYTES,
    block_count,
    block_digests,
    bytes_of,
    region_digest,
)
from ringflow.storage.siphash import chunk_id_of

if TYPE_CHECKING:
    import numpy as np

    from ringflow.storage.blocks import ArrayOrBytes

_SHAPE_DIMENSIONS_MAX: Final = 32


class ChunkType(IntEnum):
    """What a chunk holds; files may carry other numbers, which are kept as they are."""

    CONTROL_BLOCK = 1
    H2K_QUEUE = 2
    K2H_QUEUE = 3
    HLC_STATE = 4
    DEVICE_MEMORY = 5
    K2K_ROUTING = 6
    HALO_BUFFERS = 7
    TELEMETRY = 8
    CUSTOM = 100


NAMED_TYPES: Final = frozenset({ChunkType.DEVICE_MEMORY, ChunkType.CUSTOM})


def known_type(number: int) -> int:
    """Return the ``ChunkType`` of a number, or the number itself if it names none."""
    try:
        return ChunkType(number)
    except ValueError:
        return number


def _lengths(given: Iterable[int]) -> tuple[int, ...]:
    return tuple(given)


def layout_error(dtype: str, shape: tuple[int, ...], size_bytes: int) -> str | None:
    """Return why an array of this dtype and shape can't have this size, or ``None``."""
    if len(shape) > _SHAPE_DIMENSIONS_MAX:
        return f"shape has {len(shape)} dimensions, more than {_SHAPE_DIMENSIONS_MAX}"
    count = 1
    for length in shape:
        if not 0 <= length < 1 << 63:
            return f"shape {shape} has a length out of range"
        count *= length
    item_bytes = DTYPE_BYTES.get(dtype)
    if item_bytes is None:
        return f"dtype {dtype[:40]!r} is none of {', '.join(DTYPE_BYTES)}"
    if count * item_bytes != size_bytes:
        return f"{dtype}{list(shape)} needs {count * item_bytes} bytes, there are {size_bytes}"
    return None


@attrs.frozen(kw_only=True)
class DataChunk:
    """One chunk of a checkpoint.

    Attributes:
        chunk_type: a ``ChunkType``, or the number of a type that is not known here.
        data: uint8[n], read-only view.
        chunk_id: tells apart the chunks of one type; the hash of the name where there is one.
        flags: u32, kept as read; 0 in what is made here.
        name: the region's name, "" where it has none or the file doesn't tell.
        dtype: numpy name of the array's dtype, "" for plain bytes.
        shape: the array's shape in C order, () where there is no dtype.
        given_digests: uint8[blocks * 16] as ``block_digests`` makes them, from a caller who has
            them (such as a device that hashed its own memory); a reader will check them.
    Raises:
        UsageError: dtype, shape, digests and size contradict each other.
    """

    chunk_type: int = attrs.field(converter=known_type)
    data: memoryview = attrs.field(converter=bytes_of, repr=lambda data: f"<{len(data)} bytes>")
    chunk_id: int = 0
    flags: int = 0
    name: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = attrs.field(default=(), converter=_lengths)
    given_digests: bytes | None = attrs.field(default=None, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        what = f"chunk {self.name or int(self.chunk_type)!r}"
        if self.dtype or self.shape:
            error = layout_error(self.dtype, self.shape, len(self.data))
            if error:
                raise UsageError(f"{what}: {error}; give the dtype and shape of its data")
        given = self.given_digests
        if given is not None and len(given) != block_count(len(self.data)) * BLOCK_DIGEST_BYTES:
            raise UsageError(f"{what}: {len(given)} bytes of digests don't fit its blocks")

    @classmethod
    def named(
        cls,
        chunk_type: ChunkType,
        name: str,
        data: ArrayOrBytes,
        *,
        dtype: str = "",
        shape: tuple[int, ...] = (),
        digests: bytes | None = None,
    ) -> DataChunk:
        """Return a chunk whose id is the hash of its name."""
        if not name:
            raise UsageError("a region has an empty name; give it the one that its spec declares")
        return cls(
            chunk_type=chunk_type,
            data=data,
            chunk_id=chunk_id_of(name),
            name=name,
            dtype=dtype,
            shape=shape,
            given_digests=digests,
        )

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    @property
    def identity(self) -> tuple[int, int | None]:
        """What makes it the same chunk in another checkpoint: type, and id where types repeat."""
        return self.chunk_type, self.chunk_id if self.chunk_type in NAMED_TYPES else None

    @cached_property
    def block_digests(self) -> bytes:
        """uint8[blocks * 16]: those that were given, else computed from the data."""
        return block_digests(self.data) if self.given_digests is None else self.given_digests

    @cached_property
    def digest(self) -> str:
        """The region's digest, 64 hex digits."""
        return region_digest(self.block_digests)

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the data as a read-only array of its dtype and shape, without a copy.

        Raises:
            UsageError: the chunk carries no dtype.
        """
        import numpy as np

        if not self.dtype:
            raise UsageError(f"chunk {self.name!r} carries no dtype; use np.frombuffer(chunk.data)")
        return np.frombuffer(self.data, dtype=self.dtype).reshape(self.shape)
