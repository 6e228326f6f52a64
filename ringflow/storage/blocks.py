"""Digests of a buffer's blocks: the unit of verification, deltas and dirty marks.

- A block is 64 KiB; the last one may be shorter, an empty buffer has none.
- A block's digest is the 16 bytes of its xxh3-128 in canonical (big-endian) form.
- A region's digest is SHA-256 over its blocks' digests: xxh3 finds damage, SHA-256 identifies.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any, Final, cast

import xxhash

from ringflow.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from ringflow.files import Buffer

    ArrayOrBytes = Buffer | np.ndarray[Any, Any]

BLOCK_BYTES: Final = 64 * 1024
BLOCK_DIGEST_BYTES: Final = 16
_TURN_BYTES: Final = 64 * BLOCK_BYTES  # hashed in about 0.5 ms


def bytes_of(data: ArrayOrBytes) -> memoryview:
    """Return a read-only uint8[n] view of a C-contiguous buffer, without a copy.

    Raises:
        UsageError: the buffer is not contiguous in C order, or no buffer at all.
    """
    try:
        view = memoryview(cast("Buffer", data))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{type(data).__name__} gives no buffer ({error}); pass bytes or a numpy array"
        ) from error
    if not view.c_contiguous:
        raise UsageError("the data is not contiguous in C order; pass np.ascontiguousarray(data)")
    if view.nbytes == 0:
        return memoryview(b"")
    return view.cast("B").toreadonly()


def block_count(size_bytes: int) -> int:
    """Return how many blocks a buffer of this size has."""
    return -(-size_bytes // BLOCK_BYTES)


def block_digests(data: ArrayOrBytes) -> bytes:
    """Return the digests of a buffer's blocks, one after the other.

    Args:
        data: any C-contiguous buffer; it must not change meanwhile.
    Returns:
        uint8[block_count * 16]. It takes about 0.13 s a GB; call it in a worker thread.
    """
    view = bytes_of(data)
    digest = xxhash.xxh3_128_digest
    digests = []
    for start in range(0, len(view), _TURN_BYTES):
        end = min(start + _TURN_BYTES, len(view))
        digests += [digest(view[at : at + BLOCK_BYTES]) for at in range(start, end, BLOCK_BYTES)]
        time.sleep(0)  # xxhash keeps the interpreter for a block; give other threads their turn
    return b"".join(digests)


def region_digest(digests: bytes) -> str:
    """Return the digest (64 hex digits) of the region whose blocks have these digests."""
    assert len(digests) % BLOCK_DIGEST_BYTES == 0
    return hashlib.sha256(digests).hexdigest()


def differing_blocks(left: bytes, right: bytes) -> tuple[int, ...]:
    """Return the indices of the blocks whose digests differ, those on one side only included."""
    count = max(len(left), len(right)) // BLOCK_DIGEST_BYTES
    step = BLOCK_DIGEST_BYTES
    return tuple(
        block_index
        for block_index in range(count)
        if left[block_index * step : (block_index + 1) * step]
        != right[block_index * step : (block_index + 1) * step]
    )
