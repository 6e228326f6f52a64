"""PTX instructions as PTX text and as what the PTX manual says they compute, in numpy.

A value has a kind: r (32 bits), d (64 bits), f (f32), g (f64) or p (predicate), and is an array
with one element a thread. Bits of a float become an integer with every NaN replaced by one NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
TYPES: dict[str, Any] = {
    "r": np.uint32,
    "d": np.uint64,
    "f": np.float32,
    "g": np.float64,
    "p": np.bool_,
}
BITS = {"r": 32, "d": 64, "f": 32, "g": 64}


@attrs.frozen
class Operation:
    """An instruction: ``text`` names its registers {0} (result), {1} and so on."""

    name: str
    kinds: str
    text: str
    value: Callable[..., Array]


OPERATIONS: dict[str, Operation] = {}


def operation(
    name: str, kinds: str, text: str
) -> Callable[[Callable[..., Array]], Callable[..., Array]]:
    """Add an operation; the first letter of ``kinds`` is the result's."""

    def add(value: Callable[..., Array]) -> Callable[..., Array]:
        assert name not in OPERATIONS
        OPERATIONS[name] = Operation(name, kinds, text, value)
        return value

    return add


def define(name: str, kinds: str, text: str, value: Callable[..., Array]) -> None:
    operation(name, kinds, text)(value)


def signed(x: Array) -> Array:
    return x.view(np.int32 if x.dtype == np.uint32 else np.int64)


def unsigned(x: Array) -> Array:
    if x.dtype in (np.float32, np.int32):
        return x.view(np.uint32)
    return x.view(np.uint64)


def width(x: Array) -> int:
    return x.dtype.itemsize * 8
