"""Arenas of a GPU: pieces never overlap, nothing is lost, held memory goes to nobody."""

from __future__ import annotations

import random

import pytest

from ringflow.device.cuda.arena import UNIT_BYTES, CudaArena, Extents, rounded
from ringflow.errors import DeviceError, DeviceMemoryError

BASE = 7 << 32


def arena(units: int, *, host_address: int = 0) -> CudaArena:
    return CudaArena("cuda:0", BASE, units * UNIT_BYTES, host_address=host_address)


def test_random_takes_and_gives_keep_every_byte_in_one_place() -> None:
    """Against a model of units: no overlap, all in range, all of it one stretch in the end."""
    seed = 20
    draw = random.Random(seed)
    extents = Extents(BASE, 64 * UNIT_BYTES)
    taken: dict[int, int] = {}
    for _ in range(2000):
        if taken and draw.random() < 0.5:
            address = draw.choice(sorted(taken))
            extents.give(address, taken.pop(address))
        else:
            size_bytes = draw.randint(1, 16) * UNIT_BYTES
            found = extents.take(size_bytes)
            if found is None:
                assert extents.largest_bytes < size_bytes, seed
                continue
            ends = [(start, start + size) for start, size in taken.items()]
            assert all(found + size_bytes <= start or found >= end for start, end in ends), seed
            assert BASE <= found <= BASE + 64 * UNIT_BYTES - size_bytes, seed
            taken[found] = size_bytes
        assert extents.free_bytes == 64 * UNIT_BYTES - sum(taken.values()), seed
    for address, size_bytes in taken.items():
        extents.give(address, size_bytes)
    assert extents.largest_bytes == 64 * UNIT_BYTES


def test_pieces_are_aligned_and_rounded() -> None:
    """A byte takes a unit; the piece says a byte."""
    of = arena(4)
    pieces = [of.take(size, label="a") for size in (1, UNIT_BYTES, UNIT_BYTES + 1)]
    assert [piece.size_bytes for piece in pieces] == [1, UNIT_BYTES, UNIT_BYTES + 1]
    assert all(piece.address % UNIT_BYTES == 0 for piece in pieces)
    assert of.free_bytes == 0
    assert rounded(UNIT_BYTES + 1) == 2 * UNIT_BYTES


def test_exhaustion_says_the_largest_piece_and_takes_nothing() -> None:
    """Free bytes that lie apart are told apart."""
    of = arena(5)
    pieces = [of.take(UNIT_BYTES, label=str(number)) for number in range(5)]
    for which in (0, 2, 3):
        of.free(pieces[which].address)
    with pytest.raises(DeviceMemoryError, match="512 of them in one piece") as raised:
        of.take(3 * UNIT_BYTES, label="large")
    assert (raised.value.free_bytes, raised.value.largest_bytes) == (768, 512)
    assert of.free_bytes == 3 * UNIT_BYTES
    assert of.labels() == ["1", "4"]


def test_held_memory_goes_to_nobody_until_it_is_settled() -> None:
    """Its kernel may still write there; a second free is refused all the same."""
    of = arena(1)
    piece = of.take(10, label="region")
    of.free(piece.address, holds=2)
    assert (of.free_bytes, of.find(piece.address)) == (0, None)
    with pytest.raises(DeviceMemoryError):
        of.take(10, label="next")
    with pytest.raises(DeviceError, match="free each one once"):
        of.free(piece.address)
    of.settle(piece.address)
    assert of.free_bytes == 0
    of.settle(piece.address)
    assert of.take(10, label="next").address == piece.address


def test_mapped_pieces_know_both_addresses() -> None:
    """The host's address goes along with the device's."""
    of = arena(4, host_address=0x1000)
    of.take(1, label="a")
    assert of.take(1, label="b").host_address == 0x1000 + UNIT_BYTES
    assert of.has(BASE)
    assert not of.has(BASE + 4 * UNIT_BYTES)
