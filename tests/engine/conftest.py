"""Fixtures of the engine's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import ringflow

DEVICES = ("host:0", "host:1")


@pytest.fixture
async def engine(folder: Path, anyio_backend: str) -> AsyncIterator[ringflow.Engine]:
    """An engine with two host devices in a new folder."""
    async with ringflow.open_engine(folder, devices=DEVICES) as opened:
        yield opened
