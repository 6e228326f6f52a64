"""The engine on GPUs of the stand-in, a test double: the stories of tests/gpu, and more."""

from __future__ import annotations

import pytest

import ringflow
from tests.gpu import stories

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "story",
    [
        stories.works,
        stories.reloads,
        stories.rolls_back,
        stories.checkpoints,
        stories.survives_a_trap,
    ],
    ids=lambda story: story.__name__,
)
async def test_a_kernel_on_a_gpu(engine: ringflow.Engine, story: stories.Story) -> None:
    """It answers, takes new code, is saved, and goes on elsewhere after a trap."""
    await story(engine, "cuda:0")


async def test_a_kernel_moves_between_two_gpus(engine: ringflow.Engine) -> None:
    """By a copy from one to the other, of which the operation tells the path."""
    assert set(await stories.moves(engine, "cuda:0", "cuda:1")) == {"nvlink"}


async def test_a_kernel_moves_to_the_host_and_back(engine: ringflow.Engine) -> None:
    """The host runs clang's code of the same source."""
    assert await stories.moves(engine, "cuda:0", "host:0") == ("host", "host")
