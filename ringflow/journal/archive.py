"""Taking the oldest segments out of a journal, behind a base record that stands for them.

- The base record is durable before anything goes: from then on openings, readers and ``verify``
  begin behind it, whether its segments are gone, half gone or still there.
- Every step can be repeated: what a crash left is finished by the next archiving.
- A segment is deleted only after its copy in the archive's folder is durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ringflow.errors import ConflictError, NotFoundError
from ringflow.files import FileSystem, ensure_folder, write_atomic
from ringflow.journal.foundation import (
    Foundation,
    base_name,
    base_sequence,
    encode_foundation,
)
from ringflow.journal.segments import SegmentName
from ringflow.journal.store import SegmentStore


def leftover_segments(files: FileSystem, folder: Path, first: SegmentName) -> list[SegmentName]:
    """Return the segments in a journal's own folder that are older than its first one."""
    return [name for name in SegmentStore(files, folder).names() if name.age < first.age]


def check_target(
    files: FileSystem, folder: Path, names: Sequence[SegmentName], target: Path
) -> None:
    """Raise ``ConflictError`` if moving segments to ``target`` would lose what is there or they."""
    if target.resolve() in (folder.resolve(), folder.parent.resolve()):
        raise ConflictError(
            f"{str(target)!r} is the folder that the segments are to leave; name another one"
        )
    there, source = SegmentStore(files, target), SegmentStore(files, folder)
    for name in names:
        if there.exists(name) and there.text(name) != source.text(name):
            raise ConflictError(
                f"{str(target)!r} holds another segment {name}, of another journal perhaps, which "
                "would be replaced; name a folder of this journal's own"
            )


def write_base(files: FileSystem, folder: Path, base: Foundation) -> None:
    """Make ``base`` the journal's beginning, in one step; raises ``OSError``."""
    write_atomic(files, folder / base_name(base.place.sequence), [encode_foundation(base)])


def remove_segments(
    files: FileSystem, folder: Path, names: Sequence[SegmentName], target: Path | None
) -> None:
    """Move segments to the folder ``target``, or delete them if it is None; raises ``OSError``."""
    store = SegmentStore(files, folder)
    if target is not None:
        ensure_folder(files, target)
    for name in names:
        paths = (store.plain_path(name), store.sealed_path(name))
        if target is not None:
            path, data = _first_of(files, paths)
            write_atomic(files, target / path.name, [data])
        for path in paths:
            files.delete(path)
    files.fsync_folder(folder)


def remove_old_bases(files: FileSystem, folder: Path) -> None:
    """Delete all base records but the newest; nothing that they stand for may be there."""
    sequences = sorted(one for name in files.names(folder) if (one := base_sequence(name)))
    for sequence in sequences[:-1]:
        files.delete(folder / base_name(sequence))


def _first_of(files: FileSystem, paths: Sequence[Path]) -> tuple[Path, bytes]:
    """Return the first of the files that is there; one may be replaced by the next meanwhile."""
    for path in paths[:-1]:
        try:
            return path, files.read(path)
        except NotFoundError:
            continue
    return paths[-1], files.read(paths[-1])
