"""Engines on devices of the stand-in with little memory, so that they take no time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ringflow
from tests.cuda.kernels import MAPPED_BYTES, MEMORY_BYTES

BOTH = ("cuda:0", "cuda:1")


def small(name: str) -> Any:
    """Open a device, a GPU with little memory."""
    if name.startswith("host"):
        return ringflow.open_device(name)
    return ringflow.open_device(
        name, memory_limit_bytes=MEMORY_BYTES, mapped_limit_bytes=MAPPED_BYTES
    )


@asynccontextmanager
async def opened_engine(folder: Path, *names: str) -> AsyncIterator[ringflow.Engine]:
    """An engine on devices of its own, which are closed behind it; on both GPUs by default."""
    devices = [small(name) for name in names or BOTH]
    try:
        async with ringflow.open_engine(folder, devices=devices) as engine:
            yield engine
    finally:
        for device in devices:
            device.close()
