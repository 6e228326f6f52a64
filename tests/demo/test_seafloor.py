"""The sea floor: refined, bounded by land, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from ringflow.demo.seafloor import depth_of, make_seafloor, refine, shape_at, stable_step_s
from ringflow.errors import UsageError


def test_refinement_goes_through_the_measured_heights() -> None:
    """Every measured height is found again on a grid that contains its place."""
    heights = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
    fine = refine(heights, 4 * 3 + 1, 6 * 2 + 1)
    assert fine.dtype == np.float32
    np.testing.assert_allclose(fine[::3, ::2], heights, rtol=1e-6)


def test_refinement_keeps_a_plane() -> None:
    """A slope is refined to the same slope away from the borders."""
    y, x = np.mgrid[0:6, 0:8].astype(np.float32)
    fine = refine(3 * x - 2 * y + 1, 51, 71)
    fine_y, fine_x = np.mgrid[0:51, 0:71] / 10
    inner = np.s_[10:-10, 10:-10]
    np.testing.assert_allclose(fine[inner], (3 * fine_x - 2 * fine_y + 1)[inner], atol=1e-5)


def test_depth_is_zero_on_land_and_around_the_grid() -> None:
    """Hills have no depth, and neither has the outermost ring, wet or not."""
    elevation = np.full((4, 5), -7, np.float32)
    elevation[1, 2] = 3
    depth = depth_of(elevation)
    assert depth[1, 1] == 7
    assert depth[1, 2] == 0
    assert not depth[[0, -1]].any()
    assert not depth[:, [0, -1]].any()


def test_same_scale_gives_the_same_bits() -> None:
    """A resumed demo must find the very sea floor that it began with."""
    first, second = make_seafloor(0.1), make_seafloor(0.1)
    assert first.depth.tobytes() == second.depth.tobytes()
    assert first.dt_s == second.dt_s


def test_the_real_sea_floor_is_as_documented() -> None:
    """About 1,000 x 1,300 cells, both coasts and the deep sea, cells nearly square."""
    assert shape_at(1.0) == (1002, 1282)
    seafloor = make_seafloor(0.1)
    assert seafloor.shape == (102, 130)
    assert 0.3 < float(np.mean(seafloor.depth > 0)) < 0.5
    assert 1000 < float(seafloor.depth.max()) < 1500
    assert seafloor.dx_m == pytest.approx(seafloor.dy_m, rel=0.1)


def test_time_step_obeys_courant() -> None:
    """The fastest wave crosses less than a cell's diagonal share in a step."""
    dt_s = stable_step_s(1000.0, 200.0, 200.0)
    speed = (9.81 * 1000.0) ** 0.5
    assert 0.5 < dt_s * speed * (2 / 200.0**2) ** 0.5 < 1


@pytest.mark.parametrize("scale", [0.0, -1.0, 0.001, 100.0, float("nan")])
def test_scale_out_of_bounds_is_refused(scale: float) -> None:
    """A scale that would give no grid or one that fits nowhere is the caller's error."""
    with pytest.raises(UsageError, match="scale"):
        make_seafloor(scale)
