"""What every store in a folder needs: no leftovers of a crash, foreign errors translated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ringflow.errors import StorageError
from ringflow.files import TEMPORARY_SUFFIX, FileSystem


def remove_leftovers(files: FileSystem, folder: Path, suffix: str) -> None:
    """Delete the temporary files that a crash left of atomic writes of names with ``suffix``.

    Raises:
        StorageError: the place refuses.
    """
    with storage_errors("remove leftovers in", folder):
        for name in files.names(folder):
            if name.endswith(suffix + TEMPORARY_SUFFIX):
                files.delete(folder / name)


@contextmanager
def storage_errors(action: str, path: Path) -> Iterator[None]:
    """Turn the system's ``OSError`` into a ``StorageError`` that says what was being done."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"could not {action} {str(path)!r}: {error.strerror or error}; "
            "check the disk's space and the permissions, then try again"
        ) from error
