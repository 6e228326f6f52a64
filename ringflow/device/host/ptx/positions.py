"""Where PTX comes from: the source positions that a compiler leaves in it. Pure.

``.file N "name"`` names a file, ``.loc N line column`` says where the instructions after it are
from, until the next one or the end of the function.
"""

from __future__ import annotations

import bisect
import re
from typing import Final

import attrs

_FILE: Final = re.compile(r'^\s*\.file\s+(\d+)\s+"((?:[^"\\]|\\.)*)"', re.M)
_LOC: Final = re.compile(r"\s*\.loc\s+(\d+)\s+(\d+)")


@attrs.frozen
class Positions:
    """Positions in the source of the lines of a PTX text.

    Attributes:
        files: numbers and names.
        starts: lines of the PTX, ascending, at which another position begins.
        places: file and line of each start; line 0 where nothing is known.
    """

    files: tuple[tuple[int, str], ...] = ()
    starts: tuple[int, ...] = ()
    places: tuple[tuple[int, int], ...] = ()

    def find(self, ptx_line: int) -> str:
        """Return ``"wave.cu:12"`` for a line (from 1) of the PTX, "" where nothing is known."""
        at = bisect.bisect_right(self.starts, ptx_line) - 1
        if at < 0:
            return ""
        file, line = self.places[at]
        return f"{dict(self.files).get(file, '?')}:{line}" if line else ""


def positions_of(text: str) -> Positions:
    """Return the positions that a PTX text names."""
    files = tuple((int(number), name.removeprefix("./")) for number, name in _FILE.findall(text))
    if not files:
        return Positions()
    starts: list[int] = []
    places: list[tuple[int, int]] = []
    for number, line in enumerate(text.splitlines(), 1):
        found = _LOC.match(line)
        place = (int(found[1]), int(found[2])) if found else (0, 0)
        if found or line.startswith("}"):
            starts.append(number)
            places.append(place)
    return Positions(files, tuple(starts), tuple(places))
