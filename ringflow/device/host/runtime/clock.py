"""Native helpers that translated code calls: clocks."""

from __future__ import annotations

import ctypes
import functools

from ringflow.device.host.jit import NativeCode, compile_ir

_IR = """
@clock = global ptr null
define i64 @ringflow_globaltimer() nounwind {
  %time = alloca [2 x i64], align 16
  %function = load ptr, ptr @clock
  %code = call i32 %function(i32 0, ptr %time)
  %seconds = load i64, ptr %time
  %place = getelementptr i64, ptr %time, i64 1
  %nanoseconds = load i64, ptr %place
  %scaled = mul i64 %seconds, 1000000000
  %total = add i64 %scaled, %nanoseconds
  ret i64 %total
}
"""
"""clock_gettime with clock 0 is the real time on every POSIX system."""


@functools.cache
def _code() -> NativeCode:
    code = NativeCode(compile_ir(_IR))
    clock = ctypes.cast(ctypes.CDLL(None).clock_gettime, ctypes.c_void_p).value
    assert clock
    code.bind({"clock": clock})
    return code


def clock_address(name: str) -> int:
    """Return a helper's address, 0 if there is none of this name."""
    return _code().function(name) if name == "ringflow_globaltimer" else 0
