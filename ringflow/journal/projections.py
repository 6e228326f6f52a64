"""Projections: what a program folds from a journal, stored together with how far it came.

- State and position are stored in one step, so that after a crash each record is in the state
  exactly once, however often it was applied before.
- What is stored names the last record that it holds by its hash: the state of another journal, or
  of a later one than this, is refused.
- Only durable records are applied, in order, by one task.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, Protocol, final

import anyio
import attrs
import orjson

from ringflow.errors import ConflictError, CorruptError, NotFoundError, UsageError
from ringflow.events.chain import seal, unseal
from ringflow.events.values import canonical_json
from ringflow.files import FileSystem, SystemFiles, ensure_folder, write_atomic
from ringflow.journal.api import Journal, Record, Subscription
from ringflow.journal.selection import Streams, Types
from ringflow.workers import in_thread

PROJECTION_FOLDER: Final = "projections"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FORMAT: Final = "ringflow-projection-1"


class Projection(Protocol):
    """A fold that a program writes; all calls are made by one task, none may block for long.

    Attributes:
        name: of its stored state; letters, digits, ``.``, ``_`` and ``-``.
        version: of its code; a stored state of another version is built anew.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    def apply(self, record: Record) -> None:
        """Take the next record in; what it raises ends the projection, nothing is stored."""

    def dump(self) -> bytes:
        """Return the state."""

    def load(self, state: bytes | None) -> None:
        """Start with what ``dump`` returned, or from nothing if None."""


@attrs.frozen(kw_only=True)
class StoredProjection:
    """A projection's state and its place, stored in one step.

    Attributes:
        position: every record up to this sequence is in the state, or was not asked for.
        sequence, hash: of the last record that was applied; 0 and empty for none.
    """

    version: int
    position: int
    sequence: int
    hash: str
    state: bytes


class ProjectionStore(Protocol):
    """Where projections are stored; calls block, and are made in worker threads.

    A database that gets the state's effects and the position in one transaction makes the effects
    exactly once, too.
    """

    def load(self, name: str) -> StoredProjection | None:
        """Return what was saved last, None for nothing; raises ``CorruptError``."""

    def save(self, name: str, stored: StoredProjection) -> None:
        """Replace what is stored, all of it or nothing; durable on return."""


@final
class FileProjections:
    """``ProjectionStore`` in the folder ``projections`` of an engine's folder."""

    def __init__(self, root: Path | str, *, files: FileSystem | None = None) -> None:
        self._files = files or SystemFiles()
        self._folder = Path(root) / PROJECTION_FOLDER

    def load(self, name: str) -> StoredProjection | None:
        path = self._path(name)
        try:
            body, _ = unseal(self._files.read(path).removesuffix(b"\n"))
            return _stored(orjson.loads(body))
        except NotFoundError:
            return None
        except (CorruptError, KeyError, TypeError, ValueError) as error:
            raise CorruptError(
                f"projection {str(path)!r} is damaged ({error}); delete it, it is then built anew"
            ) from error

    def save(self, name: str, stored: StoredProjection) -> None:
        plain = {
            "format": _FORMAT,
            "hash": stored.hash,
            "position": stored.position,
            "seq": stored.sequence,
            "state": base64.b64encode(stored.state).decode("ascii"),
            "version": stored.version,
        }
        line, _ = seal(canonical_json(plain))
        ensure_folder(self._files, self._folder)
        write_atomic(self._files, self._path(name), [line])

    def positions(self) -> Mapping[str, int]:
        """Return how far each stored projection came; raises ``CorruptError``."""
        names = [name.removesuffix(".json") for name in self._files.names(self._folder)]
        found = {name: self.load(name) for name in names if _NAME.fullmatch(name)}
        return {name: stored.position for name, stored in found.items() if stored}

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} can't name a projection; use letters, digits, '.', '_' and '-'"
            )

        return self._folder / f"{name}.json"


def _stored(plain: Mapping[str, object]) -> StoredProjection:
    version, position, sequence = plain["version"], plain["position"], plain["seq"]
    digest, state = plain["hash"], plain["state"]
    if plain["format"] != _FORMAT:
        raise ValueError(f"format {plain['format']!r} is not {_FORMAT!r}")
    if type(version) is not int or type(position) is not int or type(sequence) is not int:
        raise ValueError("a number is none")
    if type(digest) is not str or type(state) is not str:
        raise ValueError("a text is none")
    return StoredProjection(
        version=version,
        position=position,
        sequence=sequence,
        hash=digest,
        state=base64.b64decode(state, validate=True),
    )


