"""The GPUs that an engine opens by name are its own: however its opening ends, it closes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest

import ringflow
from ringflow.device.cuda import device as cuda
from ringflow.device.cuda.device import CudaDevice
from ringflow.engine import opening
from tests.cuda.engines import BOTH, small
from tests.cuda.standin import Standin

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("second", ["cuda:7", "cuda:0", "gpu:1"])
async def test_a_bad_name_leaves_no_gpu_open(folder: Path, gpus: Standin, second: str) -> None:
    """One that is there no more, one that is named twice, and one of no form."""
    with pytest.raises(ringflow.RingflowError, match=second):
        async with ringflow.open_engine(folder, devices=["cuda:0", second]):
            raise AssertionError("it opened")
    assert not cuda._open


async def test_a_cancelled_opening_leaves_no_gpu_open(
    folder: Path, gpus: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while the first one opens, which is not stopped; the second is not begun."""
    scope = anyio.CancelScope()

    def open_cancelled(name: str) -> Any:
        anyio.from_thread.run_sync(scope.cancel)
        return small(name)

    monkeypatch.setattr(opening, "open_device", open_cancelled)
    with scope:
        async with ringflow.open_engine(folder, devices=BOTH):
            raise AssertionError("it opened")
    assert scope.cancelled_caught
    assert not cuda._open


async def test_a_gpu_that_does_not_close_keeps_no_other_open(
    folder: Path, gpus: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first error is raised when all that can be closed is."""
    close = CudaDevice.close

    def close_all_but_tell(device: CudaDevice) -> None:
        close(device)
        raise ringflow.DeviceError(f"{device.name} did not close", call="close")

    monkeypatch.setattr(opening, "open_device", small)
    monkeypatch.setattr(CudaDevice, "close", close_all_but_tell)
    with pytest.raises(ringflow.DeviceError, match="cuda:0 did not close"):
        async with ringflow.open_engine(folder, devices=BOTH):
            pass
    assert not cuda._open
