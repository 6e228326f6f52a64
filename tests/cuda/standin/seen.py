"""The plugged devices as a test sees them: trace, faults, problems."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Any

import attrs

from tests.cuda.standin.layout import TEXT_BYTES, TraceEntry

if TYPE_CHECKING:
    from tests.cuda.standin.launching import Launcher


class Hazard(IntFlag):
    """What waits for the kernels of its context, as the driver's calls may; bits of standin.h."""

    FREE = 1
    UNLOAD = 2
    LOAD = 4
    LIMITS = 8
    PAGEABLE = 16
    SLOTS = 32
    QUEUES = 64
    ALLOCATE = 128


class FaultKind(IntEnum):
    """What a fault does.

    ``ERROR`` answers the call with a code (a sticky one kills the context); ``STALL`` holds the
    call, ``STALL_WORK`` what it enqueued, until ``Standin.release``; ``CORRUPT`` flips a bit of
    what it copies.
    """

    ERROR = 0
    STALL = 1
    STALL_WORK = 2
    CORRUPT = 3


@attrs.frozen
class Fault:
    """The n-th call of a name from when it is armed goes wrong.

    Attributes:
        call: base name, such as ``"cuMemAlloc"``.
        nth: 1 for the next one.
        ordinal: of the device whose context is current, -1 for any.
    """

    call: str
    nth: int = 1
    code: int = 0
    kind: FaultKind = FaultKind.ERROR
    ordinal: int = -1


@attrs.frozen
class Call:
    """One call of the driver.

    Attributes:
        ordinal: device of the thread's context, -1 without one.
        code: its result; -1 while it has not returned.
        live: kernels that ran in that context when it was made.
    """

    name: str
    ordinal: int
    code: int
    live: int
    thread: int
    at_ns: int


class Standin:
    """The plugged devices, seen from the test's side."""

    def __init__(self, library: Any, launcher: Launcher) -> None:
        self._library = library
        self._launcher = launcher
        self._faults = 0

    @property
    def trace(self) -> list[Call]:
        """The calls since the devices were plugged in (the newest 65536)."""
        calls: list[Call] = []
        buffer = (TraceEntry * 1024)()
        following = ctypes.c_uint64()
        while count := self._library.standin_trace(following, buffer, len(buffer)):
            calls += [
                Call(row.name.decode(), row.ordinal, row.result, row.live, row.thread, row.at_ns)
                for row in buffer[:count]
            ]
        return calls

    def calls(self, *names: str) -> list[Call]:
        """Return the calls of some names, in their order."""
        return [call for call in self.trace if call.name in names]

    def arm(self, *faults: Fault) -> None:
        """Let calls go wrong, counted from now on."""
        for fault in faults:
            self._library.standin_fault(
                fault.call.encode(), fault.nth, fault.code, fault.kind, fault.ordinal
            )
            self._faults += 1

    @property
    def unused_faults(self) -> int:
        """Armed faults that no call has met."""
        return sum(not self._library.standin_fault_used(i) for i in range(self._faults))

    def release(self) -> None:
        """Let what faults have stalled go on."""
        self._library.standin_release()

    def kill(self, ordinal: int, code: int = 719) -> None:
        """Lose a GPU: its context answers the code to every call, and its kernels end."""
        self._library.standin_kill(ordinal, code)

    def live(self, ordinal: int) -> int:
        """Return how many kernels run on a device."""
        count: int = self._library.standin_live(ordinal)
        return count

    def settle(self, ordinal: int = 0) -> None:
        """Return when all work of a device that could go on by now has."""
        self._library.standin_settle(ordinal)

    def allow(self, *names: str) -> None:
        """Let calls be made while a kernel lives that are not on the list for it."""
        for name in names:
            self._library.standin_allow(name.encode())

    def set_hazards(self, hazards: Hazard) -> None:
        """Change which hazards there are."""
        self._library.standin_set_hazards(int(hazards))

    @property
    def details(self) -> list[str]:
        """What the kernels that trapped did, in words."""
        return _texts(self._library.standin_detail)

    @property
    def printed(self) -> str:
        """What the kernels that have ended have printed."""
        return "".join(self._launcher.printed)

    @property
    def problems(self) -> list[str]:
        """What the library must not do, and leaks once the devices are unplugged."""
        found = _texts(self._library.standin_problem)
        launcher = self._launcher
        return [*found, *launcher.refused, *launcher.errors, *launcher.children]

    def forget_problems(self) -> list[str]:
        """Return the problems so far, which then fail nothing; for tests of the stand-in."""
        found = self.problems
        self._library.standin_forget_problems()
        self._launcher.refused.clear()
        return found


def _texts(read: Callable[[int, Any], int]) -> list[str]:
    buffer = ctypes.create_string_buffer(TEXT_BYTES)
    found: list[str] = []
    while read(len(found), buffer):
        found.append(buffer.value.decode(errors="replace"))
    return found
