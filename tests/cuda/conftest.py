"""Fixtures of the CUDA device's tests: GPUs of the stand-in, which is a test double."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import ringflow
from tests.cuda.engines import BOTH, opened_engine
from tests.cuda.standin import Standin, plug


@pytest.fixture
def gpus(request: pytest.FixtureRequest) -> Iterator[Standin]:
    """Two devices of the stand-in, or as ``@pytest.mark.parametrize("gpus", [{...}])`` says."""
    with plug(**getattr(request, "param", {})) as standin:
        yield standin


@pytest.fixture
async def engine(folder: Path, gpus: Standin, anyio_backend: str) -> AsyncIterator[ringflow.Engine]:
    """An engine on two GPUs and the host."""
    async with opened_engine(folder, *BOTH, "host:0") as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_device_outlives_its_test() -> Iterator[None]:
    """What a failed test has left open is forgotten, so that it fails no other one."""
    yield
    from ringflow.device import parking
    from ringflow.device.cuda import device, peers

    parking._lots.clear()
    for member in tuple(peers.shared_peers()._members):
        peers.shared_peers().leave(member)
    for left in tuple(device._open):
        device._open.discard(left)
        left.launches.close()


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's own settings: the library sets others before it starts CUDA."""
    for name in ("CUDA_MODULE_LOADING", "CUDA_DEVICE_MAX_CONNECTIONS"):
        monkeypatch.delenv(name, raising=False)
