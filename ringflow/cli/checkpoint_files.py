"""Where an engine's checkpoints lie, which of them its journal names, and whether they fit it.

- Takes no lock and changes nothing; an engine may work in the folder meanwhile.
- The files are listed before the journal is read: a file's event may still be missing then, but
  what is reported as an orphan had none when it was seen.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from ringflow.cli.points import KnownCheckpoint, KnownCheckpoints, known_from
from ringflow.cli.writing import write_file
from ringflow.errors import CorruptJournalError, NotFoundError, StorageError, UsageError
from ringflow.files import SystemFiles
from ringflow.journal.reader import find_journal, read_history
from ringflow.storage.api import CHECKPOINT_FOLDER, CHECKPOINT_SUFFIX
from ringflow.storage.checkpoint import Checkpoint
from ringflow.storage.chunks import DataChunk
from ringflow.storage.file import checkpoint_names
from ringflow.storage.format_v1 import MAX_CHECKPOINT_SIZE
from ringflow.storage.reading import read_checkpoint, read_regular

_NAMES_SHOWN: Final = 12


@attrs.frozen
class EngineCheckpoints:
    """A folder's checkpoint files, and what its journal says of them.

    Attributes:
        folder: where the files are.
        files: the names of those that are there, without their suffix, in order.
        known: None where the folder has no journal.
    """

    folder: Path
    files: tuple[str, ...]
    known: KnownCheckpoints | None

    def path_of(self, name: str) -> Path:
        return self.folder / (name + CHECKPOINT_SUFFIX)

    @property
    def orphans(self) -> tuple[str, ...]:
        """The files that no recovery point names; all of them where there is no journal."""
        live = self.known.live() if self.known else {}
        return tuple(name for name in self.files if name not in live)


def open_folder(path: Path) -> EngineCheckpoints:
    """Return what is in an engine's folder, its journal's, or a folder of checkpoint files.

    Raises:
        NotFoundError: there are neither checkpoints nor a journal.
        CorruptJournalError: the journal is damaged.
    """
    folder = _checkpoint_folder(path)
    names = checkpoint_names(SystemFiles(), folder)
    try:
        find_journal(path)
    except NotFoundError:
        if names:
            return EngineCheckpoints(folder, names, None)
        raise NotFoundError(
            f"no checkpoints and no journal in {str(path)!r}; give the engine's folder"
        ) from None
    return EngineCheckpoints(folder, names, read_known(path))


def read_known(path: Path) -> KnownCheckpoints:
    """Return the checkpoints that the journal under ``path`` names; verifies every line."""
    from ringflow.engine.state_codec import decode_state
    from ringflow.errors import CorruptError
    from ringflow.journal.foundation import base_name

    base, records = read_history(path)
    older: list[KnownCheckpoint] = []
    if base is not None:
        try:
            lives = decode_state(base.state).kernels
        except CorruptError as error:
            name = base_name(base.place.sequence)
            raise CorruptJournalError(name, 1, None, str(error)) from error
        older = [known_from(one, point) for one in lives for point in lives[one].recovery_points]
    known = KnownCheckpoints(older)
    for record in records:
        known.take(record)
    return known


def find_file(path: Path, name: str = "") -> Path:
    """Return the file of one checkpoint.

    Args:
        path: the file; or the folder that ``name`` is in; or, without one, both as ``FOLDER/NAME``.
        name: as files are called, with or without ``kernel@`` and the suffix.
    Raises:
        UsageError: a folder without a name, or a name that several files have.
        NotFoundError: there is none.
    """
    if not name:
        if path.is_dir():
            raise UsageError(
                f"{str(path)!r} is a folder; name one of its checkpoints: "
                f"{_some(checkpoint_names(SystemFiles(), _checkpoint_folder(path)))}"
            )
        if path.exists() or not path.parent.is_dir():
            return path
        path, name = path.parent, path.name
    folder = _checkpoint_folder(path)
    names = checkpoint_names(SystemFiles(), folder)
    wanted = name.removesuffix(CHECKPOINT_SUFFIX)
    found = [one for one in names if one == wanted] or [
        one for one in names if one.partition("@")[2] == wanted
    ]
    if len(found) == 1:
        return folder / (found[0] + CHECKPOINT_SUFFIX)
    if found:
        raise UsageError(f"several kernels have a checkpoint {wanted!r}: {_some(tuple(found))}")
    raise NotFoundError(f"no checkpoint {wanted!r} in {str(folder)!r}; there are: {_some(names)}")


def _checkpoint_folder(path: Path) -> Path:
    if (path / CHECKPOINT_FOLDER).is_dir():
        return path / CHECKPOINT_FOLDER
    if checkpoint_names(SystemFiles(), path):
        return path
    try:
        return find_journal(path).parent / CHECKPOINT_FOLDER
    except NotFoundError:
        return path


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return (", ".join(names[:_NAMES_SHOWN]) or "none") + more


@attrs.frozen
class Verdict:
    """What the check of one checkpoint found.

    Attributes:
        state: as in ``KnownCheckpoint``, ``"orphan"``, or ``"file"`` where no journal was asked.
        problems: empty if it is whole and, for a recovery point, as the journal says.
        regions, data_bytes: what was verified.
        has_digests: False for files of other writers, which have a CRC only.
    """

    name: str
    state: str
    problems: tuple[str, ...]
    identity: str = ""
    regions: int = 0
    data_bytes: int = 0
    has_digests: bool = True


def verify_one(path: Path, name: str = "") -> Verdict:
    """Check one checkpoint, as ``find_file`` finds it: a file that is named itself, by itself.

    One that is named within an engine's folder is held against the journal.
    """
    file = find_file(path, name)
    if not name and path.exists():
        return verify_file(file)
    folder = path if name else path.parent
    found = verify_folder(folder, only=file.name.removesuffix(CHECKPOINT_SUFFIX))
    return next(found, None) or verify_file(file)


def verify_file(path: Path, *, name: str = "", state: str = "file") -> Verdict:
    """Check a file by itself."""
    return _verified(path, name or str(path), state, None)


def verify_folder(path: Path, *, only: str = "") -> Iterator[Verdict]:
    """Check every recovery point against its event, and every other file by itself.

    Args:
        only: the name of one checkpoint that is there.

    A difference counts only if the recovery point is still one when the journal is read again: an
    engine at work may have retired it.
    """
    there = open_folder(path)
    if there.known is not None:
        doubted = []
        for name, one in there.known.live().items():
            if only not in ("", name):
                continue
            verdict = _verified(there.path_of(name), name, one.state, one, root=there.folder.parent)
            if verdict.problems:
                doubted.append(verdict)
            else:
                yield verdict
        still = read_known(path).live() if doubted else {}
        yield from (verdict for verdict in doubted if verdict.name in still)
    for name in there.orphans:
        state = "file" if there.known is None else "orphan"
        if only not in ("", name):
            continue
        try:
            yield verify_file(there.path_of(name), name=name, state=state)
        except NotFoundError:
            continue  # deleted since it was listed


def _verified(
    path: Path, name: str, state: str, known: KnownCheckpoint | None, *, root: Path | None = None
) -> Verdict:
    problems = [] if known is None or root is None else _object_problems(root, known)
    try:
        checkpoint = read_checkpoint(path)
    except NotFoundError as error:
        if known is None:
            raise
        return Verdict(name, state, (str(error), *problems))
    except StorageError as error:
        return Verdict(name, state, (str(error), *problems))
    if known is not None:
        problems += _differences(checkpoint, known)
    return Verdict(
        name,
        state,
        tuple(problems),
        identity=checkpoint.identity(),
        regions=len(checkpoint.regions),
        data_bytes=checkpoint.data_bytes,
        has_digests=all(chunk.given_digests is not None for chunk in checkpoint.chunks),
    )


def _differences(checkpoint: Checkpoint, known: KnownCheckpoint) -> Iterator[str]:
    metadata = checkpoint.metadata
    recovery = metadata.recovery
    for what, found, told in (
        ("identity", checkpoint.identity(), known.identity),
        ("kernel", metadata.kernel_id, known.kernel_id),
        ("applied sequence", metadata.current_step, known.applied_sequence),
        ("replay_from", recovery and recovery.replay_from, known.applied_sequence + 1),
    ):
        if found != told:
            yield f"its {what} is {found!r}, the journal says {told!r}"


def _object_problems(root: Path, known: KnownCheckpoint) -> list[str]:
    """Return what is wrong with the spec and the code that the kernel is rebuilt with."""
    problems = []
    for what, digest in (("spec", known.spec_digest), ("code", known.code_digest)):
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            problems.append(f"its {what} has no digest but {digest!r}")
            continue
        try:
            data = read_regular(root / "objects" / digest, limit_bytes=MAX_CHECKPOINT_SIZE)
        except StorageError as error:
            problems.append(f"its {what}: {error}")
            continue
        if hashlib.sha256(data).hexdigest() != digest:
            problems.append(f"its {what}, object {digest}, is damaged")
    return problems


def write_array(path: Path, chunk: DataChunk) -> None:
    """Write a chunk's data as ``.npy``, without a copy of it in memory.

    Raises:
        UsageError: ``path`` is a folder.
        StorageError: the place refuses.
    """
    import io

    import numpy as np

    head = io.BytesIO()
    shape = chunk.shape if chunk.dtype else (chunk.size_bytes,)
    described = np.dtype(chunk.dtype or "uint8").newbyteorder("<").str
    np.lib.format.write_array_header_1_0(
        head, {"descr": described, "fortran_order": False, "shape": shape}
    )
    write_file(path, [head.getvalue(), chunk.data])
