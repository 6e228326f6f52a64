"""An independent solver of the same scheme in numpy, to hold the kernels' result against.

- Same scheme, same order of operations, float32 throughout; nothing is shared with the kernels but
  the sea floor and the script.
- ``Waves`` may be stepped with the edges of version 1 or 2; ``solve`` changes at a given message.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ringflow.demo.kernels import scheme
from ringflow.demo.script import Command, Disturb, Step, command_at
from ringflow.demo.seafloor import GRAVITY, Field, Seafloor

SPONGE_STRENGTH: Final = np.float32(0.08)
SPONGE_SHARE: Final = 24
_ONE: Final = np.float32(1)


class Waves:
    """Water over a sea floor, at rest at first.

    Attributes:
        height: float32[ny, nx], metres.
        maximum: float32[ny, nx], the greatest height since ``absorb``; ``None`` before it.
    """

    def __init__(self, seafloor: Seafloor) -> None:
        ny, nx = seafloor.shape
        self.height: Field = np.zeros((ny, nx), np.float32)
        self.maximum: Field | None = None
        self._flux_x, self._flux_y = np.zeros_like(self.height), np.zeros_like(self.height)
        self._depth = depth = seafloor.depth
        self._west = np.minimum(depth[1:-1, 1:-1], depth[1:-1, :-2])
        self._south = np.minimum(depth[1:-1, 1:-1], depth[:-2, 1:-1])
        factors = scheme(seafloor)
        self._push_x = factors["slope_x"] * self._west
        self._push_y = factors["slope_y"] * self._south
        self._rate_x, self._rate_y = factors["rate_x"], factors["rate_y"]
        self._kept: Field | None = None
        self._work = np.empty_like(self._west), np.empty_like(self._west)

    def absorb(self) -> None:
        """Go on as version 2 does: absorbing edges, and a running maximum."""
        ny, nx = self.height.shape
        inverse = _ONE / np.float32(nx // SPONGE_SHARE)
        rows, columns = _kept(ny, inverse), _kept(nx, inverse)
        self._kept = rows[1:-1, None] * columns[None, 1:-1]
        self.maximum = self.height.copy()

    def disturb(self, wave: Disturb) -> None:
        """Lift the water around a cell, on wet cells only."""
        ny, nx = self.height.shape
        y = np.arange(ny, dtype=np.float32)[:, None] - np.float32(wave.y)
        x = np.arange(nx, dtype=np.float32)[None, :] - np.float32(wave.x)
        radius = np.float32(wave.radius)
        bump = _ONE - (x * x + y * y) / (radius * radius)
        lift = np.float32(wave.amplitude) * bump * bump
        self.height += np.where((bump > 0) & (self._depth > 0), lift, np.float32(0))
        if self.maximum is not None:
            np.maximum(self.maximum, self.height, out=self.maximum)

    def step(self) -> None:
        """Advance by one time step, without allocating."""
        height, flux_x, flux_y = self.height, self._flux_x, self._flux_y
        here, first, second = height[1:-1, 1:-1], *self._work
        for flux, push, behind in (
            (flux_x[1:-1, 1:-1], self._push_x, height[1:-1, :-2]),
            (flux_y[1:-1, 1:-1], self._push_y, height[:-2, 1:-1]),
        ):
            np.subtract(here, behind, out=first)
            np.multiply(first, push, out=first)
            np.subtract(flux, first, out=flux)
            if self._kept is not None:
                np.multiply(flux, self._kept, out=flux)
        np.subtract(flux_x[1:-1, 2:], flux_x[1:-1, 1:-1], out=first)
        np.multiply(first, self._rate_x, out=first)
        np.subtract(flux_y[2:, 1:-1], flux_y[1:-1, 1:-1], out=second)
        np.multiply(second, self._rate_y, out=second)
        np.add(first, second, out=first)
        np.subtract(here, first, out=here)
        if self._kept is not None and self.maximum is not None:
            np.multiply(here, self._kept, out=here)
            inner = self.maximum[1:-1, 1:-1]
            np.maximum(inner, here, out=inner)

    def energy(self) -> float:
        """Return kinetic and potential energy in m^3/s^2, summed over the cells in float64."""
        inner = np.s_[1:-1, 1:-1]
        height = self.height[inner].astype(np.float64)
        total = float(np.sum(GRAVITY * height * height))
        for flux, depth in ((self._flux_x, self._west), (self._flux_y, self._south)):
            wet = depth > 0
            total += float(np.sum(np.square(flux[inner][wet], dtype=np.float64) / depth[wet]))
        return 0.5 * total


def _kept(count: int, inverse_width: np.float32) -> Field:
    place = np.arange(count)
    edge = np.minimum(place, count - 1 - place).astype(np.float32)
    inside = np.maximum(_ONE - edge * inverse_width, np.float32(0))
    kept: Field = _ONE - SPONGE_STRENGTH * inside * inside
    return kept


def apply(waves: Waves, command: Command) -> None:
    """Let the solver handle one message of the script."""
    if isinstance(command, Disturb):
        waves.disturb(command)
    elif isinstance(command, Step):
        for _ in range(command.count):
            waves.step()


def solve(seafloor: Seafloor, *, last_number: int, absorb_at: int | None) -> Waves:
    """Run the script's messages 1 to ``last_number``.

    Args:
        absorb_at: the first message that version 2 handles; ``None`` for version 1 throughout.
    """
    waves = Waves(seafloor)
    for number in range(1, last_number + 1):
        if number == absorb_at:
            waves.absorb()
        apply(waves, command_at(seafloor.shape, number))
    return waves
