"""Messages that follow each other become one command, and no other ones do."""

from __future__ import annotations

import pytest

from ringflow.scenario.recorded_runs import as_one, is_run


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["send a Total"], "send a Total"),
        (["send a Total", "send a Total"], "send a Total count=2"),
        (["send a Add value=7", "send a Add value=8"], "send a Add value=7.. count=2"),
        (
            [f"send a Add value=5 producer=p number={number}" for number in (3, 4, 5)],
            "send a Add value=5 producer=p number=3 count=3",
        ),
        (
            [f"send a Add value={n} producer=p number={n}" for n in (9, 10)],
            "send a Add value=9.. producer=p number=9 count=2",
        ),
    ],
)
def test_a_run_is_one_command(lines: list[str], said: str) -> None:
    """Equal messages, values that count up, and a producer's numbers, which do so by themselves."""
    assert is_run(lines)
    assert as_one(lines) == said


@pytest.mark.parametrize(
    "lines",
    [
        ["send a Total", "send b Total"],
        ["send a Add value=7", "send a Add value=9"],
        ["send a Add value=7", "send a Add value=7", "send a Add value=8"],
        ["send a Add value=1.5", "send a Add value=2.5"],
        ["send a Add bytes=06", "send a Add bytes=07"],
        ["send a Add value=1", "send a Add"],
        ["send a Add producer=p number=3", "send a Add producer=p number=3"],
        ["send a Add producer=p number=3", "send a Add producer=p number=5"],
    ],
)
def test_what_is_no_run_stays_apart(lines: list[str]) -> None:
    assert not is_run(lines)
