"""Devices for the children of a process that has some plugged in.

A child loads the stand-in by ``LD_LIBRARY_PATH``, and its first ``cuInit`` runs ``enter``. At its
orderly end it reports its problems, which are then the parent's too.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.cuda.standin.build import library_path

SETTINGS: Final = "RINGFLOW_STANDIN"
REPORT: Final = "RINGFLOW_STANDIN_REPORT"
CODE: Final = "RINGFLOW_STANDIN_CHILD"
_ROOT: Final = Path(__file__).parents[3]
_OWN: Final = ("faults", "check")


def environment(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return what a child needs to have devices made by these arguments of ``plug``."""
    kept = {name: value for name, value in arguments.items() if name not in _OWN}
    kept["hazards"] = int(kept["hazards"])
    folders = [str(library_path().parent), os.environ.get("LD_LIBRARY_PATH", "")]
    enter = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); import {__name__} as c; c.enter()"
    handle, report = tempfile.mkstemp(prefix="ringflow-standin-")
    os.close(handle)
    return {
        REPORT: report,
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


def take_report(path: str) -> list[str]:
    """Return what the children found, and remove the file."""
    lines = Path(path).read_text().splitlines()
    os.unlink(path)
    return lines


def enter() -> None:
    """Plug in what the parent has; the devices go with this process."""
    from tests.cuda.standin import Hazard, plug

    settings = ast.literal_eval(os.environ[SETTINGS])
    settings["hazards"] = Hazard(settings["hazards"])
    report = os.environ[REPORT]
    stack = contextlib.ExitStack()
    standin = stack.enter_context(plug(**settings, check=False))

    def leave() -> None:
        stack.close()
        if standin.problems:
            with open(report, "a") as file:  # a child's child reports first
                file.writelines(f"in child {os.getpid()}: {text!r}\n" for text in standin.problems)

    atexit.register(leave)
