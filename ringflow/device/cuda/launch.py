"""One grid on a GPU: its status, its end, and what it leaves behind.

- Its end is a word in mapped memory that its stream writes after it, so that native waits see it
  without a call of the driver; whoever watches the streams writes there too.
- Stopping a grid is a command in mapped memory that it has to obey: a GPU has no other way.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any, Final, final

from ringflow.device.abi import CONTROL, Command
from ringflow.device.api import LaunchStatus
from ringflow.device.cuda.arena import CudaAllocation
from ringflow.device.cuda.code import CudaCode
from ringflow.device.cuda.ledger import Place
from ringflow.device.native import native, timeout_ns
from ringflow.device.native.layouts import ENTRY
from ringflow.errors import KernelStalledError

ABORT_DEADLINE_S: Final = 2.0
_LOOK_S: Final = (100e-6, 1e-3)
_CLOSELY_S: Final = 0.02


@final
class CudaLaunch:
    """A grid that was launched on a GPU.

    Attributes:
        stream: it has this stream to itself while it runs.
        place: its room in the ledger.
        claims: addresses of the memory that it may use; None for all of the device's.
        control: host address of its control block, 0 if it has none.
        owner: who launched it.
        when_ended: what is done once it has.
    """

    def __init__(
        self,
        entry_point: str,
        status: CudaAllocation,
        *,
        owner: object,
        code: CudaCode,
        stream: Any,
        place: Place,
        claims: frozenset[int] | None,
        control: int,
    ) -> None:
        self.entry_point, self.owner = entry_point, owner
        self._word = status
        self.code, self.stream, self.place = code, stream, place
        self.claims, self.control = claims, control
        self.when_ended: list[Callable[[], None]] = []
        self._final: LaunchStatus | None = None
        self._detail = ""

    @property
    def status(self) -> LaunchStatus:
        if self._final is not None:
            return self._final
        return LaunchStatus(native().load_u32(self._word.host_address))

    @property
    def status_address(self) -> int:
        return self._word.host_address

    @property
    def status_word(self) -> CudaAllocation:
        return self._word

    @property
    def detail(self) -> str:
        return self._detail

    @property
    def log(self) -> str:
        """Empty: the driver writes what kernels print to the process's standard output."""
        return ""

    def wait(self, timeout_s: float) -> LaunchStatus:
        """Block until the grid has ended or the time is up; return the status."""
        functions = native()
        start_s = time.monotonic()
        while (status := self.status) is LaunchStatus.RUNNING:
            passed_s = time.monotonic() - start_s
            if passed_s >= timeout_s:
                break
            look_s = _LOOK_S[0] if passed_s < _CLOSELY_S else _LOOK_S[1]
            longest_ns = timeout_ns(min(look_s, timeout_s - passed_s))
            functions.await_status(functions.room, self._word.host_address, longest_ns)
        return status

    def ask_to_return(self) -> None:
        """Give the grid the command to return, if it has a control block to look at.

        One that is not there as a whole yet returns as far as it is, and what comes later at once.
        """
        if self.control and self.status is LaunchStatus.RUNNING:
            _command(self.control, Command.RETURN)
            native().store_u32(self.control + CONTROL["withdrawn"], 1)

    def abort(self) -> None:
        """Tell the grid to return, and wait until it has.

        Raises:
            KernelStalledError: it did not obey; it goes on, and keeps its memory and its room.
        """
        if self.status is not LaunchStatus.RUNNING:
            return
        self.ask_to_return()
        if self.wait(ABORT_DEADLINE_S) is LaunchStatus.RUNNING:
            raise KernelStalledError(
                f"the grid of {self.entry_point!r} did not return within {ABORT_DEADLINE_S:g} s, "
                "and a GPU stops no grid from outside; its memory stays taken until it ends: "
                f"{self._advice()}",
                call="abort",
                code="timeout",
            )

    def _advice(self) -> str:
        if self.control and not native().load(self.control + CONTROL["started"]):
            return (
                "not all of its blocks have started; end what else holds the multiprocessors, "
                "another process or another library's kernels, or look for a loop before its first "
                "message boundary"
            )
        return (
            "move the other kernels to another device and end the process, then look for a loop of "
            "it that does not end"
        )

    def end(self, status: LaunchStatus, detail: str = "") -> None:
        """Note how it has ended, where no stream can say so, and tell those who wait."""
        self._detail = detail
        functions = native()
        functions.store_u32(self._word.host_address, status)
        functions.ring_host(functions.room)

    def finish(self) -> None:
        """Keep the status beyond the word, which goes with the device."""
        self._final = self.status

    @property
    def suspicion(self) -> int:
        """How likely it killed the context: 2 it says so itself, 1 it was at work, 0 it waited."""
        if not self.control:
            return 1
        functions = native()
        if functions.load_u32(self.control + CONTROL["fault"]):
            return 2
        taken, done = (
            functions.load(self.control + CONTROL[word])
            for word in ("taken_sequence", "done_sequence")
        )
        started = functions.load(self.control + CONTROL["started"])
        return int(taken != done or not started)


def _command(control: int, command: Command) -> None:
    """Give a command through a control block whose kernel's own entry is not at hand."""
    entry = ctypes.create_string_buffer(ENTRY.size_bytes + 64)
    address = -(-ctypes.addressof(entry) // 64) * 64
    functions = native()
    for word, value in (("control", control), ("room", functions.room)):
        ctypes.c_uint64.from_address(address + ENTRY[word]).value = value
    functions.command(address, command)
