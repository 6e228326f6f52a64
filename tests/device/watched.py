"""A running kernel with a pump that watches it, for tests of what comes in between."""

from __future__ import annotations

import time

from ringflow.device.abi import KernelState
from ringflow.device.api import Device, LaunchStatus
from ringflow.device.pump import Pump, PumpReport
from tests.device.kernels import resident

DEADLINE_S = 30.0
ADD = 1


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


class Watched:
    """A running kernel, and what a pump has told of it."""

    def __init__(
        self,
        device: Device,
        name: str,
        *,
        gate_open: bool = True,
        pump: Pump | None = None,
        max_replies: int = 1,
    ) -> None:
        self.kernel = resident(device, name, max_replies=max_replies)
        self.pump = pump or Pump()
        self.kernel.launch(gate_open=gate_open, timeout_s=DEADLINE_S)
        self.key = self.pump.register(self.kernel)
        self.reports: list[PumpReport] = []

    def until_done(self, sequence: int) -> None:
        while not self.reports or self.reports[-1].done_sequence < sequence:
            taken = self.pump.wait(DEADLINE_S)
            assert taken, f"message {sequence} is not done"
            self.reports += taken

    def until_state(self, state: KernelState) -> None:
        while not self.reports or self.reports[-1].state is not state:
            taken = self.pump.wait(DEADLINE_S)
            assert taken, f"the kernel is never {state.name}"
            self.reports += taken

    def until_taken(self, sequence: int) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while self.kernel.taken_sequence < sequence:
            assert time.monotonic() < end_s, f"message {sequence} is not taken"

    @property
    def statuses(self) -> set[LaunchStatus]:
        return {report.status for report in self.reports}

    @property
    def sums(self) -> list[int]:
        outputs = [output for report in self.reports for output in report.outputs]
        return [int.from_bytes(output.payload[:8], "little") for output in outputs]
