"""A kernel that takes and gives arrays, and what its state must be."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

import ringflow
from ringflow.device.native import native
from tests.engine.kernels import MASK

SOURCE: Final = Path(__file__).parent / "kernels" / "arrays.cu"
MIB: Final = 1 << 20


@ringflow.message(1)
class Fold:
    salt: ringflow.u64


@ringflow.message(2)
class Mirror:
    pass


@ringflow.message(3)
class Wait:
    """Wait for the latch."""


@ringflow.message(4)
class Ask:
    pass


def code(version: str = "v1") -> ringflow.KernelCodeSource:
    source = SOURCE.read_text(encoding="utf-8") + f"// {version}\n"
    return ringflow.KernelCodeSource.from_cuda(source, "arrays", version_id=version)


def arrays(kernel_id: str = "arrays", **changes: Any) -> ringflow.KernelSpec:
    """Return the spec: ``state`` is uint64[2], a hash and a count; ``latch`` lets a Wait go."""
    options: dict[str, Any] = {
        "kernel_id": kernel_id,
        "kernel_type": "arrays",
        "code": code(),
        "messages": (Fold, Mirror, Wait, Ask),
        "grid": (2, 1, 1),
        "block": (64, 1, 1),
        "regions": (
            ringflow.Region("state", dtype="uint64", shape=(2,)),
            ringflow.Region("latch", dtype="uint32", shape=(1,)),
        ),
        "bulk_bytes": MIB,
        "max_reply_data_bytes": MIB,
        "reply_bulk_bytes": 4 * MIB,
    }
    return ringflow.KernelSpec(**{**options, **changes})


def data_of(number: int, size_bytes: int) -> bytes:
    """Return bytes that differ for each number."""
    return np.random.default_rng(number).bytes(size_bytes)


def folded(messages: Iterable[tuple[int, bytes]]) -> int:
    """Return the hash after Folds of these salts and arrays."""
    digest = 0
    for salt, data in messages:
        values = np.frombuffer(data, np.uint8).astype(np.uint64)
        weighted = int((values * np.arange(1, len(data) + 1, dtype=np.uint64)).sum())
        digest = (digest * 6364136223846793005 + salt + weighted) & MASK
    return digest


def unlatch(engine: ringflow.Engine, kernel_id: str = "arrays") -> None:
    """Let the Waits of a kernel that runs go on."""
    resident = engine._core.runtimes[kernel_id].instance.resident
    resident.write_region("latch", (1).to_bytes(4, "little"))
    native().ring_workers(native().room)  # nobody else tells a sleeping worker


async def hash_of(kernel: ringflow.KernelHandle) -> int:
    """Return the kernel's hash after every message that was sent."""
    return int((await kernel.call(Ask(), timeout_s=60)).array("uint64")[0])
