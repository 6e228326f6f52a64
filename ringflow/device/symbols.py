"""Variables in compiled code: readable names, and types as numpy names them. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

_BUILTIN: Final = "vwbcahstijlmxynofdgez"
_ANONYMOUS: Final = re.compile(r"(_GLOBAL__N_|_INTERNAL_)\w*\Z")
_LENGTH: Final = re.compile(r"L?(\d+)")
_PARAMETERS: Final = re.compile(rf"[{_BUILTIN}PKR]*E")


_DTYPES: Final = {
    **{f"{kind}{bits}": f"uint{bits}" for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"f{bits}": f"float{bits}" for bits in (16, 32, 64)},
}


def dtype_of(type_name: str) -> str:
    """Return numpy's name for a PTX type; ``uint8`` for what has none."""
    return _DTYPES.get(type_name, "uint8")


def readable_names(names: Iterable[str]) -> dict[str, str]:
    """Return names as they stand in the source, by the names that they have in compiled code.

    ``_ZN2ns3varE`` is ``ns::var``; a static variable of a function is ``function::variable``. What
    is not as simple, or would have another's name, keeps its own.
    """
    names = tuple(names)
    readable = {name: _readable(name) for name in names}
    taken = Counter(readable.values())
    return {name: short if taken[short] == 1 else name for name, short in readable.items()}


def _readable(name: str) -> str:
    """Return the parts of a mangled name (Itanium ABI) joined by ``::``, else the name."""
    if not name.startswith("_Z"):
        return name
    rest, parts = name[2:], []
    if rest.startswith("Z"):
        found, rest = _name(rest[1:])
        parts += found
        parameters = _PARAMETERS.match(rest)
        if not found or parameters is None:
            return name
        rest = rest[parameters.end() :]
    found, rest = _name(rest)
    return name if rest or not found else "::".join([*parts, *found])


def _name(text: str) -> tuple[list[str], str]:
    """Read a nested or plain name; return its parts, none if it is neither, and what follows."""
    nested = text.startswith("N")
    parts, rest = [], text[1:] if nested else text
    while length := _LENGTH.match(rest):
        end = length.end() + int(length[1])
        part = rest[length.end() : end]
        rest = rest[end:]
        if not _ANONYMOUS.match(part):
            parts.append(part)
        if not nested:
            return parts, rest
    if nested and rest.startswith("E"):
        return parts, rest[1:]
    return [], rest
