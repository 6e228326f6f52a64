"""The demo on GPUs of the stand-in, a test double: small, with the trap that loses one of them."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from ringflow.demo.run import Options, run_demo
from ringflow.errors import UsageError
from tests.cuda.standin import Standin

SCALE, MESSAGES = 0.1, 90
GPUS = ("cuda:0", "cuda:1", "host:0")


@pytest.mark.anyio
@pytest.mark.parametrize("gpus", [{"memcheck": False}], indirect=True)
async def test_the_demo_ends_identical(tmp_path: Path, gpus: Standin) -> None:
    """Out to the other GPU, a reload, a trap that loses it, and on to the host: no bit differs."""
    out = StringIO()
    options = Options(folder=tmp_path, scale=SCALE, message_count=MESSAGES, devices=GPUS)
    verdict = await run_demo(options, Console(file=out, width=200))
    assert verdict.good, out.getvalue()
    assert [row.operation for row in verdict.rows] == [
        "migrate to cuda:1",
        "reload v2",
        "reload v3: rolled back",
        "migrate to host:0",
    ]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        (("cuda:0", "cuda:1"), "a trap takes a GPU along"),
        (("host:0",), "two or three"),
        (("host:0", "host:0"), "different"),
    ],
)
async def test_devices_that_the_story_does_not_fit_are_refused(
    tmp_path: Path, devices: tuple[str, ...], reason: str
) -> None:
    """Before anything is made."""
    options = Options(folder=tmp_path / "demo", scale=SCALE, devices=devices)
    with pytest.raises(UsageError, match=reason):
        await run_demo(options, Console(file=StringIO()))
    assert not (tmp_path / "demo").exists()
