"""The protocols that users implement, tried on objects as users write them."""

from __future__ import annotations

import numpy as np
import pytest

from ringflow.ports import CheckpointableKernel
from ringflow.storage import Checkpoint, CheckpointBuilder, CheckpointStorage, MemoryStorage

pytestmark = pytest.mark.anyio


class Counter(CheckpointableKernel):
    """A user's own object: its whole state is one number."""

    def __init__(self) -> None:
        self.count = 0

    async def checkpoint(self) -> Checkpoint:
        state = np.array([self.count], np.int64)
        builder = CheckpointBuilder("counter", "count").step(self.count)
        return builder.device_memory("count", state, dtype="int64", shape=state.shape).build()

    async def restore(self, checkpoint: Checkpoint) -> None:
        region = checkpoint.get_device_memory("count")
        if region is None:
            raise ValueError("this is no counter's checkpoint")
        self.count = int(region.numpy()[0])


async def move(
    source: CheckpointableKernel, target: CheckpointableKernel, storage: CheckpointStorage
) -> None:
    await storage.save(await source.checkpoint(), "moved")
    await target.restore(await storage.load("moved"))


async def test_state_moves_between_two_objects_of_the_users() -> None:
    """checkpoint, save, load and restore carry a state from one object to another."""
    source, target = Counter(), Counter()
    source.count = 41
    await move(source, target, MemoryStorage())
    assert target.count == 41


async def test_defaults_say_always_possible_and_size_unknown() -> None:
    """A kernel that says nothing else can be checkpointed at any time."""
    assert Counter().can_checkpoint()
    assert Counter().checkpoint_size_estimate() == 0
