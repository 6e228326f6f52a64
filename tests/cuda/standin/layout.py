"""The C structures that Python and the stand-in hand to each other; see ``native/standin.h``."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char, c_char_p, c_int32, c_uint32, c_uint64, c_void_p
from typing import Any

DEVICES_MAX = 8
ATTRIBUTES_MAX = 160
PARAMETERS_MAX = 64
NAME_BYTES = 192
TEXT_BYTES = 512


class Settings(ctypes.Structure):
    _fields_ = (
        ("device_count", c_int32),
        ("driver_version", c_int32),
        ("hazards", c_uint32),
        ("eager", c_uint32),
        ("connections", c_uint32),
        ("fill", c_uint32),
        ("deadline_ns", c_uint64),
        ("wait_deadline_ns", c_uint64),
        ("delay_ns", c_uint64),
    )


class DeviceSettings(ctypes.Structure):
    _fields_ = (
        ("name", c_char * 64),
        ("uuid", c_char * 16),
        ("memory_bytes", c_uint64),
        ("attributes", c_int32 * ATTRIBUTES_MAX),
        ("access", c_int32 * DEVICES_MAX),
        ("atomics", c_int32 * DEVICES_MAX),
        ("bus_id", c_char * 16),
    )


class FunctionFacts(ctypes.Structure):
    _fields_ = (
        ("parameter_count", c_int32),
        ("offsets", c_uint32 * PARAMETERS_MAX),
        ("sizes", c_uint32 * PARAMETERS_MAX),
        ("parameter_bytes", c_uint32),
        ("shared_bytes", c_uint32),
        ("local_bytes", c_uint32),
        ("prints", c_uint32),
    )


class LaunchRequest(ctypes.Structure):
    _fields_ = (
        ("code", c_uint64),
        ("name", c_char_p),
        ("grid", c_uint32 * 3),
        ("block", c_uint32 * 3),
        ("shared_bytes", c_uint32),
        ("first", c_uint32),
        ("count", c_uint32),
        ("ordinal", c_int32),
        ("parameters", c_void_p),
        ("parameter_bytes", c_uint32),
        ("launch", c_uint64),
        ("status_address", c_uint64),
    )


_function = ctypes.CFUNCTYPE
_name_out = c_void_p  # a buffer of NAME_BYTES or TEXT_BYTES


class Callbacks(ctypes.Structure):
    _fields_ = (
        ("load", _function(c_int32, c_void_p, c_uint64, c_int32, POINTER(c_uint64))),
        ("unload", _function(None, c_uint64)),
        ("describe", _function(c_int32, c_uint64, c_char_p, POINTER(FunctionFacts))),
        ("entry", _function(c_int32, c_uint64, c_uint32, _name_out)),
        (
            "variable",
            _function(c_int32, c_uint64, c_char_p, POINTER(c_uint64), POINTER(c_uint64)),
        ),
        ("launch", _function(c_int32, POINTER(LaunchRequest))),
        ("finish", _function(c_int32, c_uint64, _name_out)),
        ("abort", _function(None, c_uint64)),
        ("changed", _function(None, c_int32)),
        ("ring", c_void_p),
        ("room", c_void_p),
    )


class TraceEntry(ctypes.Structure):
    _fields_ = (
        ("at_ns", c_uint64),
        ("thread", c_uint64),
        ("ordinal", c_int32),
        ("result", c_int32),
        ("live", c_int32),
        ("reserved", c_int32),
        ("name", c_char * 48),
    )


def bind(library: ctypes.CDLL) -> Any:
    """Say what the library's own functions take; returns it."""
    library.standin_plug.argtypes = (
        POINTER(Settings),
        POINTER(DeviceSettings),
        POINTER(Callbacks),
    )
    library.standin_unplug.restype = None
    library.standin_fault.argtypes = (c_char_p, c_int32, c_int32, c_int32, c_int32)
    library.standin_trace.argtypes = (POINTER(c_uint64), POINTER(TraceEntry), c_uint64)
    library.standin_trace.restype = c_uint64
    library.standin_ranges.argtypes = (c_int32, c_void_p, c_uint64)
    library.standin_ranges.restype = c_uint64
    library.standin_allow.argtypes = (c_char_p,)
    return library
