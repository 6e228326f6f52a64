"""Digests of device memory by a kernel: xxh3-128 of each 64 KiB block, read where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DIGEST_ENTRY_POINT: Final = "ringflow_digest_blocks"

_SOURCE: Final = Path(__file__).with_name("digests.cu")


def digest_source() -> str:
    """Return the kernel's CUDA C++."""
    return _SOURCE.read_text(encoding="utf-8")
