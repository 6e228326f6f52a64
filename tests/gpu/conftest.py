"""What tests on real GPUs get: devices, and a skip on the one ground that there are too few."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path

import pytest

import ringflow
from ringflow.device.api import Device
from ringflow.device.cuda.probe import probe
from ringflow.device.registry import open_device

MEMORY_BYTES = 256 << 20
found = cache(probe)


def skip_without(count: int) -> None:
    """Skip where there are fewer GPUs; whatever else keeps them from use is a failure."""
    facts = found()
    if facts.is_without_gpu:
        pytest.skip(f"no CUDA device: {facts.missing}")
    if facts.missing:
        pytest.fail(facts.missing)
    if len(facts.gpus) < count:
        pytest.skip(f"no CUDA device beside {facts.gpus[0].model}")


def _opened(name: str) -> Iterator[Device]:
    device = open_device(name, memory_limit_bytes=MEMORY_BYTES)
    yield device
    device.close()


@pytest.fixture
def device() -> Iterator[Device]:
    """The first GPU."""
    skip_without(1)
    yield from _opened("cuda:0")


@pytest.fixture
def second() -> Iterator[Device]:
    """The second GPU."""
    skip_without(2)
    yield from _opened("cuda:1")


@pytest.fixture
def host() -> Iterator[Device]:
    yield from _opened("host:0")


@pytest.fixture
async def engine(
    folder: Path, anyio_backend: str, device: Device, host: Device
) -> AsyncIterator[ringflow.Engine]:
    """An engine on the first GPU and the host."""
    async with ringflow.open_engine(folder, devices=[device, host]) as opened:
        yield opened


@pytest.fixture
async def engine_of_two(
    folder: Path, anyio_backend: str, device: Device, second: Device
) -> AsyncIterator[ringflow.Engine]:
    """An engine on two GPUs."""
    async with ringflow.open_engine(folder, devices=[device, second]) as opened:
        yield opened
