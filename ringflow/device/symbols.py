"""Readable names of variables, from the ones that C++ compilers give them. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

_BUILTIN: Final = "vwbcahstijlmxynofdgez"
_ANONYMOUS: Final = re.compile(r"_GLOBAL__N_\w*\Z")
_LENGTH: Final = re.compile(r"L?(\d+)")
_PARAMETERS: Final = re.compile(rf"[{_BUILTIN}PKR]*E")


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
