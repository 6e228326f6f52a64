"""The C mathematics that kernels call by name: LLVM intrinsics, or libm's functions.

Every other undefined function is refused at load: bound to a function of the same name in this
process it would run with the wrong ABI.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from collections.abc import Mapping

from ringflow.device.host.emit.core import FLOAT_NAMES, Emitter
from ringflow.device.host.emit.rounding import extreme

_INTRINSICS: Mapping[str, tuple[str, int]] = {
    "sqrt": ("sqrt", 1),
    "fabs": ("fabs", 1),
    "floor": ("floor", 1),
    "ceil": ("ceil", 1),
    "trunc": ("trunc", 1),
    "rint": ("roundeven", 1),
    "nearbyint": ("roundeven", 1),
    "round": ("round", 1),
    "fma": ("fma", 3),
    "fmin": ("min", 2),
    "fmax": ("max", 2),
    "copysign": ("copysign", 2),
}
_UNARY = (
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh"),
    *("atanh", "exp", "exp2", "exp10", "expm1", "log", "log2", "log10", "log1p", "logb"),
    *("cbrt", "erf", "erfc", "tgamma", "lgamma"),
)
_BINARY = ("pow", "atan2", "fmod", "hypot", "remainder", "fdim", "nextafter")
LIBM: Mapping[str, int] = {
    **{name + suffix: 1 for name in _UNARY for suffix in ("", "f")},
    **{name + suffix: 2 for name in _BINARY for suffix in ("", "f")},
}
"""Functions of libm by name, with their number of arguments, all of the function's width."""


@functools.cache
def libm_address(name: str) -> int | None:
    """Return the address of a function of libm in this process."""
    for library in (None, ctypes.util.find_library("m")):
        try:
            function = getattr(ctypes.CDLL(library), name)
        except (OSError, AttributeError):
            continue
        return ctypes.cast(function, ctypes.c_void_p).value
    return None


def _split(name: str) -> tuple[str, int] | None:
    """Return the double's name and the width, for names of intrinsics."""
    if name in _INTRINSICS:
        return name, 64
    if name[-1:] == "f" and name[:-1] in _INTRINSICS:
        return name[:-1], 32
    return None


def is_mathematics(name: str) -> bool:
    return (
        name in LIBM or _split(name) is not None or name in ("rsqrtf", "rsqrt", "ldexpf", "ldexp")
    )


def call_mathematics(emitter: Emitter, name: str, arguments: list[str]) -> str:
    """Call ``name`` with its arguments as integers of their bits; return the result's bits."""
    bits = 32 if name.endswith("f") and name != "erf" else 64
    kind = FLOAT_NAMES[bits]
    stem = name[:-1] if bits == 32 else name
    count = 1 if stem in ("rsqrt", "ldexp") else len(arguments)
    floats = [emitter.value(f"bitcast i{bits} {a} to {kind}") for a in arguments[:count]]
    typed = [f"{kind} {value}" for value in floats]
    if stem == "rsqrt":
        root = emitter.call(f"llvm.sqrt.f{bits}", kind, *typed)
        result = emitter.value(f"fdiv {kind} 1.0, {root}")
    elif stem in ("fmin", "fmax"):
        result = extreme(emitter, stem[1:], floats[0], floats[1], bits)
    elif stem == "ldexp":
        result = emitter.extern(name, kind, *typed, f"i32 {arguments[1]}")
    elif _split(name) is not None:
        result = emitter.call(f"llvm.{_INTRINSICS[stem][0]}.f{bits}", kind, *typed)
    else:
        result = emitter.extern(name, kind, *typed)
    return emitter.value(f"bitcast {kind} {result} to i{bits}")
