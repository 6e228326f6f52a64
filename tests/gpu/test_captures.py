"""Captures of graphs by another library, beside kernels on a real GPU."""

from __future__ import annotations

import pytest

from ringflow.device.abi import Command
from ringflow.device.api import Device, LaunchStatus
from tests.cuda.kernels import DEADLINE_S, answer
from tests.cuda.library import Library
from tests.device.kernels import resident

pytestmark = pytest.mark.gpu
ROUNDS = 200  # the streams are looked at meanwhile


def test_a_capture_goes_on_beside_a_kernel(device: Device) -> None:
    """What it is made of is not spoiled, and nothing of ringflow's is refused."""
    library = Library(0)
    kernel = resident(device, "echo")
    allocation = device.allocate(1 << 20, label="data")
    with library.capturing():
        kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
        for round in range(ROUNDS):
            device.copy_in(allocation, bytes([round]) * (1 << 20))
            assert bytes(device.copy_out(allocation, size_bytes=1)) == bytes([round])
        assert answer(kernel) == b"abcd"
        kernel.command(Command.RETURN)
        assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
    kernel.close()
    device.free(allocation)
    device.unload(kernel.code)
    library.close()
