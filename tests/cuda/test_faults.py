"""Every call of the driver in a kernel's life fails once: told, nothing lost, others at work."""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import suppress

import pytest

from ringflow.device.abi import Command
from ringflow.device.api import LaunchStatus
from ringflow.device.cuda.device import CudaDevice
from ringflow.device.resident import ResidentKernel
from ringflow.errors import DeviceError
from tests.cuda.kernels import DEADLINE_S, answer, launched, opened
from tests.cuda.standin import Fault, Standin
from tests.device.kernels import compiled, spec

UNKNOWN = 999  # an error that kills nothing
ONCE = "cuStreamWriteValue32"  # after it has failed, the streams are watched in its place
CURRENT = ("cuCtxPushCurrent", "cuCtxPopCurrent", "cuThreadExchangeStreamCaptureMode")
BY_TIME = ("cuEventQuery", "cuStreamQuery", *CURRENT)  # the watching thread makes them too


def life(device: CudaDevice) -> None:
    """Load a kernel, fill and read its memory, let it answer, return, and give all back."""
    code = device.load(compiled("counter", device.target))
    kernel: ResidentKernel | None = None
    try:
        kernel = ResidentKernel(
            device, code, spec("counter"), grid=(2, 1, 1), base_sequence=0, epoch=1
        )
        kernel.write_region("total", bytes(16))
        kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
        answer(kernel, (5).to_bytes(8, "little"))
        kernel.read_region("total")
        kernel.digests()
        kernel.command(Command.RETURN)
        assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
    finally:
        if kernel is not None:
            kernel.close()
        device.unload(code)


def failure_of(device: CudaDevice, name: str) -> bool:
    """Return whether a life failed; it fails in no other way than the call did."""
    try:
        life(device)
    except DeviceError as error:
        text = str(error)
    else:
        return False
    assert "CUDA_ERROR_UNKNOWN" in text, name
    return True


@pytest.mark.parametrize("gpus", [{"loads_while_running": True}], indirect=True)
def test_each_call_of_a_kernels_life_can_fail(gpus: Standin) -> None:
    """The error names the call; memory, queues and room are back, and the next life is whole."""
    device = opened()
    other = launched(device, "echo")
    life(device)
    seen = len(gpus.trace)
    life(device)
    gc.collect()
    free = device.free_bytes, device.mapped_free_bytes
    counts = Counter(call.name for call in gpus.trace[seen:])
    told = 0
    for name, count in sorted(counts.items()):
        for nth in {1, 1 if name in (ONCE, *BY_TIME) else count}:
            gpus.arm(Fault(name, nth=nth, code=UNKNOWN))
            told += failure_of(device, name)
            assert gpus.unused_faults == 0 or name in BY_TIME, name
            gc.collect()  # errors hold what was on the stack
            assert (device.free_bytes, device.mapped_free_bytes) == free, name
            assert len(device.launches.live) == 1, name
    life(device)
    assert told > 15
    assert answer(other) == b"abcd"
    other.command(Command.RETURN)
    assert other.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
    other.close()
    with suppress(DeviceError):
        device.unload(other.code)
    device.close()
