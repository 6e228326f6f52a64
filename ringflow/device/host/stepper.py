"""The stepper of a pool without workers: rounds in the caller's thread, the same in every process.

- A round steps each CTA once, in an order drawn from the seed; the host acts between rounds only.
- Virtual time goes on by ``ROUND_NS`` a round, by one nanosecond each time that a kernel reads a
  clock, and by the fuel that loops without polls used up; a wait's deadline counts it too.
- The trace is which CTA ran, in what order, and what its step returned; ``take`` adds bytes to it.
"""

from __future__ import annotations

import ctypes
import re
import struct
import threading
from collections.abc import Callable
from typing import Any, Final, final

import xxhash

from ringflow.device.host.jit import NativeCode, compile_ir
from ringflow.device.host.memory import HostAllocation
from ringflow.device.host.program import Program
from ringflow.device.host.scheduler_layout import STEPPER
from ringflow.device.native import timeout_ns
from ringflow.files import Buffer

ROUNDS_MAX: Final = 1 << 16  # of one native call, after which Python may see an interrupt
_ENDLESS_NS: Final = (1 << 64) - 1

CLOCK: Final = "ringflow_globaltimer"
_CLOCKS: Final = re.compile(r"%clock(64|_hi|)(?![\w$])")
_TIMERS: Final = {"64": "%globaltimer", "_hi": "%globaltimer_hi", "": "%globaltimer_lo"}
_CLOCK_IR: Final = """
@time = global ptr null
define i64 @virtual_time() nounwind {
  %place = load ptr, ptr @time
  %now = load i64, ptr %place
  %next = add i64 %now, 1
  store i64 %next, ptr %place
  ret i64 %next
}
"""


def clocks_as_timers(ptx: str) -> str:
    """Return PTX whose cycle counters are timers: they tick once a nanosecond."""
    return _CLOCKS.sub(lambda found: _TIMERS[found[1]], ptx)


@final
class Stepper:
    """Makes rounds over one table of CTAs."""

    def __init__(self, program: Program, *, worker: int, slots_max: int, seed: int) -> None:
        """Make a stepper.

        Args:
            program: the scheduler's native code.
            worker: address of the worker whose table is stepped.
            slots_max: length of that table.
            seed: of the order of rounds; its low 64 bits count.
        """
        self._program = program
        self._memory = HostAllocation(STEPPER.size_bytes, label="stepper")
        self._order = HostAllocation(4 * slots_max, label="stepper's order")
        view = self._memory.view
        struct.pack_into("=Q", view, STEPPER["worker"], worker)
        struct.pack_into("=Q", view, STEPPER["order"], self._order.address)
        struct.pack_into("=Q", view, STEPPER["random"], seed & _ENDLESS_NS)
        self._address = self._memory.address
        self._idle = ctypes.c_uint32.from_address(self._address + STEPPER["idle"])
        self._words = {
            word.name: ctypes.c_uint64.from_address(self._address + word.offset_bytes)
            for word in STEPPER.words
            if word.size_bytes == 8
        }
        at, count, long = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
        self._run: Any = ctypes.CFUNCTYPE(count, at, count, count, long)(
            program.function("ringflow_stepper_run")
        )
        self._digest: Any = ctypes.CFUNCTYPE(None, at, at, long)(
            program.function("ringflow_stepper_digest")
        )
        self._lock = threading.Lock()
        self._clock: NativeCode | None = None

    @property
    def rounds(self) -> int:
        """Rounds made since the start."""
        return self._word("rounds")

    @property
    def time_ns(self) -> int:
        """Virtual time since the start."""
        return self._word("time_ns")

    @property
    def idle(self) -> bool:
        """Whether no CTA went on in the last round: only the host can change that."""
        return bool(self._idle.value)

    @property
    def digest(self) -> str:
        """The digest of the trace: 32 hexadecimal digits."""
        return f"{self._word('digest_high'):016x}{self._word('digest_low'):016x}"

    @property
    def clock_address(self) -> int:
        """The address of ``uint64 clock()``, which reads the virtual time."""
        if self._clock is None:
            self._clock = NativeCode(compile_ir(_CLOCK_IR))
            self._clock.bind({"time": self._memory.address + STEPPER["time_ns"]})
        return self._clock.function("virtual_time")

    def run_rounds(self, count: int) -> bool:
        """Make rounds; return whether a CTA went on in the last one."""
        with self._lock:
            while count > 0:
                count -= self._run(self._address, min(count, ROUNDS_MAX), 0, _ENDLESS_NS)
        return not self.idle

    def run_until_idle(self, timeout_s: float) -> bool:
        """Make rounds until one is idle or the virtual time is up; return whether one was."""
        end_ns = self._end_ns(timeout_s)
        with self._lock:
            while self._run(self._address, ROUNDS_MAX, 1, end_ns) == ROUNDS_MAX:
                if self.idle:
                    break
        return self.idle

    def run_until(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        """Make rounds until something is so, one is idle, or the virtual time is up.

        Returns:
            Whether it is so.
        """
        end_ns = self._end_ns(timeout_s)
        while not reached():
            if self.time_ns >= end_ns or not self.run_rounds(1):
                return reached()
        return True

    def take(self, data: Buffer) -> None:
        """Take bytes into the digest of the trace."""
        words = xxhash.xxh3_128_digest(data)
        buffer = ctypes.create_string_buffer(words, len(words))
        with self._lock:
            self._digest(self._address, ctypes.addressof(buffer), len(words) // 8)

    def _end_ns(self, timeout_s: float) -> int:
        return min(self.time_ns + timeout_ns(timeout_s), _ENDLESS_NS)

    def _word(self, name: str) -> int:
        return self._words[name].value
