"""The ledger: what it lets in fits, and what it refuses says why."""

from __future__ import annotations

import pytest

from ringflow.device.cuda.ledger import COPY_QUEUES, Ledger
from ringflow.errors import DeviceError


def ledger(sm_count: int = 4, *, queue_count: int = 32) -> Ledger:
    return Ledger("cuda:0", sm_count=sm_count, queue_count=queue_count)


def test_a_grid_that_fills_the_gpu_leaves_no_room() -> None:
    """Hazard 10: a second grid would wait for ever, so it is refused before the driver has it."""
    of = ledger()
    full = of.take("first", 8, 2)
    assert of.fitting(16) == 0
    with pytest.raises(DeviceError, match="1 other grids hold the rest") as raised:
        of.take("second", 1, 16)
    assert (raised.value.call, raised.value.code) == ("launch", "does not fit")
    of.give(full)
    of.take("second", 1, 16)


def test_a_grid_larger_than_the_gpu_is_told_so() -> None:
    """A grid barrier needs all blocks resident (hazard 6)."""
    with pytest.raises(DeviceError, match="can never be resident together"):
        ledger().take("large", 9, 2)
    with pytest.raises(DeviceError, match="not one block"):
        ledger().take("fat", 1, 0)


def test_shares_of_different_kernels_add_up_by_sm() -> None:
    """Half of each SM is not half of the SMs: nothing that needs a whole one fits."""
    of = ledger()
    of.take("halves", 4, 2)
    assert of.fitting(2) == 4
    assert of.fitting(1) == 0
    with pytest.raises(DeviceError):
        of.take("whole", 1, 1)


def test_blocks_go_to_the_emptiest_sms() -> None:
    """What is left is what a hardware that spreads them leaves."""
    of = ledger()
    of.take("two", 2, 1)
    of.take("more", 4, 4)
    assert of.fitting(4) == 4


def test_thirds_leave_no_crumbs() -> None:
    """Shares are exact: after a thousand grids came and went, the GPU is empty."""
    of = ledger(2)
    for _ in range(1000):
        places = [of.take("third", 2, 3), of.take("seventh", 2, 7)]
        for place in places:
            of.give(place)
    assert of.fitting(21) == 42
    of.take("all", 6, 3)


def test_queues_are_bounded() -> None:
    """Hazard 10: streams that share a hardware queue wait for each other."""
    of = ledger(queue_count=COPY_QUEUES + 2)
    places = [of.take("a", 1, 16), of.take("b", 1, 16)]
    with pytest.raises(DeviceError, match="CUDA_DEVICE_MAX_CONNECTIONS") as raised:
        of.take("c", 1, 16)
    assert raised.value.code == "queues"
    of.give(places[0])
    of.take("c", 1, 16)


def test_one_grid_at_a_time_is_cooperative() -> None:
    """A second cooperative grid waits for the first; a single block needs none."""
    of = ledger()
    single = of.take("single", 1, 16)
    first, second = of.take("first", 2, 16), of.take("second", 2, 16)
    assert [place.cooperative for place in (single, first, second)] == [False, True, False]
    of.give(first)
    assert of.take("third", 2, 16).cooperative
