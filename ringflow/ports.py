"""Protocols between the services, the engine, and objects that users bring."""

from __future__ import annotations

from typing import Protocol

from ringflow.storage.checkpoint import Checkpoint


class CheckpointableKernel(Protocol):
    """A kernel whose state can be taken and given back, by ringflow's engine or a user's object.

    Inherit from it to get the defaults of the two methods that have one.
    """

    async def checkpoint(self) -> Checkpoint:
        """Return the whole state at one step; the kernel goes on."""
        ...

    async def restore(self, checkpoint: Checkpoint) -> None:
        """Put a state back in place of the present one; raises if it can't be this kernel's."""
        ...

    def can_checkpoint(self) -> bool:
        """Return ``False`` in the middle of what can't be interrupted."""
        return True

    def checkpoint_size_estimate(self) -> int:
        """Return about how many bytes a checkpoint takes; 0 where nobody knows."""
        return 0
