"""The soak's kernel: its codes, its spec, and the numbers that its producers send."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import ringflow

CELLS: Final = 1024
FACTORS: Final = (1, 3, 7)
PRODUCERS: Final = ("single", "batches", "steady")
_SOURCE: Final = Path(__file__).with_name("kernel.cu")


@ringflow.message(1)
class Fold:
    value: ringflow.u64


@ringflow.message(2)
class Probe:
    """Changes nothing and is answered with the number of folded values."""


@ringflow.message(3)
class Poison:
    """Traps whichever kernel takes it."""


def code(factor: int, *, trap_at: int = 0) -> ringflow.KernelCodeSource:
    """Return the code with this factor; it traps at its ``trap_at``-th number since its launch."""
    defines = f"#define CELLS {CELLS}\n#define FACTOR {factor}ull\n#define TRAP_AT {trap_at}u\n"
    text = defines + _SOURCE.read_text(encoding="utf-8")
    version = f"trap-{trap_at}" if trap_at else f"factor-{factor}"
    return ringflow.KernelCodeSource.from_cuda(text, "soak", version_id=version)


def factor_of(version_id: str) -> int:
    """Return the factor of a version that does not trap."""
    return int(version_id.removeprefix("factor-"))


def spec(kernel_id: str) -> ringflow.KernelSpec:
    """``state``: uint64[4]: ordered hash, sum, count, unused. ``cells``: float32[CELLS]."""
    return ringflow.KernelSpec(
        kernel_id=kernel_id,
        kernel_type="soak",
        code=code(FACTORS[0]),
        messages=(Fold, Probe, Poison),
        grid=(2, 1, 1),
        block=(64, 1, 1),
        max_replies=2,
        regions=(
            ringflow.Region("state", dtype="uint64", shape=(4,)),
            ringflow.Region("cells", dtype="float32", shape=(CELLS,)),
        ),
        durability="durable",
        replay="exact",
    )


def value_of(producer: str, number: int) -> int:
    """Return what ``producer`` sends as its message ``number``."""
    return (PRODUCERS.index(producer) + 1) * 1_000_003 + number * 7919
