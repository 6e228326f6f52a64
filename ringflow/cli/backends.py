"""The event loops that commands run on: asyncio, or trio where it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

from ringflow.errors import UsageError

T = TypeVar("T")


class Backend(StrEnum):
    ASYNCIO = "asyncio"
    TRIO = "trio"


def run(work: Callable[[], Awaitable[T]], backend: Backend) -> T:
    """Run ``work`` on an event loop of its own; raises ``UsageError`` where there is no such."""
    import anyio

    try:
        importlib.import_module(backend)
    except ImportError as error:
        raise UsageError(
            f"--backend {backend}: it can't be imported ({error}); pip install {backend}, "
            "or leave --backend away"
        ) from error
    return anyio.run(work, backend=backend)
