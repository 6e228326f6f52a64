"""The engine on real GPUs: the same stories that run on doubles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ringflow
from tests.engine.kernels import Add, adder, expected_state
from tests.engine.story import state_of
from tests.gpu import stories
from tests.gpu.child import TRAPPING
from tests.gpu.conftest import skip_without

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
MESSAGES, BATCH = 10_000, 500


@pytest.mark.gpu
@pytest.mark.parametrize(
    "story",
    [stories.works, stories.reloads, stories.checkpoints],
    ids=lambda story: story.__name__,
)
async def test_a_kernel_on_a_gpu(engine: ringflow.Engine, story: stories.Story) -> None:
    """It answers, takes new code, and is saved, as on any device."""
    await story(engine, "cuda:0")


@pytest.mark.gpu
@pytest.mark.parametrize("story", TRAPPING)
def test_a_kernel_that_traps_takes_its_gpu_along(
    folder: Path, story: str, anyio_backend: str
) -> None:
    """It goes on elsewhere, from its recovery point and its messages."""
    skip_without(1)
    command = [sys.executable, "-m", "tests.gpu.child", story, anyio_backend, str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("told to its end\n")


@pytest.mark.gpu
async def test_a_kernel_moves_to_the_host_and_back(engine: ringflow.Engine) -> None:
    """The host runs clang's code of the same source, on the same bits."""
    assert await stories.moves(engine, "cuda:0", "host:0") == ("host", "host")


@pytest.mark.multigpu
async def test_a_kernel_moves_between_two_gpus(engine_of_two: ringflow.Engine) -> None:
    """The path that its state took is told, whichever the machine has."""
    paths = await stories.moves(engine_of_two, "cuda:0", "cuda:1")
    assert set(paths) <= {"nvlink", "pcie peer", "staged"}


@pytest.mark.gpu
async def test_many_messages_come_once_and_in_order(engine: ringflow.Engine) -> None:
    """Through mapped memory, where a missing fence would show sooner or later."""
    kernel = await engine.launch(adder(), device="cuda:0")
    for first in range(0, MESSAGES, BATCH):
        rows = np.zeros(BATCH, np.dtype([("value", "<u8")]))
        rows["value"] = range(first, first + BATCH)
        await kernel.send_many(Add, rows)
    assert (await state_of(kernel))[:3] == expected_state(list(range(MESSAGES)))
