"""Reads an engine's folder for ``recording``: its journal, and the files that the journal names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from ringflow.errors import RingflowError, UsageError
from ringflow.files import SystemFiles
from ringflow.journal.reader import find_journal, read_records
from ringflow.scenario.recorded_requests import Stored
from ringflow.scenario.recording import recorded
from ringflow.scenario.running import run
from ringflow.scenario.script import parse
from ringflow.spec_codec import decode_spec
from ringflow.storage import FileStorage, ObjectStore
from ringflow.storage.api import CHECKPOINT_FOLDER
from ringflow.storage.reading import read_checkpoint

T = TypeVar("T")

_SHOWN: Final = 12
"""Lines of a difference that an error shows."""


def record_folder(path: Path) -> str:
    """Return the scenario of an engine's folder, or of its journal's; changes nothing.

    Raises:
        UsageError: the journal's beginning is archived, so that nobody can begin as it did.
        StorageError: there is no journal, or it is damaged.
    """
    root = find_journal(path, SystemFiles()).parent
    records = list(read_records(path))
    if not records or records[0].sequence != 1:
        raise UsageError(
            f"the journal in {str(path)!r} has no first record: a scenario begins at the "
            "beginning; record from a copy from before it was archived"
        )
    objects = ObjectStore(root / "objects")
    checkpoints = FileStorage(root / CHECKPOINT_FOLDER)

    def regions(name: str) -> Mapping[str, bytes]:
        checkpoint = read_checkpoint(checkpoints.path_of(name))
        return {chunk.name: bytes(chunk.data) for chunk in checkpoint.regions}

    stored = Stored(
        spec=lambda digest: _there(lambda: decode_spec(objects.get(digest))),
        regions=lambda name: _there(lambda: regions(name)),
        data=lambda digest: _there(lambda: objects.get(digest)),
    )
    return recorded(records, stored, purpose=f"Recorded from the journal of {root.name!r}.")


def check_recording(text: str, path: Path) -> None:
    """Run a recording of ``path``; blocks, where no event loop runs.

    Raises:
        RingflowError: it comes to something else than what was recorded, or to an end before.
    """
    outcome = run(parse(text, "recorded"), folder=path)
    if outcome.passed:
        return
    shown = "\n".join(outcome.report.splitlines()[:_SHOWN])
    if not outcome.differences:
        raise RingflowError(
            f"the scenario of {str(path)!r} can't be run to its end; --no-check writes it all the "
            f"same. It ends here:\n{shown}"
        )
    raise RingflowError(
        f"the scenario of {str(path)!r} comes to something else than its journal. What no journal "
        "tells may have decided (memory, the time, damaged files, a program that wrote into a "
        "kernel's memory, another version of ringflow); --no-check writes it all the same. It "
        f"differs here:\n{shown}"
    )


def _there(read: Callable[[], T]) -> T | None:
    """Return what is read, None where it is gone or damaged."""
    try:
        return read()
    except (RingflowError, OSError):
        return None
