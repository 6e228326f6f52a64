"""Loans: lent memory is nobody else's, and what ends with the last one is done once."""

from __future__ import annotations

import gc

from ringflow.device.cuda.arena import UNIT_BYTES, CudaArena
from ringflow.device.cuda.loans import Loans


def _free(loans: Loans, arena: CudaArena, address: int) -> None:
    with loans.freeing(address) as is_lent:
        arena.free(address, holds=int(is_lent))


def test_lent_memory_comes_back_after_its_last_loan() -> None:
    """Freed or not, and however often it was lent."""
    arena = CudaArena("cuda:0", 1 << 32, 2 * UNIT_BYTES)
    loans = Loans(arena.settle)
    piece, other = (arena.take(1, label=label) for label in "ab")
    first, second = loans.lend(piece.address), loans.lend(piece.address)
    _free(loans, arena, piece.address)
    _free(loans, arena, other.address)
    assert arena.free_bytes == UNIT_BYTES
    del first
    gc.collect()
    loans.collect()
    assert arena.free_bytes == UNIT_BYTES
    del second
    gc.collect()
    assert arena.free_bytes == UNIT_BYTES  # nothing is done where a loan happens to end
    loans.collect()
    assert arena.free_bytes == 2 * UNIT_BYTES
    again = arena.take(1, label="c")
    loan = loans.lend(again.address)
    del loan
    _free(loans, arena, again.address)
    assert arena.free_bytes == 2 * UNIT_BYTES


def test_the_last_work_is_done_once_all_is_back() -> None:
    done: list[str] = []
    loans = Loans(lambda address: None)
    loans.after_all(lambda: done.append("nothing was lent"))
    kept = [loans.lend(64), loans.lend(64), loans.lend(128)]
    loans.after_all(lambda: done.append("all is back"))
    while kept:
        assert done == ["nothing was lent"]
        kept.pop()
        gc.collect()
    assert done == ["nothing was lent", "all is back"]
