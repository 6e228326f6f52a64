"""Migrations between GPUs of the stand-in driver: the path is told, wrong bytes are found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import ringflow
from ringflow.device.cuda import peers
from ringflow.events import migration as e
from tests.cuda.engines import opened_engine
from tests.cuda.standin import Fault, FaultKind, Standin
from tests.engine.kernels import Total, adder, expected_state
from tests.engine.story import send_all, state_of

pytestmark = pytest.mark.anyio

VALUES = list(range(20))


@pytest.fixture
async def engine(folder: Path, gpus: Standin, anyio_backend: str) -> AsyncIterator[ringflow.Engine]:
    """An engine on both GPUs, with a kernel on the first that has handled some messages."""
    async with opened_engine(folder) as opened:
        kernel = await opened.launch(adder(), device="cuda:0")
        await send_all(kernel, VALUES)
        yield opened


async def test_the_path_and_the_time_of_a_peer_copy_are_kept(engine: ringflow.Engine) -> None:
    """In the result, in the journal, and for the next estimate."""
    operation = engine.start_migration("adder", to="cuda:1")
    result = await operation.result()
    assert result.path == "nvlink"
    told = [event async for event in operation.events()]
    (transferred,) = [one for one in told if isinstance(one, e.MigrationStateTransferred)]
    assert (transferred.path, transferred.transferred_bytes) == ("nvlink", result.state_bytes)
    assert (await state_of(engine.kernel("adder")))[:3] == expected_state(VALUES)
    await engine.migrate("adder", to="cuda:0")
    estimate = engine.estimate_transfer("adder", to="cuda:1")
    assert estimate is not None
    assert estimate.path == "nvlink"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("cuMemcpyPeerAsync", kind=FaultKind.CORRUPT), "memory differs from the source's"),
        (Fault("cuMemcpyPeerAsync", kind=FaultKind.STALL_WORK), "not ended within 0.2 s"),
        (Fault("cuMemcpyPeerAsync", code=1), "cuMemcpyPeerAsync failed with .*INVALID_VALUE"),
    ],
    ids=["wrong bytes", "stalls", "refused"],
)
async def test_a_failed_peer_copy_leaves_the_kernel_at_work_on_its_source(
    engine: ringflow.Engine,
    gpus: Standin,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    reason: str,
) -> None:
    """One bit that changed on the way, a copy that never ends, one that the driver refuses."""
    gpus.arm(fault)
    with monkeypatch.context() as soon:
        if fault.kind is FaultKind.STALL_WORK:
            soon.setattr(peers, "PIECE_TIMEOUT_S", 0.2)
        with pytest.raises(ringflow.OperationFailedError, match=reason) as raised:
            await engine.migrate("adder", to="cuda:1")
    gpus.release()
    assert raised.value.state == "rolled_back"
    kernel = engine.kernel("adder")
    assert engine.kernels()[0].device == "cuda:0"
    await kernel.call(Total(), timeout_s=30)
    assert (await state_of(kernel))[:3] == expected_state(VALUES)
    assert (await engine.migrate("adder", to="cuda:1")).path == "nvlink"