@final
class RunningProjection:
    """A projection at work; made by ``projecting``."""

    def __init__(self) -> None:
        self._position = 0
        self._moved = anyio.Event()

    @property
    def position(self) -> int:
        """Every record up to this sequence is in the state, or was not asked for."""
        return self._position

    async def until(self, sequence: int) -> None:
        """Wait until the state holds everything up to ``sequence``."""
        while self._position < sequence:
            await self._moved.wait()

    def move(self, position: int) -> None:
        if position != self._position:
            self._position = position
            self._moved.set()
            self._moved = anyio.Event()


@asynccontextmanager
async def projecting(
    journal: Journal,
    projection: Projection,
    store: ProjectionStore,
    *,
    streams: Streams = None,
    types: Types = None,
    every_records: int = 1000,
) -> AsyncIterator[RunningProjection]:
    """Keep ``projection`` up to date for the block: first the history, then live.

    Args:
        streams, types: the records that it gets, as for ``journal.records``.
        every_records: so many applied records after the last time it is stored, and at the end.
    Raises:
        ConflictError: what is stored is of another journal.
        ArchivedError: it needs records that were archived.
        CorruptError: what is stored is damaged.
    """
    follower = _Follower(journal, projection, store, every_records)
    await follower.begin()
    subscribed = journal.subscribe(
        from_sequence=follower.running.position + 1, streams=streams, types=types
    )
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follower.follow, subscribed, tasks.cancel_scope)
        try:
            yield follower.running
        except Exception as error:  # raised below as it is, not wrapped in a group
            failure = error
        tasks.cancel_scope.cancel()
    if follower.failure is not None:
        raise follower.failure
    with anyio.CancelScope(shield=True):
        await follower.save()
    if failure is not None:
        raise failure


@final
class _Follower:
    def __init__(
        self, journal: Journal, projection: Projection, store: ProjectionStore, every_records: int
    ) -> None:
        self._journal = journal
        self._projection = projection
        self._store = store
        self._every_records = every_records
        self._stored: StoredProjection | None = None
        self._last = (0, "")
        self._applied = 0
        self.running = RunningProjection()
        self.failure: Exception | None = None

    async def begin(self) -> None:
        """Load what is stored, if it is of this code and of this journal."""
        stored = await in_thread(partial(self._store.load, self._projection.name))
        if stored is None or stored.version != self._projection.version:
            self._projection.load(None)
            return
        await in_thread(partial(self._check, stored))
        self._projection.load(stored.state)
        self._stored, self._last = stored, (stored.sequence, stored.hash)
        self.running.move(stored.position)

    def _check(self, stored: StoredProjection) -> None:
        """Raise ``ConflictError`` unless the journal holds the last record that was applied."""
        name, sequence = self._projection.name, stored.sequence
        base = self._journal.base
        known = max(sequence, stored.position) <= self._journal.durable_sequence
        if known and sequence > (base.place.sequence if base else 0):
            (record,) = self._journal.read(sequence, sequence)
            known = record.hash == stored.hash
        if not known:
            raise ConflictError(
                f"projection {name!r} is of another journal, or of a later copy of this one; "
                "delete what is stored and it is built anew"
            )

    async def follow(
        self, subscribed: AbstractAsyncContextManager[Subscription], scope: anyio.CancelScope
    ) -> None:
        try:
            async with subscribed as records:
                async for record in records:
                    self._projection.apply(record)
                    self._last = (record.sequence, record.hash)
                    self._applied += 1
                    if self._applied >= self._every_records:
                        await self.save(records.position)
                    self.running.move(records.position)
        except Exception as error:
            self.failure = error
            scope.cancel()

    async def save(self, position: int | None = None) -> None:
        """Store state and position in one step, unless that is what is stored."""
        sequence, digest = self._last
        state = StoredProjection(
            version=self._projection.version,
            position=self.running.position if position is None else position,
            sequence=sequence,
            hash=digest,
            state=self._projection.dump(),
        )
        if state != self._stored:
            await in_thread(partial(self._store.save, self._projection.name, state))
            self._stored = state
        self._applied = 0
