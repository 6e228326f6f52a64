"""The checkpoints of a folder whose journal is missing, or was cut: they are kept.

- An opening deletes checkpoints that no record names. Where there is no journal that would be all
  of them, so such a folder is refused, and nothing is made or deleted in it.
- A repair cuts records that named checkpoints. The first opening after it sets those aside.
"""

from __future__ import annotations

from pathlib import Path

from ringflow.engine.core import Core
from ringflow.errors import NotFoundError
from ringflow.files import FileSystem, ensure_folder
from ringflow.journal.reader import holds_journal
from ringflow.journal.segments import JOURNAL_FOLDER
from ringflow.storage import ObjectStore
from ringflow.storage.api import CHECKPOINT_FOLDER, CHECKPOINT_SUFFIX, check_name
from ringflow.storage.file import checkpoint_names
from ringflow.storage.folders import storage_errors


def check_has_journal(files: FileSystem, root: Path) -> None:
    """Refuse a folder with an engine's files and without its journal; needs no lock.

    Where there is a journal, or nothing, it lists a folder or three: it takes no thread.
    Raises:
        NotFoundError: its journal is not where it was.
    """
    with storage_errors("look for a journal in", root):
        if holds_journal(files, root / JOURNAL_FOLDER):
            return
        checkpoint_count = len(checkpoint_names(files, root / CHECKPOINT_FOLDER))
        object_count = len(ObjectStore(root / "objects", files=files).digests())
        # Again: another engine may have begun meanwhile, with a journal first.
        is_new = not (checkpoint_count or object_count)
        if is_new or holds_journal(files, root / JOURNAL_FOLDER):
            return
    raise NotFoundError(
        f"{str(root)!r} has {checkpoint_count} checkpoints and {object_count} objects of an "
        f"engine, and no journal in {str(root / JOURNAL_FOLDER)!r}; nothing was changed: put "
        "the journal back, or open an empty folder; `ringflow checkpoint` reads the "
        "checkpoints, and a kernel's restore() takes them"
    )


async def set_aside(core: Core, orphans: tuple[str, ...]) -> None:
    """Move what a repair took from the journal to a folder of the repair's name.

    It can be repeated: it is done before a record says that the folder was opened again.
    """
    folder = core.folder / CHECKPOINT_FOLDER
    aside = folder / check_name(core.state.repaired)

    def move() -> None:
        with storage_errors("set checkpoints aside in", aside):
            ensure_folder(core.files, aside)
            for file in (name + CHECKPOINT_SUFFIX for name in orphans):
                core.files.rename(folder / file, aside / file)
            core.files.fsync_folder(aside)
            core.files.fsync_folder(folder)

    if orphans:
        await core.in_thread(move)
