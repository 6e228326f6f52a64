"""The numpy solver against a loop over cells, and against physics."""

from __future__ import annotations

import numpy as np
import pytest

from ringflow.demo.reference import Waves, solve
from ringflow.demo.script import Disturb, Gauge, Step
from ringflow.demo.seafloor import Field, Seafloor, depth_of, make_seafloor, stable_step_s


def basin(elevation: Field) -> Seafloor:
    """Return a small grid of 100 m cells."""
    dt_s = stable_step_s(float(-elevation.min()), 100.0, 100.0)
    return Seafloor(
        elevation=elevation,
        depth=depth_of(elevation),
        dx_m=100.0,
        dy_m=100.0,
        dt_s=dt_s,
        longitude=(0.0, 1.0),
        latitude=(0.0, 1.0),
    )


def flat(ny: int, nx: int) -> Seafloor:
    """Return a basin of 50 m depth."""
    return basin(np.full((ny, nx), -50, np.float32))


def stepped_by_hand(seafloor: Seafloor, height: Field, steps: int) -> Field:
    """Step the closed basin cell by cell, in float64."""
    ny, nx = seafloor.shape
    depth, h = seafloor.depth.astype(float), height.astype(float)
    flux_x, flux_y = np.zeros((ny, nx + 1)), np.zeros((ny + 1, nx))
    rate_x, rate_y = seafloor.dt_s / seafloor.dx_m, seafloor.dt_s / seafloor.dy_m
    for _ in range(steps):
        for j in range(1, ny):
            for i in range(1, nx):
                west, south = min(depth[j, i], depth[j, i - 1]), min(depth[j, i], depth[j - 1, i])
                flux_x[j, i] -= 9.81 * rate_x * west * (h[j, i] - h[j, i - 1])
                flux_y[j, i] -= 9.81 * rate_y * south * (h[j, i] - h[j - 1, i])
        for j in range(ny):
            for i in range(nx):
                h[j, i] -= rate_x * (flux_x[j, i + 1] - flux_x[j, i])
                h[j, i] -= rate_y * (flux_y[j + 1, i] - flux_y[j, i])
    return h.astype(np.float32)


def test_solver_follows_the_scheme_cell_by_cell() -> None:
    """Against plain loops on a basin with an island and a slope."""
    elevation = np.tile(np.linspace(-80, -10, 11, dtype=np.float32), (9, 1))
    elevation[4, 6] = 5
    seafloor = basin(elevation)
    waves = Waves(seafloor)
    waves.disturb(Disturb(3, 4, 2.5, 1.0))
    expected = stepped_by_hand(seafloor, waves.height, 12)
    for _ in range(12):
        waves.step()
    np.testing.assert_allclose(waves.height, expected, atol=2e-6)
    assert np.abs(expected).max() > 0.01


def test_a_closed_basin_keeps_its_water_and_energy() -> None:
    """Volume is kept to rounding; energy stays near its first value for many steps."""
    waves = Waves(flat(24, 30))
    waves.disturb(Disturb(10, 12, 5.0, 1.0))
    volume, energy = float(waves.height.sum(dtype=np.float64)), waves.energy()
    for _ in range(400):
        waves.step()
    assert float(waves.height.sum(dtype=np.float64)) == pytest.approx(volume, rel=1e-5)
    assert waves.energy() == pytest.approx(energy, rel=0.2)


def test_absorbing_edges_take_energy_away_and_the_maximum_stays() -> None:
    """Version 2: the sponge drains the basin, the maximum never falls."""
    waves = Waves(flat(72, 96))
    waves.disturb(Disturb(40, 30, 6.0, 1.0))
    waves.absorb()
    assert waves.maximum is not None
    before, first = waves.energy(), waves.maximum.copy()
    for _ in range(600):
        waves.step()
    assert waves.energy() < 0.5 * before
    assert (waves.maximum >= first).all()
    assert (waves.maximum >= waves.height).all()


def test_solver_changes_at_the_given_message() -> None:
    """One message earlier or later gives another maximum: the comparison would notice."""
    seafloor = make_seafloor(0.05)
    maxima = [solve(seafloor, last_number=60, absorb_at=at).maximum for at in (21, 22, 23)]
    assert maxima[0] is not None
    assert maxima[1] is not None
    assert maxima[2] is not None
    assert not np.array_equal(maxima[0], maxima[1])
    assert not np.array_equal(maxima[1], maxima[2])


def test_questions_change_nothing() -> None:
    """Gauge and Energy read only."""
    from ringflow.demo.reference import apply

    waves = Waves(flat(10, 10))
    apply(waves, Disturb(4, 4, 3.0, 1.0))
    apply(waves, Step(2))
    before = waves.height.copy()
    apply(waves, Gauge(1, 1))
    assert np.array_equal(before, waves.height)
