"""The script of messages: pure, complete and on the grid."""

from __future__ import annotations

import pytest

from ringflow.demo.script import (
    COMMANDS,
    SECOND_WAVE_AT,
    Disturb,
    Energy,
    Gauge,
    Step,
    command_at,
)
from ringflow.demo.seafloor import make_seafloor, shape_at
from ringflow.errors import UsageError


def test_script_begins_with_a_wave_and_says_everything() -> None:
    """Without a first wave nothing would move; each kind of message occurs."""
    said = [command_at((102, 130), number) for number in range(1, 101)]
    assert isinstance(said[0], Disturb)
    assert isinstance(said[SECOND_WAVE_AT - 1], Disturb)
    assert {type(command) for command in said} == set(COMMANDS)
    assert sum(isinstance(command, Step) for command in said) > 80


def test_script_is_a_function_of_shape_and_number() -> None:
    """Asked again, in any order, it says the same."""
    shape = shape_at(0.3)
    forwards = [command_at(shape, number) for number in range(1, 300)]
    backwards = [command_at(shape, number) for number in range(299, 0, -1)]
    assert forwards == backwards[::-1]


@pytest.mark.parametrize("scale", [0.05, 0.1, 1.0])
def test_waves_and_gauges_are_in_the_water(scale: float) -> None:
    """A wave on land would do nothing, a gauge there would read nothing."""
    seafloor = make_seafloor(scale)
    for number in range(1, 101):
        command = command_at(seafloor.shape, number)
        if isinstance(command, Disturb | Gauge):
            assert seafloor.depth[command.y, command.x] > 10


def test_there_is_no_message_before_the_first() -> None:
    """Numbers start at 1, as sequences do."""
    with pytest.raises(UsageError, match="at least 1"):
        command_at((102, 130), 0)


def test_energy_is_asked_for_now_and_then() -> None:
    """The sums in a fixed order are part of what is compared."""
    assert command_at((102, 130), 25) == Energy()
