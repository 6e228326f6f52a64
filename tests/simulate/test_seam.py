"""The seam: nothing on the engine's way makes threads, reads time or draws chance by itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ringflow"
FOLDERS = ("engine", "journal", "storage", "simulate", "scenario", "events", "statemachines")
MODULES = sorted(path for folder in FOLDERS for path in (PACKAGE / folder).rglob("*.py"))
MAY = {
    # these have another form for worlds: they ask ``workers.turns_taken`` before they make a thread
    "engine/pumping.py": "to_thread",
    "journal/writer.py": "to_thread",
    # no wait: other threads get the interpreter
    "storage/blocks.py": "time.sleep",
}
FORBIDDEN = {
    "to_thread": "workers.in_thread, so that a world decides when it happens",
    "from_thread": "the event loop's own thread",
    "os.urandom": "core.ids",
    "time.time": "core.clock",
    "time.time_ns": "core.clock",
    "time.sleep": "core.clock",
    "uuid.uuid4": "core.ids",
    "random.random": "a seeded Random",
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_what_blocks_or_differs_goes_through_the_seams(path: Path) -> None:
    """One thread, clock or random number outside of them, and worlds of one seed differ."""
    found, may = [], MAY.get(path.relative_to(PACKAGE).as_posix())
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute):
            continue
        for name, instead in FORBIDDEN.items():
            if name != may and name in (node.attr, ast.unparse(node)):
                found.append(f"line {node.lineno}: {ast.unparse(node)}; use {instead}")
    assert not found
