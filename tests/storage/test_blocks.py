"""Block digests, and the hash that names chunks."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import xxhash

from ringflow.errors import UsageError
from ringflow.storage import BLOCK_BYTES, block_digests, differing_blocks, region_digest
from ringflow.storage.blocks import block_count, bytes_of
from ringflow.storage.siphash import chunk_id_of, siphash13


@pytest.mark.parametrize(
    "size_bytes", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 5, 33 * BLOCK_BYTES + 1]
)
def test_digests_are_those_of_64_kib_blocks(size_bytes: int) -> None:
    """Each block has its own digest, the last one however short; an empty buffer has none."""
    data = np.random.default_rng(5).bytes(size_bytes)
    digests = block_digests(data)
    assert len(digests) == 16 * block_count(size_bytes)
    for block_index in range(block_count(size_bytes)):
        piece = data[block_index * 65536 : (block_index + 1) * 65536]
        expected = xxhash.xxh3_128(piece).digest()
        assert digests[block_index * 16 : block_index * 16 + 16] == expected


def test_block_digest_is_canonical() -> None:
    """Digests are big-endian, as xxHash's specification prints them: devices must agree."""
    assert block_digests(b"\0").hex() == "a6cd5e9392000f6ac44bdff4074eecdb"


def test_region_digest_is_a_sha256_over_the_blocks_digests() -> None:
    """The identity of a region does not rest on xxh3."""
    digests = block_digests(bytes(BLOCK_BYTES + 1))
    assert region_digest(digests) == hashlib.sha256(digests).hexdigest()


def test_one_changed_byte_changes_one_block() -> None:
    """differing_blocks names the block, and blocks that one side lacks."""
    before = np.zeros(4 * BLOCK_BYTES, np.uint8)
    after = before.copy()
    after[2 * BLOCK_BYTES] = 1
    assert differing_blocks(block_digests(before), block_digests(after)) == (2,)
    assert differing_blocks(block_digests(before), block_digests(before[: 3 * BLOCK_BYTES])) == (3,)
    assert differing_blocks(block_digests(before), block_digests(before)) == ()


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "bool", "complex64"])
def test_digest_of_an_array_is_that_of_its_bytes(dtype: str) -> None:
    """Arrays of any dtype and shape are hashed in place."""
    array = np.arange(12).reshape(3, 4).astype(dtype)
    assert block_digests(array) == block_digests(array.tobytes())


def test_buffers_that_are_no_plain_bytes_are_refused() -> None:
    """A transposed array would be hashed and stored in the wrong order: it is refused."""
    with pytest.raises(UsageError, match="ascontiguousarray"):
        bytes_of(np.zeros((3, 4), np.float32).T)
    with pytest.raises(UsageError, match="gives no buffer"):
        bytes_of("text")  # type: ignore[arg-type]


def test_bytes_of_gives_no_way_to_write() -> None:
    """A chunk's view can't change the caller's array."""
    assert bytes_of(np.zeros(4, np.float32)).readonly
    assert len(bytes_of(np.zeros((0, 4), np.float32))) == 0


@pytest.mark.parametrize(
    ("name", "chunk_id"),
    [("actor_state", 0x542F03691AD5552D), ("pressure", 0xACA6A1F20A241E2A)],
)
def test_chunk_ids_are_those_that_rust_computes(name: str, chunk_id: int) -> None:
    """Files of RingKernel are searched by these ids."""
    assert chunk_id_of(name) == chunk_id


def test_siphash_takes_every_length() -> None:
    """Lengths around the eight-byte word give different hashes, none of them out of range."""
    hashes = {siphash13(bytes(length)) for length in range(40)}
    assert len(hashes) == 40
    assert max(hashes) < 1 << 64
