"""ringflow's native functions: translated from shipped PTX on first use, once a process.

- The functions run on the caller's thread. Those that may wait let go of Python's lock; those
  that take well under a microsecond keep it, which is faster.
- ``Native.room`` is where all of the process's workers and pumps sleep. Event loops sleep at
  listeners, whose event descriptors stay open: a worker may write to one just after its release.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from ringflow.device.native.layouts import LISTENER, ROOM
from ringflow.errors import DeviceError, LimitExceededError

if TYPE_CHECKING:
    from ringflow.device.host.memory import HostAllocation
    from ringflow.device.host.translate import Program

FUTEX_CALLS: Final[Mapping[str, int]] = {"x86_64": 202, "aarch64": 98}
WRITE_CALLS: Final[Mapping[str, int]] = {"x86_64": 1, "aarch64": 64}
LISTENERS_MAX: Final = 64

_quick = ctypes.PYFUNCTYPE
_waiting = ctypes.CFUNCTYPE
_u32, _u64, _at = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p


def system_functions() -> dict[str, int]:
    """Return addresses of the C library's functions that native code calls."""
    library = ctypes.CDLL(None)
    return {
        name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
        for name in ("syscall", "sched_yield", "clock_gettime")
    }


def load_native(path: Path) -> Program:
    """Translate shipped PTX to native code."""
    from ringflow.device.host.translate import default_cache, translate

    text = path.read_text(encoding="utf-8")
    return translate(text, cache=default_cache(), externs=system_functions(), preempt=False)


@attrs.frozen
class Listener:
    """Where one event loop sleeps: its words' address, and the event descriptor to watch."""

    address: int
    event: int


class Native:
    """The pump's functions; arguments are addresses and sizes as in ``pump.cu``."""

    def __init__(self) -> None:
        from ringflow.device.host.memory import HostAllocation

        if sys.platform != "linux" or platform.machine() not in FUTEX_CALLS:
            raise DeviceError(
                f"no futex is known for {sys.platform} on {platform.machine()}; use Linux on "
                f"{' or '.join(FUTEX_CALLS)}",
                call="native",
                code="platform",
            )
        self._program = load_native(Path(__file__).parent / "pump.ptx")
        self._room: HostAllocation = self.make_room()
        self._listeners = HostAllocation(LISTENERS_MAX * LISTENER.size_bytes, label="listeners")
        self._free_listeners: list[Listener] = []
        self._lock = threading.Lock()
        self._put_room("Q", "listeners", self._listeners.address)
        bind = self._bind
        self.load: Callable[[int], int] = bind("ringflow_load", _quick, _u64, _at)
        self.load_u32: Callable[[int], int] = bind("ringflow_load_u32", _quick, _u32, _at)
        self.store_u32: Callable[[int, int], None] = bind(
            "ringflow_store_u32", _quick, None, _at, _u32
        )
        self.ring_workers: Callable[[int], None] = bind("ringflow_ring_workers", _quick, None, _at)
        self.ring_host: Callable[[int], None] = bind("ringflow_ring_host", _quick, None, _at)
        self.room_for: Callable[[int], int] = bind("ringflow_room", _quick, _u32, _at)
        self.post: Callable[[int, int, int], int] = bind(
            "ringflow_post", _quick, _u32, _at, _at, _u32
        )
        self.rouse: Callable[[int, int], None] = bind("ringflow_rouse", _waiting, None, _at, _u64)
        self.command: Callable[[int, int], int] = bind("ringflow_command", _quick, _u32, _at, _u32)
        self.ping: Callable[[int, int], None] = bind("ringflow_ping", _quick, None, _at, _u64)
        self.collect: Callable[[int, int, int], int] = bind(
            "ringflow_collect", _quick, _u64, _at, _at, _u64
        )
        self.release: Callable[[int], None] = bind("ringflow_release", _quick, None, _at)
        self.register: Callable[[int, int], int] = bind(
            "ringflow_register", _waiting, _u32, _at, _at
        )
        self.unregister: Callable[[int, int], int] = bind(
            "ringflow_unregister", _waiting, _u32, _at, _at
        )
        self.wait: Callable[[int, int, int, int], int] = bind(
            "ringflow_wait", _waiting, _u64, _at, _at, _u64, _u64
        )
        self.look: Callable[[int, int, int], int] = bind(
            "ringflow_look", _quick, _u64, _at, _at, _u64
        )
        self.arm: Callable[[int], None] = bind("ringflow_arm", _quick, None, _at)
        self.wake: Callable[[int], None] = bind("ringflow_wake", _quick, None, _at)
        self.await_generation: Callable[[int, int, int], int] = bind(
            "ringflow_await", _waiting, _u32, _at, _u32, _u64
        )
        self.await_swap: Callable[[int, int, int], int] = bind(
            "ringflow_await_swap", _waiting, _u32, _at, _u32, _u64
        )
        self.await_status: Callable[[int, int, int], int] = bind(
            "ringflow_await_status", _waiting, _u32, _at, _at, _u64
        )

    @property
    def room(self) -> int:
        """The address of the waiting room."""
        return self._room.address

    @staticmethod
    def make_room() -> HostAllocation:
        """Return a waiting room without listeners."""
        from ringflow.device.host.memory import HostAllocation

        room = HostAllocation(ROOM.size_bytes, label="waiting room")
        struct.pack_into("=I", room.view, ROOM["futex_call"], FUTEX_CALLS[platform.machine()])
        struct.pack_into("=I", room.view, ROOM["write_call"], WRITE_CALLS[platform.machine()])
        return room

    def take_listener(self) -> Listener:
        """Return a listener for one event loop, unarmed; raises ``LimitExceededError``."""
        with self._lock:
            if self._free_listeners:
                return self._free_listeners.pop()
            (count,) = struct.unpack_from("=I", self._room.view, ROOM["listener_count"])
            if count == LISTENERS_MAX:
                raise LimitExceededError(
                    "the number of engines open in this process",
                    count + 1,
                    LISTENERS_MAX,
                    "close one first",
                )
            offset = count * LISTENER.size_bytes
            event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            struct.pack_into("=I", self._listeners.view, offset + LISTENER["event"], event)
            self._put_room("I", "listener_count", count + 1)
            return Listener(self._listeners.address + offset, event)

    def give_back_listener(self, listener: Listener) -> None:
        with self._lock:
            self.store_u32(listener.address + LISTENER["armed"], 0)
            self._free_listeners.append(listener)

    def _put_room(self, code: str, word: str, value: int) -> None:
        struct.pack_into("=" + code, self._room.view, ROOM[word], value)

    def _bind(self, name: str, kind: Any, *types: Any) -> Callable[..., Any]:
        function: Callable[..., Any] = kind(*types)(self._program.function(name))
        return function


@functools.cache
def native() -> Native:
    """Return the process's native functions; the first call translates them."""
    return Native()


def timeout_ns(timeout_s: float) -> int:
    """Return a time for native functions, which count whole nanoseconds; never below 0."""
    return max(0, min(int(timeout_s * 1e9), 1 << 62))
