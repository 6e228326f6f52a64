"""Devices for the children of a process that has some plugged in.

A child loads the stand-in by ``LD_LIBRARY_PATH``, and its first ``cuInit`` runs ``enter``.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.cuda.standin.build import library_path

SETTINGS: Final = "RINGFLOW_STANDIN"
CODE: Final = "RINGFLOW_STANDIN_CHILD"
_ROOT: Final = Path(__file__).parents[3]
_OWN: Final = ("faults", "check")


def environment(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return what a child needs to have devices made by these arguments of ``plug``."""
    kept = {name: value for name, value in arguments.items() if name not in _OWN}
    kept["hazards"] = int(kept["hazards"])
    folders = [str(library_path().parent), os.environ.get("LD_LIBRARY_PATH", "")]
    enter = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); import {__name__} as c; c.enter()"
    return {
        SETTINGS: repr(kept),
        CODE: enter,
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, folders)),
    }


@contextlib.contextmanager
def environ(given: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment for the block."""
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def enter() -> None:
    """Plug in what the parent has; the devices go with this process, whose problems are printed."""
    from tests.cuda.standin import Hazard, plug

    settings = ast.literal_eval(os.environ[SETTINGS])
    settings["hazards"] = Hazard(settings["hazards"])
    stack = contextlib.ExitStack()
    standin = stack.enter_context(plug(**settings, check=False))

    def leave() -> None:
        stack.close()
        print(*standin.problems, sep="\n", end="", file=sys.stderr)

    atexit.register(leave)
