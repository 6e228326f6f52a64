"""Where PTX comes from: the source positions that a compiler leaves in it. Pure.

- ``.file N "name"`` names a file, ``.loc N line column`` says where the instructions after it are
  from, until the next one or the end of the function.
- clang tells where inlined code was called in a comment: ``@[ wave.cu:4:13 ]``, outermost last.
"""

from __future__ import annotations

import bisect
import re
from typing import Final

import attrs

_FILE: Final = re.compile(r'^\s*\.file\s+(\d+)\s+"((?:[^"\\]|\\.)*)"', re.M)
_LOC: Final = re.compile(r"\s*\.loc\s+(\d+)\s+(\d+)")
_CALLED: Final = re.compile(r"@\[ ([^\]@]+?):(\d+)(?::\d+)?\b")


@attrs.frozen
class Positions:
    """Positions in the source of the lines of a PTX text.

    Attributes:
        starts: lines of the PTX, ascending, at which another position begins.
        places: the position of each start as text, "" where nothing is known.
    """

    starts: tuple[int, ...] = ()
    places: tuple[str, ...] = ()

    def find(self, ptx_line: int) -> str:
        """Return ``"wave.cu:12"`` for a line (from 1) of the PTX, "" where nothing is known."""
        at = bisect.bisect_right(self.starts, ptx_line) - 1
        return self.places[at] if at >= 0 else ""


def positions_of(text: str) -> Positions:
    """Return the positions that a PTX text names."""
    files = {number: name.removeprefix("./") for number, name in _FILE.findall(text)}
    if not files:
        return Positions()
    starts: list[int] = []
    places: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        found = _LOC.match(line)
        if found:
            starts.append(number)
            places.append(_place(found, line, files))
        elif line.startswith("}"):
            starts.append(number)
            places.append("")
    return Positions(tuple(starts), tuple(places))


def _place(found: re.Match[str], line: str, files: dict[str, str]) -> str:
    if found[2] == "0":
        return ""
    place = f"{files.get(found[1], '?')}:{found[2]}"
    calls = _CALLED.findall(line, found.end())
    if not calls:
        return place
    file, called = calls[-1]
    return f"{place}, inlined at {file.removeprefix('./')}:{called}"
