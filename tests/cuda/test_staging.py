"""Copies through pinned staging: double buffered, and no buffer is used again before its copy."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ringflow.device.cuda import staging
from ringflow.errors import DeviceError
from tests.cuda.kernels import DEADLINE_S, opened, until
from tests.cuda.standin import Fault, FaultKind, Standin, plug

PIECE_BYTES = 64 << 10


@pytest.mark.parametrize("pieces", [1, 1.5, 2, 2.5, 4.25])
def test_slow_copies_of_several_pieces_arrive_whole(
    monkeypatch: pytest.MonkeyPatch, pieces: float
) -> None:
    """Each copy is made well after it was asked for, from what is in the buffer then."""
    monkeypatch.setattr(staging, "PIECE_BYTES", PIECE_BYTES)
    data = np.random.default_rng(5).integers(0, 256, int(pieces * PIECE_BYTES), np.uint8)
    with plug(1, delay_s=0.005):
        device = opened()
        allocation = device.allocate(len(data) + 64, label="state")
        device.copy_in(allocation, data.tobytes(), offset_bytes=64)
        assert not any(device.copy_out(allocation, size_bytes=64))
        assert bytes(device.copy_out(allocation, offset_bytes=64)) == data.tobytes()
        device.free(allocation)
        device.close()


@pytest.mark.parametrize("call", ["cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_copy_returns_when_its_last_piece_has_arrived(
    gpus: Standin, monkeypatch: pytest.MonkeyPatch, call: str, nth: int
) -> None:
    """Whichever piece is late; who looks at the memory afterwards sees all of it."""
    monkeypatch.setattr(staging, "PIECE_BYTES", PIECE_BYTES)
    data = bytes(range(256)) * (3 * PIECE_BYTES // 256)
    device = opened()
    allocation = device.allocate(len(data), label="state")
    if call == "cuMemcpyDtoHAsync":
        device.copy_in(allocation, data)
    gpus.arm(Fault(call, nth=nth, kind=FaultKind.STALL_WORK))
    found: list[bytes] = []

    def copy() -> None:
        if call == "cuMemcpyHtoDAsync":
            device.copy_in(allocation, data)
        else:
            found.append(bytes(device.copy_out(allocation)))

    thread = threading.Thread(target=copy)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    gpus.release()
    thread.join()
    assert (found or [bytes(device.copy_out(allocation))]) == [data]
    device.free(allocation)
    device.close()


@pytest.mark.parametrize("failures", [1, 2])
def test_a_buffer_whose_copy_has_no_event_is_not_filled_before_it(
    gpus: Standin, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """The driver refused to record one: the next copy through the buffer waits for the late one."""
    monkeypatch.setattr(staging, "PIECE_BYTES", PIECE_BYTES)
    datas = [bytes([value]) * PIECE_BYTES for value in (1, 2)]
    device = opened()
    allocations = [device.allocate(PIECE_BYTES, label=name) for name in ("one", "other")]
    gpus.arm(Fault("cuMemcpyHtoDAsync", kind=FaultKind.STALL_WORK))
    gpus.arm(*[Fault("cuEventRecord", code=999)] * failures)
    with pytest.raises(DeviceError, match="cuEventRecord"):
        device.copy_in(allocations[0], datas[0])
    seen = len(gpus.trace)
    with ThreadPoolExecutor(1) as threads:
        following = threads.submit(device.copy_in, allocations[1], datas[1])
        until(lambda: len(gpus.trace) > seen + 9)  # it asks and asks whether it may
        gpus.release()
        following.result(DEADLINE_S)
    assert [bytes(device.copy_out(one)) for one in allocations] == datas
    for one in allocations:
        device.free(one)
    device.close()
