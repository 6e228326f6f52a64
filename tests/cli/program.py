"""The program in this process, as a shell sees it."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import pytest
import typer.main

import ringflow.cli


@cache
def command() -> Any:
    """Return the whole program; it is built once, since that takes longer than most commands."""
    return typer.main.get_command(ringflow.cli.build_app())


def program(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    """Return exit code, output and errors of one run of ``ringflow``."""
    code: object = 0
    built = command()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ringflow", *map(str, arguments)])
        patch.setattr(ringflow.cli, "build_app", lambda: built)
        try:
            ringflow.cli.main()
        except SystemExit as error:
            code = error.code or 0
    return (code, *capsys.readouterr())
