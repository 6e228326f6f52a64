"""The sea floor around Vancouver Island, refined to the demo's grid.

- Row 0 is the south, column 0 the west; the outermost ring of cells is land, so that no flux
  crosses the edge and the kernels need no case for it.
- The refinement is Catmull-Rom in each direction: it goes through the measured heights.
- The same scale gives the same bits in every process: no threads, no linear algebra library.
"""

from __future__ import annotations

import math
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from ringflow.errors import UsageError

ROWS: Final = 1000  # inner cells at scale 1
COLUMNS: Final = 1280  # a multiple of the kernels' block of 256 threads
SCALE_MIN: Final = 0.02
SCALE_MAX: Final = 4.0
GRAVITY: Final = 9.81
COURANT: Final = 0.8  # of the stability limit of forward-backward steps
_METRES_PER_DEGREE: Final = 111_195.0

Field = npt.NDArray[np.float32]


@attrs.frozen(kw_only=True, eq=False)
class Seafloor:
    """The grid of the demo.

    Attributes:
        elevation: float32[ny, nx], metres above the sea, negative under water.
        depth: float32[ny, nx], metres of water, 0 on land and on the outermost ring.
    """

    elevation: Field
    depth: Field
    dx_m: float
    dy_m: float
    dt_s: float
    longitude: tuple[float, float]
    latitude: tuple[float, float]

    @property
    def shape(self) -> tuple[int, int]:
        ny, nx = self.depth.shape
        return ny, nx


def shape_at(scale: float) -> tuple[int, int]:
    """Return (ny, nx) for a scale; raises ``UsageError`` if it is out of bounds."""
    if not SCALE_MIN <= scale <= SCALE_MAX:
        raise UsageError(f"scale {scale} must lie between {SCALE_MIN} and {SCALE_MAX}")
    return round(ROWS * scale) + 2, round(COLUMNS * scale) + 2


def make_seafloor(scale: float) -> Seafloor:
    """Load the measured heights that matplotlib ships and refine them to ``scale``."""
    ny, nx = shape_at(scale)
    heights, longitude, latitude = _load()
    elevation = refine(heights, ny, nx)
    middle = np.deg2rad((latitude[0] + latitude[1]) / 2)
    dx_m = (longitude[1] - longitude[0]) * _METRES_PER_DEGREE * float(np.cos(middle)) / (nx - 1)
    dy_m = (latitude[1] - latitude[0]) * _METRES_PER_DEGREE / (ny - 1)
    return Seafloor(
        elevation=elevation,
        depth=depth_of(elevation),
        dx_m=dx_m,
        dy_m=dy_m,
        dt_s=stable_step_s(float(-elevation.min()), dx_m, dy_m),
        longitude=longitude,
        latitude=latitude,
    )


def depth_of(elevation: Field) -> Field:
    """Return the water's depth, with a ring of land around it."""
    depth = np.zeros_like(elevation)
    depth[1:-1, 1:-1] = np.maximum(-elevation[1:-1, 1:-1], np.float32(0))
    return depth


def stable_step_s(depth_max_m: float, dx_m: float, dy_m: float) -> float:
    """Return the time step that Courant's condition allows over the deepest water, in seconds."""
    return COURANT / math.sqrt(GRAVITY * depth_max_m * (1 / dx_m**2 + 1 / dy_m**2))


def refine(heights: Field, ny: int, nx: int) -> Field:
    """Interpolate float32[rows, columns] to float32[ny, nx]; the corners stay in place."""
    rows = _along_first(heights.astype(np.float64), ny)
    return np.ascontiguousarray(_along_first(rows.T, nx).T, dtype=np.float32)


def _along_first(values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    last = values.shape[0] - 1
    place = np.linspace(0.0, last, count)
    left = np.minimum(place.astype(np.int64), last - 1)
    t = (place - left)[:, None]
    p = [values[np.clip(left + step, 0, last)] for step in (-1, 0, 1, 2)]
    cubic = 2 * p[0] - 5 * p[1] + 4 * p[2] - p[3]
    result: npt.NDArray[np.float64] = p[1] + 0.5 * t * (
        p[2] - p[0] + t * (cubic + t * (3 * (p[1] - p[2]) + p[3] - p[0]))
    )
    return result


def _load() -> tuple[Field, tuple[float, float], tuple[float, float]]:
    try:
        from matplotlib import cbook
    except ModuleNotFoundError as error:
        raise UsageError(
            "the demo's sea floor comes with matplotlib, which is not installed; "
            "run: pip install 'ringflow[demo]'"
        ) from error
    data: Any = np.load(cbook.get_sample_data("topobathy.npz", asfileobj=False))
    longitude, latitude = data["longitude"], data["latitude"]
    west = float(longitude[0]) - 360, float(longitude[-1]) - 360
    return data["topo"], west, (float(latitude[0]), float(latitude[-1]))
