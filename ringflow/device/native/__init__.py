"""ringflow's native functions: translated from shipped PTX on first use, once a process.

- The functions run on the caller's thread. Those that may wait let go of Python's lock; those
  that take well under a microsecond keep it, which is faster.
- ``Native.room`` is where all of the process's workers and pumps sleep.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ringflow.device.native.layouts import ROOM
from ringflow.errors import DeviceError

if TYPE_CHECKING:
    from ringflow.device.host.memory import HostAllocation
    from ringflow.device.host.translate import Program

FUTEX_CALLS: Final[Mapping[str, int]] = {"x86_64": 202, "aarch64": 98}

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
        self._room: HostAllocation = HostAllocation(ROOM.size_bytes, label="waiting room")
        struct.pack_into("=I", self._room.view, ROOM["futex_call"], FUTEX_CALLS[platform.machine()])
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
        self.wake: Callable[[int], None] = bind("ringflow_wake", _quick, None, _at)
        self.await_generation: Callable[[int, int, int], int] = bind(
            "ringflow_await", _waiting, _u32, _at, _u32, _u64
        )
        self.await_status: Callable[[int, int, int], int] = bind(
            "ringflow_await_status", _waiting, _u32, _at, _at, _u64
        )

    @property
    def room(self) -> int:
        """The address of the waiting room."""
        return self._room.address

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
