"""Drives one kernel through given messages, without an engine; blocks, for a worker thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ringflow.device.abi import Command
from ringflow.device.api import LaunchStatus
from ringflow.device.posting import Posting
from ringflow.device.pump import Pump
from ringflow.device.resident import ResidentKernel
from ringflow.engine.instances import Instance
from ringflow.errors import KernelStalledError, KernelTrappedError

_EPOCH = 1


class Run:
    """Where a rerun has come to, and what was put out on the way.

    Attributes:
        outputs: payload and array by (sequence, index).
    """

    def __init__(self, *, timeout_s: float) -> None:
        self.outputs: dict[tuple[int, int], tuple[bytes, memoryview]] = {}
        self._timeout_s = timeout_s
        self._pump = Pump()
        self._applied = 0
        self._output_index = 0
        self._status = LaunchStatus.RUNNING

    def begin(self, applied_sequence: int, *, output_index: int) -> None:
        """Start from a state that holds ``applied_sequence``."""
        self._applied, self._output_index = applied_sequence, output_index

    def through(self, instance: Instance, messages: Sequence[Posting], last: int) -> None:
        """Apply the messages after the last applied one, up to ``last``; the grid has ended then.

        Raises:
            KernelTrappedError: it trapped.
            KernelStalledError: it took longer than the deadline for one message, or to return.
        """
        waiting = [one for one in messages if self._applied < one.sequence <= last]
        if not waiting:
            self._applied = max(self._applied, last)  # what is between was skipped
            return
        goal = waiting[-1].sequence
        resident = instance.resident
        resident.relaunch(
            base_sequence=self._applied,
            epoch=_EPOCH,
            gate_open=True,
            timeout_s=self._timeout_s,
            output_index=self._output_index,
        )
        self._status = LaunchStatus.RUNNING
        key = self._pump.register(resident)
        try:
            self._until(resident, lambda: self._post(resident, waiting) >= goal)
            resident.command(Command.RETURN)
            # Told by the pump: a parked grid, which goes on, looks as if it had ended.
            self._until(resident, lambda: self._status is LaunchStatus.COMPLETED)
        finally:
            self._pump.unregister(key)
        self._applied, self._output_index = last, 0

    def _post(self, resident: ResidentKernel, waiting: list[Posting]) -> int:
        """Post what there is room for; return the last message that is done."""
        room = resident.room()
        if room and waiting:
            del waiting[: resident.post(waiting[:room])]
        return self._applied

    def _until(self, resident: ResidentKernel, reached: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + self._timeout_s
        while not reached():
            for report in self._pump.wait(min(1.0, self._timeout_s)):
                self._status = report.status
                self.outputs.update(
                    ((one.sequence, one.index), (one.payload, one.data)) for one in report.outputs
                )
                if report.done_sequence > self._applied:
                    self._applied = report.done_sequence
                    deadline_s = time.monotonic() + self._timeout_s
            self._check(resident, deadline_s)

    def _check(self, resident: ResidentKernel, deadline_s: float) -> None:
        name, at = resident.spec.kernel_id, resident.taken_sequence
        if self._status in (LaunchStatus.TRAPPED, LaunchStatus.ABORTED):
            raise KernelTrappedError(
                f"kernel {name!r} trapped at message {at}: {resident.detail}; the journal's run "
                "did not",
                call="rerun",
            )
        if time.monotonic() > deadline_s:
            raise KernelStalledError(
                f"kernel {name!r} is not done with message {at} within {self._timeout_s} s; give "
                "it more time",
                call="rerun",
            )
