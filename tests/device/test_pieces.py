"""Small pieces of memory: zeroed, apart from each other, used again, bounded."""

from __future__ import annotations

import gc
import itertools
import threading

import pytest

from ringflow.device.host import pieces
from ringflow.device.host.device import HostDevice
from ringflow.device.host.pieces import PIECE_BYTES_MAX, Piece, piece_or_pages
from ringflow.errors import DeviceError


def test_pieces_are_zeroed_and_apart() -> None:
    """Each has cache lines of its own, whatever was in them before."""
    taken = [Piece(size, label=f"{size}") for size in (1, 64, 127, 128, 129, 5000) * 20]
    spans = sorted((piece.address, piece.address + piece.size_bytes) for piece in taken)
    assert all(start % 128 == 0 for start, _ in spans)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    for piece in taken:
        assert not any(piece.view)
        piece.view[:] = b"\xff" * piece.size_bytes


def test_garbage_that_is_collected_while_a_piece_is_taken_blocks_nobody() -> None:
    """A collection may begin at any allocation, also in the middle of a take, in its thread."""
    forgotten = Piece(96, label="forgotten")

    def take_and_collect(piece: list[Piece]) -> None:
        with pieces._store._lock:  # as in a take
            piece.clear()
            gc.collect()

    kept = [forgotten]
    del forgotten
    thread = threading.Thread(target=take_and_collect, args=(kept,), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_released_bytes_are_used_again_and_zeroed() -> None:
    """By release or by being forgotten; releasing twice is releasing once."""
    first = Piece(700, label="first")
    first.view[:] = b"\xff" * 700
    address = first.address
    first.release()
    first.release()
    second = Piece(640, label="second")
    third = Piece(700, label="third")
    assert address in (second.address, third.address)
    assert second.address != third.address
    assert not any(second.view)
    assert not any(third.view)
    kept = third.address
    del third
    gc.collect()
    assert Piece(700, label="fourth").address == kept


def test_released_piece_has_no_view() -> None:
    """Its bytes may be another's."""
    piece = Piece(64, label="entry")
    piece.release()
    with pytest.raises(DeviceError, match="entry"):
        _ = piece.view


def test_large_pieces_have_pages_of_their_own() -> None:
    """So that they go back to the system."""
    assert isinstance(piece_or_pages(PIECE_BYTES_MAX, label="small"), Piece)
    large = piece_or_pages(PIECE_BYTES_MAX + 1, label="large")
    assert not isinstance(large, Piece)
    assert large.address % 4096 == 0


def test_what_users_look_at_is_never_a_piece() -> None:
    """A view of a freed region must not show another kernel's control block."""
    device = HostDevice("host:0", memory_limit_bytes=1 << 20)
    assert not isinstance(device.allocate(64, label="region"), Piece)
    assert isinstance(device.allocate_mapped(256, label="control"), Piece)
    checked = HostDevice("host:1", memory_limit_bytes=1 << 20, memcheck=True)
    assert not isinstance(checked.allocate_mapped(256, label="control"), Piece)
    device.close()
    checked.close()
