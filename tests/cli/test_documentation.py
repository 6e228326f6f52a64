"""``docs/cli.md`` and ``--help``: every command and option is told, and nothing else."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import command

TEXT = (Path(__file__).parent.parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, one in group.commands.items():
        words = f"{before} {name}".strip()
        if hasattr(one, "commands"):
            yield from _commands(one, words)
        else:
            yield words, one


COMMANDS = dict(_commands(command()))
ROWS = {
    cells[0].strip(): [cell.strip() for cell in cells[1:]]
    for cells in (
        line.removeprefix("| `ringflow ").rstrip("|").replace("` |", " |", 1).split(" | ")
        for line in TEXT.splitlines()
        if line.startswith("| `ringflow ")
    )
}


def _options(one: Any) -> set[str]:
    """Return the long form of each option."""
    return {
        next(name for name in parameter.opts if name.startswith("--"))
        for parameter in one.params
        if parameter.param_type_name == "option" and "--help" not in parameter.opts
    }


def test_the_table_has_every_command() -> None:
    assert sorted(ROWS) == sorted(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_row_has_every_option_and_an_example_that_parses(words: str) -> None:
    """The example is parsed as the program would; nothing is run."""
    what, options, example = ROWS[words]
    assert what[0].isupper()
    assert what.endswith(".")
    assert set(re.findall(r"--[a-z-]+", options)) == _options(COMMANDS[words])
    program, *arguments = shlex.split(example.strip("`"))
    assert program == "ringflow"
    assert arguments[: len(words.split())] == words.split()
    one = COMMANDS[words]
    context = one.make_context(words, arguments[len(words.split()) :])
    assert isinstance(context.params, dict)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_and_option_has_a_help_text(words: str) -> None:
    """What --help shows suffices: a sentence for the command, and words for each option."""
    one = COMMANDS[words]
    assert one.help
    assert one.help.splitlines()[0].rstrip().endswith((".", ":", ","))
    for parameter in one.params:
        assert getattr(parameter, "help", ""), f"{words}: {parameter.name} has no help text"


def test_every_group_has_a_help_text() -> None:
    groups = [one for one in command().commands.values() if hasattr(one, "commands")]
    assert len(groups) >= 3
    assert all(group.help for group in groups)
