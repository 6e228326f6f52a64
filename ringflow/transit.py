"""A kernel's state while its kernel is between two places or two codes.

- What is put back is what a storage gave back and the digests have confirmed, never a view of
  memory that may have changed since.
- Digests cover every chunk but clocks and telemetry, which move on in a kernel that rests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

from ringflow.errors import ConflictError, CorruptError, KernelStateError
from ringflow.ports import CheckpointableKernel
from ringflow.statemachines.migration import differing_regions
from ringflow.storage import Checkpoint, CheckpointStorage, ChunkType, DataChunk
from ringflow.storage.api import check_name
from ringflow.workers import in_thread

_MOVES_ON: Final = frozenset({ChunkType.HLC_STATE, ChunkType.TELEMETRY})


@final
class StateInTransit:
    """The state of a kernel that rests, taken once and kept in a storage on its way.

    Attributes:
        name: of the checkpoint in the storage.
        kept: whether the storage may still have it.
        size_bytes: of the state, 0 before it was taken.
        step: sequence of the last message that the state holds.
        digests: SHA-256 (hex) by chunk.
    """

    def __init__(self, storage: CheckpointStorage, kernel_id: str, operation_id: str) -> None:
        self.name = check_name(f"{kernel_id}@{operation_id}")
        self.kept = False
        self.size_bytes = 0
        self.step = 0
        self.digests: Mapping[str, str] = {}
        self._storage = storage
        self._kernel_id = kernel_id
        self._taken: Checkpoint | None = None
        self._stored: Checkpoint | None = None

    @property
    def stored(self) -> Checkpoint:
        """The state as the storage gave it back; only after ``store``."""
        assert self._stored is not None
        return self._stored

    def check_ready(self, kernel: CheckpointableKernel) -> None:
        """Raise ``KernelStateError`` if the kernel is in the middle of something."""
        if not kernel.can_checkpoint():
            raise KernelStateError(self._kernel_id, "busy", "ready for a checkpoint; try later")

    async def take(self, kernel: CheckpointableKernel) -> Mapping[str, str]:
        """Take the state and return its digests; raises ``ConflictError`` for another kernel."""
        taken = await kernel.checkpoint()
        if taken.metadata.kernel_id != self._kernel_id:
            raise ConflictError(
                f"the checkpoint is kernel {taken.metadata.kernel_id!r}'s, not "
                f"{self._kernel_id!r}'s; pass the kernel that the request names"
            )
        self.digests = await digests_of(taken)
        self.step = taken.metadata.current_step
        self.size_bytes = taken.data_bytes
        self._taken = taken
        return self.digests

    async def store(self) -> None:
        """Save the state and load it back; raises ``CorruptError`` if another one comes back."""
        assert self._taken is not None
        self.kept = True  # also where the save fails: it may have come so far
        await self._storage.save(self._taken, self.name)
        stored = await self._storage.load(self.name)
        await self.compare(stored, "the storage gave back another state than it was given")
        self._stored = stored
        self._taken = None

    async def compare(self, checkpoint: Checkpoint, what: str) -> None:
        """Raise ``CorruptError``, beginning with ``what``, if this is not the state taken."""
        differing = differing_regions(self.digests, await digests_of(checkpoint))
        if differing:
            raise CorruptError(f"{what}: {', '.join(differing)} differ; look for what changed them")
        self.check_step(checkpoint)

    def check_step(self, checkpoint: Checkpoint) -> None:
        """Raise ``CorruptError`` if the checkpoint is of another step than the state taken."""
        got = checkpoint.metadata.current_step
        if got != self.step:
            raise CorruptError(
                f"the state is at step {got}, it was taken at {self.step}; restore() must take "
                "over the checkpoint's current_step"
            )

    async def discard(self) -> str:
        """Delete the checkpoint; return why that failed, empty if it did not."""
        try:
            if self.kept and await self._storage.exists(self.name):
                await self._storage.delete(self.name)
            self.kept = False
        except Exception as error:  # a checkpoint left over fails no operation
            return f"checkpoint {self.name!r} is left over: {type(error).__name__}: {error}"
        return ""


def named_chunks(checkpoint: Checkpoint) -> dict[str, DataChunk]:
    """Return the chunks that are state: regions under their names, others under type and name."""
    named: dict[str, DataChunk] = {}
    for index, chunk in enumerate(checkpoint.chunks):
        if chunk.chunk_type in _MOVES_ON:
            continue
        name = chunk.name or str(chunk.chunk_id)
        if chunk.chunk_type != ChunkType.DEVICE_MEMORY:
            name = f"{getattr(chunk.chunk_type, 'name', chunk.chunk_type)}/{name}"
        named[f"{name}#{index}" if name in named else name] = chunk
    return named


async def digests_of(checkpoint: Checkpoint) -> dict[str, str]:
    """Return SHA-256 (hex) by chunk; hashes in a worker thread what isn't hashed yet."""
    return await in_thread(
        lambda: {name: chunk.digest for name, chunk in named_chunks(checkpoint).items()}
    )
