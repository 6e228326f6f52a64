"""The ``CheckpointStorage`` protocol, and the rule for the names in every storage.

- A name is plain: letters, digits and ``_.@=+-``, so that it is a file's name everywhere.
- Names sort with their numbers as numbers: ``step_900`` before ``step_1000``.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from ringflow.errors import UsageError
from ringflow.storage.checkpoint import Checkpoint

NAME_CHARACTERS_MAX: Final = 200
CHECKPOINT_SUFFIX: Final = ".rkcp"
CHECKPOINT_FOLDER: Final = "checkpoints"  # in the engine's folder
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@=+-]*")
_DIGITS: Final = re.compile(r"([0-9]+)")


class CheckpointStorage(Protocol):
    """Where checkpoints are kept, by name; each call is safe to cancel.

    Names that are none raise ``UsageError`` in every method. What the place itself refuses (a full
    disk, a folder without permission) is a ``StorageError``.
    """

    async def save(self, checkpoint: Checkpoint, name: str) -> None:
        """Keep a checkpoint durably; one of this name is replaced in one step.

        The data must not change before it returns. A cancelled save ends before the cancellation
        is raised: the checkpoint is then there.
        Raises:
            LimitExceededError: it is too large for its format.
        """

    async def load(self, name: str) -> Checkpoint:
        """Return a checkpoint, verified.

        Raises:
            NotFoundError: there is none of this name.
            CorruptError: its bytes are damaged.
        """

    async def list(self) -> tuple[str, ...]:
        """Return all names, sorted with their numbers as numbers."""

    async def delete(self, name: str) -> None:
        """Remove a checkpoint durably; raises ``NotFoundError``."""

    async def exists(self, name: str) -> bool: ...


def is_name(name: str) -> bool:
    """Return whether ``name`` can name a checkpoint; the format's suffix is no part of a name."""
    plain = len(name) <= NAME_CHARACTERS_MAX and _NAME.fullmatch(name) is not None
    return plain and not name.endswith(CHECKPOINT_SUFFIX)


def check_name(name: str) -> str:
    """Return ``name``; raises ``UsageError`` if it can't name a checkpoint."""
    if not is_name(name):
        raise UsageError(
            f"{name!r} can't name a checkpoint; use up to {NAME_CHARACTERS_MAX} letters, digits "
            f"and '_.@=+-', the first a letter, digit or '_', and no {CHECKPOINT_SUFFIX} at the end"
        )
    return name


def name_order(name: str) -> tuple[tuple[str, int], ...]:
    """Return a sort key under which numbers within names compare as numbers."""
    parts = _DIGITS.split(name)
    key = [
        (text, int(number)) for text, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)
    ]
    return (*key, (name, 0))
