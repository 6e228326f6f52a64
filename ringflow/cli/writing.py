"""Files that commands write: whole or not at all, with errors in the words of the program."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ringflow.errors import UsageError
from ringflow.files import TEMPORARY_SUFFIX, Buffer, SystemFiles, write_atomic
from ringflow.storage.folders import storage_errors


def write_file(path: Path, pieces: Iterable[Buffer]) -> None:
    """Write a file, or into what is no file, such as a pipe.

    Raises:
        UsageError: ``path`` is a folder.
        StorageError: the place refuses; what was there before still is, and nothing else.
    """
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder; name the file to write")
    with storage_errors("write", path):
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                file.writelines(pieces)
            return
        target = path.resolve()
        try:
            write_atomic(SystemFiles(), target, pieces)
        except BaseException:
            target.with_name(target.name + TEMPORARY_SUFFIX).unlink(missing_ok=True)
            raise
