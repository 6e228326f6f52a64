"""The examples of docs/journal.md, run as they stand on an engine with a kernel."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ringflow
from tests.engine import kernels

pytestmark = pytest.mark.anyio
TEXT = (Path(__file__).parents[2] / "docs" / "journal.md").read_text(encoding="utf-8")


def _examples() -> Iterator[str]:
    yield from re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)


async def _run(source: str, names: dict[str, Any]) -> None:
    code = compile(source, "docs/journal.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.iscoroutine(result):
        await result


async def test_the_examples_do_what_the_document_says(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them in order, on one engine."""
    reading, following, projecting, archiving = _examples()
    names: dict[str, Any] = {"folder": folder, "json": json}
    async with ringflow.open_engine(folder) as engine:
        await engine.launch(kernels.adder())
        names |= {"engine": engine, "last": engine.health()["journal"]["durable_sequence"]}
        await _run(following, names)
        assert "kernel.launched.v1" in capsys.readouterr().out
        await _run(projecting, names)
        assert "['adder']" in capsys.readouterr().out
        await _run(archiving, names)
        assert "projection 'launches' has not seen it" in capsys.readouterr().out
    await _run(reading, names)
    assert "KernelLaunched" in capsys.readouterr().out
