"""The form of values in the journal: one for each, and nothing is coerced.

- What was written as an int is read as an int or refused.
- Integers beyond 2**53 are decimal strings, bytes are base64 strings, NaN and the infinities are
  the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``.
- A value that can be written can be read: wrong types are refused on both ways.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Callable
from typing import Any, Final, get_args, get_origin

import cattrs
import orjson

SAFE_INTEGER: Final = 2**53
_SPECIAL: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def canonical_json(value: object) -> bytes:
    """Return ``value`` as JSON with sorted keys and no spaces; the one form that is hashed."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def dump_integer(value: int) -> int | str:
    """Return ``value``, as a string if it is beyond 2**53 (other readers round it)."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is not an int")
    return value if -SAFE_INTEGER <= value <= SAFE_INTEGER else str(value)


def load_integer(value: object) -> int:
    """Return the int that ``dump_integer`` wrote; raises ``ValueError`` for any other form."""
    if type(value) is int and -SAFE_INTEGER <= value <= SAFE_INTEGER:
        return value
    if type(value) is str:
        number = int(value)
        if str(number) == value and not -SAFE_INTEGER <= number <= SAFE_INTEGER:
            return number
    raise ValueError(f"{value!r} is not an integer in its canonical form")


def _dump_float(value: float) -> float | str:
    if type(value) is bool or not isinstance(value, (float, int)):
        raise TypeError(f"{value!r} is not a float")
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _load_float(value: object, _: object) -> float:
    if type(value) is float:
        return value
    if type(value) is str and value in _SPECIAL:
        return _SPECIAL[value]
    raise ValueError(f"{value!r} is not a float in its canonical form")


def _dump_bytes(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode("ascii")


def _load_bytes(value: object, _: object) -> bytes:
    if type(value) is not str:
        raise ValueError(f"{value!r} is not a base64 string")
    return binascii.a2b_base64(value, strict_mode=True)


def _exactly(kind: type) -> Callable[[Any], Any]:
    def dump(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"{value!r} is not a {kind.__name__}")
        return value

    return dump


def load_exactly(kind: type) -> Callable[[Any, Any], Any]:
    """Return a hook for cattrs that takes values of exactly this type, without converting any."""

    def load(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"{value!r} is not a {kind.__name__}")
        return value

    return load


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (...,)


def _tuple_loader(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    item = get_args(kind)[0]
    load = converter.get_structure_hook(item)

    def load_tuple(value: Any, _: Any) -> Any:
        if type(value) is not list:
            raise ValueError(f"{value!r} is not a list")
        return tuple([load(one, item) for one in value])

    return load_tuple


def _tuple_dumper(kind: Any, converter: cattrs.Converter) -> Callable[[Any], Any]:
    item = get_args(kind)[0]
    dump = converter.get_unstructure_hook(item)

    def dump_tuple(value: Any) -> Any:
        if type(value) is not tuple:
            raise TypeError(f"{value!r} is not a tuple")
        if item is int:  # records of messages are full of these: no call for each
            low, high = -SAFE_INTEGER, SAFE_INTEGER
            return [
                one if type(one) is int and low <= one <= high else dump_integer(one)
                for one in value
            ]
        return [dump(one) for one in value]

    return dump_tuple


def new_converter() -> cattrs.Converter:
    """Return what writes and reads values of every kind, one form each, coercing nothing."""
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
    converter.register_structure_hook(int, lambda value, _: load_integer(value))
    converter.register_unstructure_hook(int, dump_integer)
    converter.register_structure_hook(float, _load_float)
    converter.register_unstructure_hook(float, _dump_float)
    converter.register_structure_hook(bytes, _load_bytes)
    converter.register_unstructure_hook(bytes, _dump_bytes)
    for kind in (str, bool):
        converter.register_structure_hook(kind, load_exactly(kind))
        converter.register_unstructure_hook(kind, _exactly(kind))
    converter.register_structure_hook_factory(_is_tuple)(_tuple_loader)
    converter.register_unstructure_hook_factory(_is_tuple)(_tuple_dumper)
    return converter
