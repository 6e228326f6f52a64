"""The demo's kernels: their sources, and the spec of the first version.

- The sources are in ``examples/shallow_water`` of a checkout and beside this module in a wheel.
- A region's order here is its order among the kernel's parameters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from ringflow.code_source import KernelCodeSource
from ringflow.demo.script import COMMANDS
from ringflow.demo.seafloor import GRAVITY, Seafloor
from ringflow.errors import NotFoundError
from ringflow.spec import KernelSpec, Region

KERNEL_ID: Final = "waves"
ENTRY_POINT: Final = "waves"
CONVERT: Final = "convert_v1_to_v2"
BLOCKS: Final = 8
THREADS: Final = 256  # part of the order of the energy's sum
_FOLDERS: Final = (
    Path(__file__).parent / "shallow_water",
    Path(__file__).parents[2] / "examples" / "shallow_water",
)


def source_path(version: str) -> Path:
    """Return the CUDA file of version ``"v1"``, ``"v2"`` or ``"v3"``."""
    for folder in _FOLDERS:
        path = folder / f"waves_{version}.cu"
        if path.is_file():
            return path
    looked = " nor in ".join(str(folder) for folder in _FOLDERS)
    raise NotFoundError(f"waves_{version}.cu is neither in {looked}; reinstall ringflow")


def code(version: str) -> KernelCodeSource:
    """Return the code of version ``"v1"``, ``"v2"`` or ``"v3"``; the version is its id."""
    text = source_path(version).read_text(encoding="utf-8")
    return KernelCodeSource.from_cuda(text, ENTRY_POINT, version_id=version)


def first_regions(seafloor: Seafloor) -> tuple[Region, ...]:
    """Return version 1's regions: water at rest over the sea floor."""
    ny, nx = seafloor.shape
    progress = np.array([0, 0, ny, nx], dtype=np.uint32)  # steps, watched cell, rows, columns
    return (
        Region("height", dtype="float32", shape=(ny, nx)),
        Region("flux_x", dtype="float32", shape=(ny, nx)),
        Region("flux_y", dtype="float32", shape=(ny, nx)),
        Region("depth", dtype="float32", shape=(ny, nx), initial=seafloor.depth),
        Region("progress", dtype="uint32", shape=(4,), initial=progress),
        Region("row_energy", dtype="float64", shape=(ny,)),
    )


def second_regions(seafloor: Seafloor) -> tuple[Region, ...]:
    """Return the regions of versions 2 and 3; ``convert_v1_to_v2`` fills the last one."""
    maximum = Region("maximum", dtype="float32", shape=seafloor.shape)
    return (*first_regions(seafloor), maximum)


def scheme(seafloor: Seafloor) -> dict[str, np.float32]:
    """Return the scheme's factors: g dt/dx, g dt/dy, dt/dx, dt/dy."""
    rate_x, rate_y = seafloor.dt_s / seafloor.dx_m, seafloor.dt_s / seafloor.dy_m
    return {
        "slope_x": np.float32(GRAVITY * rate_x),
        "slope_y": np.float32(GRAVITY * rate_y),
        "rate_x": np.float32(rate_x),
        "rate_y": np.float32(rate_y),
    }


def first_spec(seafloor: Seafloor) -> KernelSpec:
    """Return the spec with which the demo launches version 1."""
    ny, nx = seafloor.shape
    return KernelSpec(
        kernel_id=KERNEL_ID,
        kernel_type="shallow_water",
        code=code("v1"),
        messages=COMMANDS,
        grid=(BLOCKS, 1, 1),
        block=(THREADS, 1, 1),
        regions=first_regions(seafloor),
        arguments={"ny": np.uint32(ny), "nx": np.uint32(nx), **scheme(seafloor)},
        durability="durable",
        replay="exact",
    )
