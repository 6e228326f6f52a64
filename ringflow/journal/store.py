"""Where the bytes of segments are: the one seam through which everything reads them.

- ``NAME.jsonl`` is plain; ``NAME.jsonl.zst`` is sealed and holds the same text, compressed.
- A segment is sealed after the next one has pinned it: its text is final by then.
- The plain file wins while both are there: a crash while sealing leaves one good copy at least.
- Zeros at the end of a plain file are space that its writer had reserved, no part of the journal;
  a line holds no zero byte.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final, final

from ringflow.errors import CorruptError, NotFoundError
from ringflow.files import FileSystem, write_atomic
from ringflow.journal.sealed import SEALED_SUFFIX, SegmentText, pack, unpack
from ringflow.journal.segments import Segment, SegmentName

SEGMENT_BYTES_MAX: Final = 256 * 2**20
HEADER_BYTES_MAX: Final = 4096  # a header has about 500


@final
class SegmentStore:
    """The segments in a journal's own folder.

    Args:
        without: as if these segments weren't there; a repair looks so at what it would leave.
    """

    def __init__(
        self, files: FileSystem, folder: Path, *, without: Collection[SegmentName] = ()
    ) -> None:
        self._files = files
        self._folder = folder
        self._without = frozenset(without)

    def names(self) -> list[SegmentName]:
        """Return every segment that is there, in the order in which they were begun."""
        names = self._files.names(self._folder)
        found = {SegmentName.parse(name.removesuffix(SEALED_SUFFIX)) for name in names}
        there = (name for name in found if name and name not in self._without)
        return sorted(there, key=lambda name: name.age)

    def plain_names(self) -> frozenset[str]:
        """Return the names of all plain files."""
        return frozenset(name for name in self._files.names(self._folder) if _is_plain(name))

    def exists(self, name: SegmentName) -> bool:
        """Return whether a segment is there, also one that was sealed a moment ago."""
        if name in self._without:
            return False
        return any(map(self._files.exists, (self.plain_path(name), self.sealed_path(name))))

    def plain_path(self, name: SegmentName) -> Path:
        return self._folder / str(name)

    def sealed_path(self, name: SegmentName) -> Path:
        return self._folder / f"{name}{SEALED_SUFFIX}"

    def text(self, name: SegmentName, *, limit_bytes: int = SEGMENT_BYTES_MAX) -> SegmentText:
        """Return what was written of a segment, at most its first ``limit_bytes``.

        Raises:
            NotFoundError: there is neither file.
        """
        try:
            data = self._files.read(self.plain_path(name), size_bytes=limit_bytes + 1)
        except NotFoundError:
            packed = self._files.read(self.sealed_path(name), size_bytes=SEGMENT_BYTES_MAX)
            text = unpack(packed, limit_bytes=limit_bytes)
        else:
            text = SegmentText(data.rstrip(b"\0"))
        if len(text.data) <= limit_bytes:
            return text
        damage = f"it is over {limit_bytes} bytes" if limit_bytes == SEGMENT_BYTES_MAX else ""
        return SegmentText(text.data[:limit_bytes], damage)

    def read(self, name: SegmentName) -> bytes:
        """Return all that was written of a segment; raises ``NotFoundError``, ``CorruptError``."""
        text = self.text(name)
        if text.damage:
            raise CorruptError(f"segment {name}: {text.damage}; restore it from a copy")
        return text.data

    def read_segment(self, segment: Segment) -> bytes:
        """Return a segment's text; raises as ``read``, also if it does not end as it was sealed."""
        data = self.read(segment.name)[: segment.size_bytes]
        if not _ends_with(data, segment.hash):
            raise CorruptError(f"segment {segment.name} does not end as it was sealed; restore it")
        return data

    def read_start(self, name: SegmentName) -> bytes:
        """Return at least the first line of a segment if it has one; raises ``NotFoundError``."""
        start = self.text(name, limit_bytes=HEADER_BYTES_MAX).data
        return start if b"\n" in start else self.text(name).data

    def seal(self, segment: Segment) -> bool:
        """Replace a pinned segment's plain file by its sealed one; each step may be the last.

        Returns:
            False if nothing is to be done, or a fenced-off writer added bytes, which are kept.
        Raises:
            CorruptError: the plain file does not hold the segment any more.
            OSError: the disk failed; the plain file is still there.
        """
        name = segment.name
        if not self._files.exists(self.plain_path(name)):
            return False
        try:
            text = self.read(name)
        except NotFoundError:
            return False  # it was archived in this moment
        if len(text) > segment.size_bytes:
            return False
        if len(text) < segment.size_bytes or not _ends_with(text, segment.hash):
            raise CorruptError(f"segment {name} is not what was written; restore it from a copy")
        packed = pack(text)
        if unpack(packed, limit_bytes=len(text)).data != text:
            raise CorruptError(f"segment {name} can't be sealed: its copy differs; keep it plain")
        write_atomic(self._files, self.sealed_path(name), [packed])
        self._files.delete(self.plain_path(name))
        return True


def _is_plain(name: str) -> bool:
    return SegmentName.parse(name) is not None


def _ends_with(text: bytes, digest: str) -> bool:
    return text.endswith(f'"hash":"{digest}"}}\n'.encode())
