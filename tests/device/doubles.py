"""A device whose kernels are played by the test: it writes the control block's words itself."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping
from typing import Any

from ringflow.code_source import KernelCodeSource
from ringflow.device import abi
from ringflow.device.abi import CONTROL, REPLY_SLOT, Command, KernelState
from ringflow.device.api import DeviceGlobal, LaunchStatus
from ringflow.device.host.device import HostDevice
from ringflow.device.host.memory import HostAllocation
from ringflow.device.native import native
from ringflow.device.parking import Lot, shared_lot
from ringflow.errors import DeviceError
from ringflow.spec import Dim3, KernelSpec


class PlayedCode:
    """Code with one kernel, of no parameters but the control block."""

    parameter_sizes: Mapping[str, tuple[int, ...]] = {"played": (8,)}
    globals: tuple[DeviceGlobal, ...] = ()
    unlisted = ""


class PlayedLaunch:
    """The kernel's side of the ABI, one step at a time."""

    def __init__(self, control: int, *, rings: bool = True) -> None:
        self.control = control
        self._rings = rings
        self.detail = "played trap"
        self.log = ""
        self.outputs = 0
        self._status = HostAllocation(4, label="status")
        generation = self.word("doorbell") >> 32 & abi.GENERATION_MASK
        held = self.word("doorbell") >> 56 == Command.HOLD
        self.put("started", self.word("epoch"))
        self.report(generation, KernelState.HELD if held else KernelState.RUNNING)

    def word(self, name: str) -> int:
        return native().load(self.control + CONTROL[name])

    def put(self, name: str, value: int) -> None:
        ctypes.c_uint64.from_address(self.control + CONTROL[name]).value = value

    def report(self, generation: int, state: KernelState) -> None:
        self.put("state", abi.state_word(generation, state))
        self.ring()

    def reply(self, sequence: int, payload: bytes, *, index: int = 0) -> None:
        """Write an output and its index."""
        slots = ctypes.c_uint32.from_address(self.control + CONTROL["reply_slots"]).value
        size = ctypes.c_uint32.from_address(self.control + CONTROL["slot_bytes"]).value
        slot = self.word("replies") + self.outputs % slots * size
        header = struct.pack("<QIIIIII", sequence, 1, len(payload), index, 0, 0, 0)
        assert len(header) == REPLY_SLOT.size_bytes
        ctypes.memmove(slot, header + payload, len(header) + len(payload))
        self.outputs += 1
        self.put("reply_head", self.outputs)

    def done(self, sequence: int, count: int) -> None:
        self.put("done_sequence", sequence)
        self.put("done_count", count)

    def ring(self) -> None:
        """What the host device's scheduler does after a kernel's news."""
        functions = native()
        if self._rings:
            functions.ring_host(functions.room)

    def end(self, status: LaunchStatus) -> None:
        native().store_u32(self.status_address, status)
        self.ring()

    @property
    def status_address(self) -> int:
        return self._status.address

    @property
    def status(self) -> LaunchStatus:
        return LaunchStatus(native().load_u32(self.status_address))

    def wait(self, timeout_s: float) -> LaunchStatus:
        return self.status

    def abort(self) -> None:
        if self.status is LaunchStatus.RUNNING:
            self.end(LaunchStatus.ABORTED)


class PlayedDevice(HostDevice):  # type: ignore[misc]  # final for users, not for this double
    """A host device that hands launches to the test.

    Attributes:
        rings_: whether its kernels' news wake who waits for them.
    """

    rings_ = True

    @property
    def rings(self) -> bool:
        return self.rings_

    def launch(  # type: ignore[override]
        self,
        code: object,
        entry_point: str,
        *,
        grid: Dim3,
        block: Dim3,
        parameters: tuple[bytes, ...],
        dynamic_shared_bytes: int = 0,
        memory: object = None,
    ) -> PlayedLaunch:
        (control,) = struct.unpack("<Q", parameters[0])
        self.played = PlayedLaunch(control, rings=self.rings_)
        return self.played


def played_spec(*, ring_slots: int = 8, reply_slots: int = 8, max_replies: int = 1) -> KernelSpec:
    """A spec for ``PlayedCode``."""
    return KernelSpec(
        kernel_id="played",
        kernel_type="played",
        code=KernelCodeSource.from_cuda("played", "played"),
        ring_slots=ring_slots,
        reply_slots=reply_slots,
        max_replies=max_replies,
    )


class ParkingDevice(HostDevice):  # type: ignore[misc]  # final for users, not for this double
    """A host device that can't load code while a grid runs, as some GPUs' drivers.

    Attributes:
        beside: how many grids ran at each load.
    """

    def __init__(self, name: str = "host:0", **options: Any) -> None:
        super().__init__(name, **options)
        self.beside: list[int] = []
        self.launches: list[Any] = []
        self.refuses = ""

    @property
    def loads_while_running(self) -> bool:
        return False

    @property
    def lot(self) -> Lot:
        return shared_lot(self.uuid)

    def load(self, code: Any) -> Any:
        with self.lot.quiet(self.name, "load"):
            states = [launch.status for launch in self.launches]
            self.beside.append(states.count(LaunchStatus.RUNNING))
            return super().load(code)

    def launch(self, *arguments: Any, **options: Any) -> Any:
        if self.refuses:
            raise DeviceError(self.refuses)
        launch = super().launch(*arguments, **options)
        self.launches.append(launch)
        return launch
