"""A GPU's grids that return for a load: what else comes to the GPU meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ringflow.device.cuda.device import CudaDevice
from ringflow.errors import DeviceError
from tests.cuda.kernels import (
    DEADLINE_S,
    answer,
    end,
    launched,
    opened,
    plain,
    plain_launch,
)
from tests.cuda.standin import Standin
from tests.device.kernels import resident

SHARED_BYTES = 200 << 10  # one block on each multiprocessor


@pytest.fixture
def device(gpus: Standin) -> Iterator[CudaDevice]:
    made = opened()
    yield made
    made.close()


def test_the_place_of_a_parked_grid_is_no_others(device: CudaDevice) -> None:
    """It could not go on; and a kernel that fills the GPU reckoned with room that is none."""
    code, block = device.load(plain()), (32, 1, 1)
    word, out = (device.allocate(4, label=name) for name in ("word", "out"))
    all_of_it = device.grid_that_fits(code, "wait_for", block, dynamic_shared_bytes=SHARED_BYTES)
    assert all_of_it > 1
    grid = (all_of_it, 1, 1)
    full = resident(device, "echo", grid=grid, block=block, dynamic_shared_bytes=SHARED_BYTES)
    full.launch(gate_open=True, timeout_s=DEADLINE_S)
    shared = {"dynamic_shared_bytes": SHARED_BYTES}
    with ThreadPoolExecutor(2) as threads:
        with device.lot.quiet(device.name, "load"):
            fits = threads.submit(device.grid_that_fits, code, "wait_for", block, **shared)
            late = threads.submit(plain_launch, device, code, word, out, **shared)
            for one in (fits, late):
                with pytest.raises(TimeoutError):
                    one.result(0.1)
        with pytest.raises(DeviceError, match="does not fit"):
            late.result(DEADLINE_S)
        assert fits.result(DEADLINE_S) == 1
    assert answer(full) == b"abcd"
    end(full)


def test_a_gpu_is_neither_opened_nor_closed_under_parked_grids(device: CudaDevice) -> None:
    """They run, as far as anybody else can tell: their memory is theirs."""
    kernel = launched(device, "echo")
    with ThreadPoolExecutor(2) as threads:
        with device.lot.quiet(device.name, "load"):
            late = [threads.submit(one) for one in (device.close, opened)]
            for one in late:
                with pytest.raises(TimeoutError):
                    one.result(0.1)
        for one, why in zip(late, ("stop their kernels", "can't open while"), strict=True):
            with pytest.raises(DeviceError, match=why):
                one.result(DEADLINE_S)
    assert answer(kernel) == b"abcd"
    end(kernel)
