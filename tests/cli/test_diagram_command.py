"""Diagrams: every row of every table is an arrow, and the page in docs/ is current."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ringflow.cli import build_app
from ringflow.errors import UsageError
from ringflow.statemachines.diagrams import DRAWINGS, document, mermaid, short_name

PAGE = Path(__file__).parents[2] / "docs" / "machines.md"


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_row_of_the_table_is_drawn(name: str) -> None:
    """Read back from the text: the same (state, event, target) triples, no more."""
    drawing = DRAWINGS[name]
    drawn = set()
    for line in CliRunner().invoke(build_app(), ["diagram", name]).output.splitlines()[2:]:
        arrow, _, events = line.strip().partition(": ")
        source, target = arrow.split(" --> ")
        drawn |= {(source, event, target) for event in events.split(", ")}
    expected = {
        (state.value, short_name(event), target.value)
        for state, row in drawing.transitions.items()
        for event, target in row.items()
    }
    ends = {(state.value, "", "[*]") for state, row in drawing.transitions.items() if not row}
    assert drawn == expected | ends


def test_the_page_is_current(tmp_path: Path) -> None:
    """``ringflow diagram --write docs/machines.md`` has been run since the last change."""
    assert PAGE.read_text(encoding="utf-8") == document()
    page = tmp_path / "page.md"
    assert CliRunner().invoke(build_app(), ["diagram", "--write", str(page)]).exit_code == 0
    assert page.read_text(encoding="utf-8") == document()


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    for arguments in (["diagram", "nothing"], ["diagram"]):
        failure = CliRunner().invoke(build_app(), arguments).exception
        assert isinstance(failure, UsageError)
        assert "lifecycle, migration, reload, snapshot" in str(failure)


def test_a_diagram_starts_where_the_machine_starts() -> None:
    assert mermaid(DRAWINGS["migration"]).splitlines()[1] == "    [*] --> pending"
