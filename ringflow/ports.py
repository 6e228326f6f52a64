"""Protocols between the services, the engine, and objects that users bring.

- A service asks only for ``CheckpointableKernel``; what else an object can do, it finds out by
  ``isinstance``, so a user writes the methods and inherits or not.
- A method that raises has changed nothing that its counterpart can't undo: ``resume`` may follow
  a failed ``quiesce``, ``place`` and ``restore`` on the source a failed one on the target.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ringflow.code_source import KernelCodeSource
from ringflow.results import MigrationResult, ReloadResult
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


@runtime_checkable
class QuiescableKernel(Protocol):
    """A kernel that can be stopped between two messages, and put on another device."""

    async def quiesce(self) -> int:
        """Stop before the next message and return the last one that the state holds.

        When it returns the state doesn't change any more, and messages wait. The number is the
        checkpoint's ``current_step``; 0 where messages are not counted.
        """
        ...

    async def resume(self) -> None:
        """Take messages again, first those that waited; nothing to do if it never stopped.

        When it raises it has taken none.
        """
        ...

    async def place(self, device: str) -> None:
        """Be on ``device`` from here on; ``restore`` brings the state there."""
        ...


@runtime_checkable
class SelfMigratingKernel(Protocol):
    """A kernel whose host migrates it itself, such as an engine's."""

    async def migrate_to(self, device: str, *, actor: str, reason: str) -> MigrationResult:
        """Move to ``device``; when it raises the kernel is where it was."""
        ...


class ReloadableKernel(CheckpointableKernel, Protocol):
    """A kernel whose code can be changed while its object lives."""

    async def drain(self) -> int:
        """Finish or park what is in progress and return the last message that the state holds.

        When it returns the state doesn't change any more, and messages wait; 0 where they are not
        counted.
        """
        ...

    async def swap(self, code: KernelCodeSource) -> None:
        """Run ``code`` from here on, its state fresh; messages go on waiting."""
        ...

    async def resume(self) -> None:
        """Take messages again, first those that waited; nothing to do if it never stopped.

        When it raises it has taken none.
        """
        ...


@runtime_checkable
class SelfReloadingKernel(Protocol):
    """A kernel whose host reloads it itself, such as an engine's."""

    async def reload_to(self, code: KernelCodeSource, *, actor: str, reason: str) -> ReloadResult:
        """Change the code, the state kept; when it raises the old code works as before."""
        ...
