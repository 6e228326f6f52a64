"""What ``import ringflow`` gives, and what it must not load."""

from __future__ import annotations
import __future__

import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import ringflow

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).with_name("public_surface.txt")
HEAVY = ("numpy", "llvmlite", "cuda", "ziglang", "matplotlib", "typer", "rich", "trio", "aiofiles")


def test_the_public_names_are_the_listed_ones() -> None:
    """A name that users may write is added or removed knowingly, with a line in the changelog."""
    assert LIST.read_text().splitlines() == sorted(ringflow.__all__)
    assert len(set(ringflow.__all__)) == len(ringflow.__all__)


def test_every_public_name_is_there_and_no_other() -> None:
    """``from ringflow import *`` works, and nothing public hides outside of ``__all__``."""
    assert all(hasattr(ringflow, name) for name in ringflow.__all__)
    others = {
        name
        for name, value in vars(ringflow).items()
        if not name.startswith("_") and not isinstance(value, ModuleType | __future__._Feature)
    }
    assert others <= set(ringflow.__all__)


def test_every_public_class_and_function_has_a_docstring() -> None:
    """What a user can reach says what it is."""
    public = {name: getattr(ringflow, name) for name in ringflow.__all__}
    written = {name: one for name, one in public.items() if isinstance(one, type | FunctionType)}
    assert len(written) > 50
    bare = [name for name, one in written.items() if not one.__doc__]
    assert not [name for name in bare if not name.endswith("Error")]


def test_importing_ringflow_loads_nothing_heavy() -> None:
    """A service that only looks at a journal pays for no compiler, no driver and no numpy."""
    program = (
        "import sys, ringflow; [getattr(ringflow, name) for name in ringflow.__all__]; "
        f"print(*(set({HEAVY!r}) & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.stdout.split(), done.stderr, done.returncode) == ([], "", 0)
