"""What the demo's producer says: message number k, for every k, as a pure function.

- The same (shape, number) gives the same message in every process and on every resume.
- Numbers start at 1; the kernel takes messages from this producer only, so that a message's number
  is its sequence.
"""

from __future__ import annotations

from typing import Final

import attrs

from ringflow.errors import UsageError
from ringflow.messages import f32, f64, message, u32

PRODUCER: Final = "demo"
STEPS_PER_MESSAGE: Final = 6
GAUGE_EVERY: Final = 10
ENERGY_EVERY: Final = 25
SECOND_WAVE_AT: Final = 40


@message(1)
class Disturb:
    """Lift the water within ``radius`` cells of cell (``x``, ``y``) by up to ``amplitude`` m."""

    x: u32
    y: u32
    radius: f32
    amplitude: f32


@message(2)
class Step:
    """Advance the waves by ``count`` time steps."""

    count: u32


@message(3)
class Gauge:
    """Ask for the height of the water at cell (``x``, ``y``)."""

    x: u32
    y: u32


@message(4)
class Energy:
    """Ask for the waves' energy over the whole sea."""


@message(101)
class Answer:
    """The reply to each of them: the height is that at the gauge or at the last disturbance.

    Energy is in m^3/s^2, summed over the cells; times density and a cell's area it is in joules.
    It is 0 where it was not asked for.
    """

    steps: u32
    height: f32
    energy: f64


Command = Disturb | Step | Gauge | Energy
COMMANDS: Final = (Disturb, Step, Gauge, Energy)


@attrs.frozen
class Place:
    """A cell of the grid, as fractions of its width and height."""

    x: float
    y: float

    def on(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the cell (x, y) on a grid of ``shape`` (ny, nx)."""
        ny, nx = shape
        return int(self.x * nx), int(self.y * ny)


OPEN_SEA: Final = Place(0.10, 0.15)
STRAIT: Final = Place(0.57, 0.63)
GAUGES: Final = (Place(0.12, 0.25), Place(0.61, 0.60))


def command_at(shape: tuple[int, int], number: int) -> Command:
    """Return message ``number`` of the script for a grid of ``shape`` (ny, nx)."""
    if number < 1:
        raise UsageError(f"message number {number} must be at least 1")
    if number in (1, SECOND_WAVE_AT):
        x, y = (OPEN_SEA if number == 1 else STRAIT).on(shape)
        return Disturb(x, y, max(3.0, shape[1] / 50), 2.0)
    if number % ENERGY_EVERY == 0:
        return Energy()
    if number % GAUGE_EVERY == 0:
        return Gauge(*GAUGES[number // GAUGE_EVERY % len(GAUGES)].on(shape))
    return Step(STEPS_PER_MESSAGE)
