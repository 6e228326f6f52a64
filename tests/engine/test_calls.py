"""Calls while the journal fails: an answer comes at once, and it is the truth."""

from __future__ import annotations

import errno
from pathlib import Path

import anyio
import pytest

import ringflow
from ringflow.errors import EngineClosedError, JournalClosedError, OutcomeUnknownError
from ringflow.simulate.files import CrashingFiles
from tests.engine.kernels import Total, adder

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("call", ["write", "datasync"])
async def test_a_call_whose_record_fails_has_an_unknown_outcome(call: str) -> None:
    """It ends with the failure, not with its deadline; later calls are refused."""
    files = CrashingFiles()
    async with ringflow.open_engine(Path("/engine"), devices=["host:0"], files=files) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await kernel.call(Total(), timeout_s=20.0)
        files.fail(call, at=1, error=OSError(errno.EIO, "broken"))
        with anyio.fail_after(20), pytest.raises(OutcomeUnknownError, match="broken"):
            await kernel.call(Total(), timeout_s=600.0)
        with pytest.raises((EngineClosedError, JournalClosedError)):
            await kernel.call(Total(), timeout_s=20.0)
