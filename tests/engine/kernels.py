"""Small persistent kernels for the engine's tests: sums that show every message's effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

import ringflow

FOLDER: Final = Path(__file__).parent / "kernels"


@ringflow.message(1)
class Add:
    value: ringflow.u64


@ringflow.message(2)
class Total:
    pass


@ringflow.message(3)
class Spin:
    """Work for so many rounds before the reply, so that a test can act meanwhile."""

    rounds: ringflow.u64


@ringflow.message(4)
class Trap:
    pass


@ringflow.message(5)
class Hop:
    """Go on along the route until ``left`` is 0."""

    left: ringflow.u64


@ringflow.message(6)
class Wait:
    """Stay in this message, away from any boundary, until the test calls ``open_gate``."""


MESSAGES: Final = (Add, Total, Spin, Trap, Wait)


def code(name: str = "adder_v1") -> ringflow.KernelCodeSource:
    """Return ``kernels/NAME.cu``; its version is its name."""
    source = (FOLDER / f"{name}.cu").read_text(encoding="utf-8")
    return ringflow.KernelCodeSource.from_cuda(source, "adder", version_id=name)


def leaving(where: str) -> ringflow.KernelCodeSource:
    """Return the adder's code, which returns from its loop at a ``Trap``, or after a ``Wait``."""
    source = code().text
    piece = {"Trap": "__trap();", "Wait": "self.sync();\n            break;\n        case Trap"}[
        where
    ]
    assert source.count(piece) == 1
    source = source.replace(piece, piece.replace("__trap()", "return").replace("break", "return"))
    return ringflow.KernelCodeSource.from_cuda(source, "adder", version_id=f"leaving_{where}")


def adder(kernel_id: str = "adder", **changes: Any) -> ringflow.KernelSpec:
    """Return the spec of a kernel that folds numbers into ``state`` and counts in ``log``.

    ``state``: uint64[4]: order-dependent hash, sum, count, gate (see ``Wait``).
    ``cells``: float32[4096].
    """
    options: dict[str, Any] = {
        "kernel_id": kernel_id,
        "kernel_type": "adder",
        "code": code(),
        "messages": MESSAGES,
        "grid": (2, 1, 1),
        "block": (64, 1, 1),
        "regions": (
            ringflow.Region("state", dtype="uint64", shape=(4,)),
            ringflow.Region(
                "cells",
                dtype="float32",
                shape=(4096,),
                initial=np.arange(4096, dtype=np.float32),
            ),
        ),
        "arguments": {"step": np.float32(0.5)},
    }
    return ringflow.KernelSpec(**{**options, **changes})


def relay_code(*, factor: int = 10, trap_at: int = 0) -> ringflow.KernelCodeSource:
    """Return ``kernels/relay.cu`` with another factor, and a trap at a number of the count."""
    source = (FOLDER / "relay.cu").read_text(encoding="utf-8")
    source = source.replace("value * 10", f"value * {factor}")
    if trap_at:
        source = source.replace("state[2] += 1;", f"if (++state[2] == {trap_at}) __trap();")
    version = f"relay_{factor}_{trap_at}"
    return ringflow.KernelCodeSource.from_cuda(source, "relay", version_id=version)


def relay(kernel_id: str, *, copies: int = 1, **changes: Any) -> ringflow.KernelSpec:
    """Return the spec of a kernel that folds numbers and sends each on, ``copies`` times.

    ``state``: uint64[4]: order-dependent hash, sum, count, hops. Number n goes on along the route
    ``next`` as 10 n, 10 n + 1 and so on.
    """
    options: dict[str, Any] = {
        "kernel_id": kernel_id,
        "kernel_type": "relay",
        "code": relay_code(),
        "messages": (Add, Total, Hop, Trap),
        "routes": ("next", ringflow.Route("typed", messages=[Add])),
        "block": (32, 1, 1),
        "regions": (ringflow.Region("state", dtype="uint64", shape=(4,)),),
        "arguments": {"copies": np.uint64(copies)},
        "max_replies": copies + 1,
    }
    return ringflow.KernelSpec(**{**options, **changes})


MASK: Final = (1 << 64) - 1


def expected_state(values: list[int]) -> tuple[int, int, int]:
    """Return hash, sum and count that the kernel must have after these values, in this order."""
    digest = 0
    for value in values:
        digest = (digest * 6364136223846793005 + value + 1442695040888963407) & MASK
    return digest, sum(values) & MASK, len(values)
