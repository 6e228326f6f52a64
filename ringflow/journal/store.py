"""Where the bytes of segments are: the one seam through which everything reads them.

- Zeros at the end of a file are space that its writer had reserved, no part of the journal; a
  line holds no zero byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, final

from ringflow.files import FileSystem
from ringflow.journal.segments import SegmentName

_START_BYTES: Final = 4096  # a header has about 500


@final
class SegmentStore:
    """The segments in a journal's own folder."""

    def __init__(self, files: FileSystem, folder: Path) -> None:
        self._files = files
        self._folder = folder

    def names(self) -> list[SegmentName]:
        """Return every segment that is there, in the order in which they were begun."""
        found = (SegmentName.parse(name) for name in self._files.names(self._folder))
        return sorted((name for name in found if name), key=lambda name: name.age)

    def read(self, name: SegmentName) -> bytes:
        """Return what was written of a segment; raises ``NotFoundError``."""
        return self._files.read(self._folder / str(name)).rstrip(b"\0")

    def read_start(self, name: SegmentName) -> bytes:
        """Return at least the first line of a segment if it has one; raises ``NotFoundError``."""
        start = self._files.read(self._folder / str(name), size_bytes=_START_BYTES)
        return start if b"\n" in start else self.read(name)
