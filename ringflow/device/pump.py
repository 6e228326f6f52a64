"""The pump: waits for news of persistent kernels, natively, and brings it to Python in batches.

- ``wait`` blocks without Python's lock; call it in a worker thread, one at a time. An event loop
  waits for the event of ``listening`` instead, and uses ``look``.
- A report's ``done_sequence`` covers only messages whose outputs are in this or earlier reports;
  a state or status likewise: nothing comes after the report that says the grid has completed.
- The pump always drains: a kernel never waits for Python.
- Kernels on a deterministic device go on while ``wait`` looks for their news.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import attrs

from ringflow.device.abi import ROUTE_SHIFT, KernelFault, KernelState, OutputFlag
from ringflow.device.api import LaunchStatus, Stepping, outcome
from ringflow.device.native import Listener, native, timeout_ns
from ringflow.device.native.layouts import PUMP, REPORT
from ringflow.errors import DeviceError, LimitExceededError

if TYPE_CHECKING:
    from ringflow.device.grid import KernelGrid
    from ringflow.device.resident import ResidentKernel

KERNELS_MAX: Final = 4096
BUFFER_BYTES: Final = 1 << 20
LOOK_BYTES: Final = 1 << 17  # an event loop has other work
COPIED_BYTES: Final = 4 << 20  # about a millisecond
ROUNDS_A_LOOK: Final = 16
NO_DATA: Final = memoryview(b"")

_REPORT: Final = struct.Struct("<IIIIQQQQIIQ")
_SLOT: Final = struct.Struct("<QIIIIII")
assert _REPORT.size == REPORT.size_bytes


@attrs.frozen
class Output:
    """A reply; an unsolicited output, by ``OutputFlag.EMITTED``; or what another kernel is to get.

    Attributes:
        sequence: of the message that caused it.
        index: its number among that message's outputs, from 0.
        data: the array that came with it, empty for none: uint8[n], read-only.
    """

    sequence: int
    index: int
    type: int
    flags: int
    payload: bytes
    correlation: int = 0
    data: memoryview = NO_DATA

    @property
    def route(self) -> int | None:
        """The number of the route on which it was sent to a kernel, None for any other output."""
        return self.flags >> ROUTE_SHIFT if self.flags & OutputFlag.ROUTED else None


@attrs.frozen(kw_only=True)
class PumpReport:
    """News of one kernel.

    Attributes:
        key: what ``Pump.register`` returned.
        done_sequence: the last finished message; its outputs have been reported.
        taken_sequence: the message in progress, or the last one.
        generation: of the command that ``state`` answers.
        status: of the launch; ``TRAPPED`` also for a grid that left its loop without being told to:
            its regions may be half-changed just so.
        steps: boundaries passed by a free-running kernel since its launch.
        busy_ns: nanoseconds by the device's clock (``%globaltimer``) from the first message of
            each batch to its report as done, since the kernel's memory was made.
    """

    key: int
    outputs: tuple[Output, ...]
    done_sequence: int
    taken_sequence: int
    generation: int
    state: KernelState
    status: LaunchStatus
    steps: int
    busy_ns: int
    fault: KernelFault


_STATES: Final = {int(state): state for state in KernelState}
_STATUSES: Final = {int(status): status for status in LaunchStatus}
_FAULTS: Final = {int(fault): fault for fault in KernelFault}


def parse_reports(data: bytes, take_array: Callable[[int, int], memoryview]) -> list[PumpReport]:
    """Return the reports that the native pump wrote.

    Args:
        take_array: returns a copy of the array that a kernel's output has, from the kernel's key
            and the output's handle.
    """
    reports, offset = [], 0
    while offset < len(data):
        key, count, slot_bytes, status, done, taken, state, steps, fault, _, busy_ns = (
            _REPORT.unpack_from(data, offset)
        )
        offset += _REPORT.size
        outputs = []
        for _ in range(count):
            sequence, type, size, index, correlation, flags, handle = _SLOT.unpack_from(
                data, offset
            )
            start = offset + _SLOT.size
            payload = data[start : start + size]
            array = take_array(key, handle) if handle else NO_DATA
            outputs.append(Output(sequence, index, type, flags, payload, correlation, array))
            offset += slot_bytes
        reports.append(
            PumpReport(
                key=key,
                outputs=tuple(outputs),
                done_sequence=done,
                taken_sequence=taken,
                generation=state >> 8,
                state=_STATES[state & 0xFF],
                status=outcome(_STATUSES[status], _STATES[state & 0xFF]),
                steps=steps,
                busy_ns=busy_ns,
                fault=_FAULTS[fault],
            )
        )
    return reports


@attrs.frozen
class PumpStatistics:
    """Counts since the pump was made."""

    kernels: int
    scans: int
    sleeps: int


class Pump:
    """Waits for news of many kernels at once.

    Attributes:
        copies_much: a ``look`` may copy so large arrays that it belongs in a worker thread.
    """

    def __init__(self) -> None:
        from ringflow.device.host.memory import HostAllocation

        self._native = native()
        self._memory = HostAllocation(PUMP.size_bytes, label="pump")
        self._entries = HostAllocation(8 * KERNELS_MAX, label="pump's entries")
        self._buffer = ctypes.create_string_buffer(BUFFER_BYTES)
        self._buffer_address = ctypes.addressof(self._buffer)
        self._lock = threading.Lock()
        self._kernels: dict[int, ResidentKernel] = {}
        self._last_key = 0
        self._steppings: tuple[Stepping, ...] = ()
        self._woken = False
        self._listener: Listener | None = None
        self._rouse: Callable[[], None] | None = None
        self.copies_much = False
        view = self._memory.view
        struct.pack_into("=Q", view, PUMP["entries"], self._entries.address)
        struct.pack_into("=Q", view, PUMP["room"], self._native.room)
        struct.pack_into("=I", view, PUMP["capacity"], KERNELS_MAX)

    def register(self, resident: ResidentKernel) -> int:
        """Watch a kernel from now on; return the key that its reports carry.

        Raises:
            LimitExceededError: ``KERNELS_MAX`` kernels are watched already.
        """
        with self._lock:
            if len(self._kernels) == KERNELS_MAX:  # parked ones keep their places
                raise LimitExceededError(
                    "the number of kernels on one pump",
                    KERNELS_MAX + 1,
                    KERNELS_MAX,
                    "stop a kernel first or open another engine",
                )
            key = self._last_key + 1
            resident.attach(self, key)
            self._last_key = key
            self._kernels[key] = resident
            self._kernels_changed()
        if self._rouse is not None:
            self._rouse()
        return key

    def unregister(self, key: int) -> None:
        """Watch a kernel no longer; an unknown key is nothing to do."""
        with self._lock:
            resident = self._kernels.pop(key, None)
            if resident is not None:
                resident.detach()  # first: nothing else puts its entry back from then on
                self.suspend(resident)
                self._kernels_changed()

    def _kernels_changed(self) -> None:
        found = [kernel.stepping for kernel in self._kernels.values()]
        self._steppings = tuple(dict.fromkeys(one for one in found if one is not None))
        specs = [kernel.spec for kernel in self._kernels.values()]
        arrays_bytes = sum(spec.reply_shares * spec.reply_share_bytes for spec in specs)
        self.copies_much = arrays_bytes > COPIED_BYTES

    def suspend(self, resident: KernelGrid) -> None:
        """Leave a kernel's entry alone until ``resume``; while its grid is launched or parked."""
        self._native.unregister(self._memory.address, resident.entry_address)

    def resume(self, resident: KernelGrid) -> None:
        self._native.register(self._memory.address, resident.entry_address)

    def wait(self, timeout_s: float) -> list[PumpReport]:
        """Block until there is news, the time is up or ``wake`` was called; one report a kernel.

        On a deterministic device kernels go on here, until there is news or they are idle; the
        time is real.
        """
        end_s = time.monotonic() + timeout_s
        while steppings := self._steppings:
            moved = [stepping.run_rounds(ROUNDS_A_LOOK) for stepping in steppings]
            if reports := self._take(0.0):
                return reports
            if self._woken:
                self._woken = False
                return []
            timeout_s = end_s - time.monotonic()
            if not any(moved) or timeout_s <= 0:
                break
        return self._take(timeout_s)

    def _take(self, timeout_s: float) -> list[PumpReport]:
        size_bytes = self._native.wait(
            self._memory.address, self._buffer_address, BUFFER_BYTES, timeout_ns(timeout_s)
        )
        return self._parse(size_bytes)

    def _parse(self, size_bytes: int) -> list[PumpReport]:
        if not size_bytes:
            return []
        holding: set[ResidentKernel] = set()

        def take_array(key: int, handle: int) -> memoryview:
            kernel = self._kernels.get(key)
            if kernel is None:
                return NO_DATA
            holding.add(kernel)
            with contextlib.suppress(DeviceError):
                return kernel.take_array(handle)
            return NO_DATA  # unregistered or closed meanwhile: nobody looks at its report

        reports = parse_reports(ctypes.string_at(self._buffer_address, size_bytes), take_array)
        for kernel in holding:
            kernel.release_arrays()
        return reports

    @contextlib.contextmanager
    def listening(self) -> Iterator[Listener]:
        """Give the event that becomes readable at news after an empty ``look``.

        Raises:
            LimitExceededError: too many engines are open in this process.
        """
        self._listener = self._native.take_listener()
        try:
            yield self._listener
        finally:
            self._native.give_back_listener(self._listener)
            self._listener = None

    def look(self) -> list[PumpReport]:
        """Return what news there is, without waiting; if none, the listener hears of the next.

        Not beside ``wait`` or another ``look``.
        """
        assert self._listener is not None
        place = (self._memory.address, self._buffer_address, LOOK_BYTES)
        size_bytes = self._native.look(*place)
        if not size_bytes:
            self._native.arm(self._listener.address)
            size_bytes = self._native.look(*place)  # nobody rang for what came just before
        return self._parse(size_bytes)

    def move(self) -> tuple[list[PumpReport], bool]:
        """Move the kernels of deterministic devices on and take the news, without waiting.

        Returns:
            The reports, and whether a kernel went on in the last round.
        """
        moved = [stepping.run_rounds(ROUNDS_A_LOOK) for stepping in self._steppings]
        return self._take(0.0), any(moved)

    def call_on_wake(self, rouse: Callable[[], None]) -> None:
        """Have ``wake``, and a kernel's registration, call a function; for who uses ``move``."""
        self._rouse = rouse

    def wake(self) -> None:
        """Make a ``wait`` in progress, or else the next one, return."""
        if self._rouse is not None:
            self._rouse()
            return
        self._woken = True  # before the native word: whoever finds that one taken finds this
        self._native.wake(self._memory.address)

    @property
    def statistics(self) -> PumpStatistics:
        scans, sleeps = (
            struct.unpack_from("=I", self._memory.view, PUMP[name])[0]
            for name in ("scans", "sleeps")
        )
        return PumpStatistics(len(self._kernels), scans, sleeps)
