"""Kernels whose grids reach no message boundary, and that no GPU can stop: what an engine loses.

Their memory comes back when they end after all, and nobody else waits for them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import attrs
import pytest

import ringflow
from ringflow.device.cuda import device as cuda
from ringflow.device.cuda.device import CudaDevice
from ringflow.engine import opening
from tests.cuda.engines import BOTH, opened_engine, small
from tests.cuda.kernels import until
from tests.cuda.standin import Standin
from tests.engine.kernels import Add, Total, adder
from tests.engine.story import GATE_OPEN, close_gate, open_gate, send_all
from tests.recovery.crashes import events_of

pytestmark = pytest.mark.anyio
loads_beside = pytest.mark.parametrize("gpus", [{"loads_while_running": True}], indirect=True)
SHORT_S = 0.2
NEVER = ringflow.KernelCodeSource.from_cuda(
    """#include <ringflow.cuh>
extern "C" __global__ void adder(ringflow::control* control, unsigned long long* state,
                                 float* cells, float step) {
    while (*static_cast<volatile unsigned long long*>(&state[3]) == 0) __nanosleep(1000);
}""",
    "adder",
    version_id="never",
)


@pytest.fixture(autouse=True)
def short_aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringflow.device.cuda.launch.ABORT_DEADLINE_S", SHORT_S)


@contextmanager
def short_deadlines(engine: ringflow.Engine) -> Iterator[None]:
    """For what can't meet any."""
    core = engine._core
    usual = core.limits
    core.limits = attrs.evolve(usual, launch_timeout_s=SHORT_S, step_timeout_s=SHORT_S)
    try:
        yield
    finally:
        core.limits = usual


def gpu(engine: ringflow.Engine, name: str = "cuda:0") -> CudaDevice:
    device = engine._core.devices[name]
    assert isinstance(device, CudaDevice)
    return device


def free_of(device: CudaDevice) -> tuple[int, int]:
    return device.free_bytes, device.mapped_free_bytes


def let_go(device: CudaDevice, label: str = "/state") -> None:
    """Open the gates of kernels there, given up or not, and forget the frames of their errors."""
    gc.collect()
    arena = device.memory.arena
    pieces = [*arena._taken.values(), *(piece for piece, _ in arena._held.values())]
    for piece in pieces:
        if piece.label.endswith(label):
            device.staging.copy_in(piece.address + 3 * 8, GATE_OPEN)


async def total_of(kernel: ringflow.KernelHandle) -> int:
    return int((await kernel.call(Total(), timeout_s=60)).array("uint64")[0])


@loads_beside
async def test_a_launch_that_reaches_no_boundary_has_failed(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """Its name is used up, its error says all; memory and code come back once it has ended."""
    other = await engine.launch(adder("other"), device="cuda:0")
    before = free_of(gpu(engine))
    said = r"'never' did not reach a message boundary .* 'never' can't be stopped: .* GPU stops no"
    with short_deadlines(engine), pytest.raises(ringflow.KernelStalledError, match=said):
        await engine.launch(adder("never", code=NEVER), device="cuda:0")
    assert {one.kernel_id: one.state for one in engine.kernels()} == {
        "other": "running",
        "never": "failed",
    }
    assert free_of(gpu(engine)) < before
    with pytest.raises(ringflow.DuplicateKernelError):
        await engine.launch(adder("never"), device="cuda:0")
    await send_all(other, [3])
    assert await total_of(other) == 3
    let_go(gpu(engine))
    until(lambda: free_of(gpu(engine)) == before)
    assert len(gpu(engine).launches.live) == 1


async def test_a_load_beside_a_grid_that_was_given_up_is_refused(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """Where loads need all grids gone: this one is asked for nothing, the others work on."""
    other = await engine.launch(adder("other"), device="cuda:0")
    with short_deadlines(engine), pytest.raises(ringflow.KernelStalledError) as raised:
        await engine.launch(adder("never", code=NEVER), device="cuda:0")
    with pytest.raises(ringflow.DeviceError, match="running kernels") as refused:
        await engine.launch(adder("next"), device="cuda:0")
    assert refused.value.code == "busy"
    assert await total_of(other) == 0
    let_go(gpu(engine))
    until(lambda: len(gpu(engine).launches.live) == 1)
    assert await total_of(await engine.launch(adder("next"), device="cuda:0")) == 0
    assert raised.value.code == "timeout"  # its frames have held the kernel so long


@loads_beside
async def test_new_code_that_reaches_no_boundary_is_given_up(
    engine: ringflow.Engine, gpus: Standin
) -> None:
    """The old code works on; the memory of the new instance comes back once its grid has ended."""
    kernel = await engine.launch(adder(), device="cuda:0")
    await send_all(kernel, [1, 2])
    before = free_of(gpu(engine))
    with short_deadlines(engine), pytest.raises(ringflow.OperationFailedError) as raised:
        await engine.reload("adder", NEVER, probation_messages=0)
    assert raised.value.state == "rolled_back"
    del raised  # its frames hold the operation, and that the new instance
    await send_all(kernel, [3])
    assert await total_of(kernel) == 6
    let_go(gpu(engine), "adder/state")
    until(lambda: free_of(gpu(engine)) == before)


async def leave_with_a_stuck_kernel(folder: Path) -> None:
    """Use an engine on two GPUs of its own, and leave it while a message of a kernel hangs."""
    async with ringflow.open_engine(folder, devices=BOTH) as engine:
        stuck = await engine.launch(adder("stuck"), device="cuda:0")
        for number, name in enumerate(BOTH):
            one = await engine.launch(adder(f"other{number}"), device=name)
            await (await one.send(Add(5 + number))).done()
        await close_gate(engine, stuck)
        engine._core.limits = attrs.evolve(engine._core.limits, step_timeout_s=SHORT_S)


@loads_beside
async def test_a_stuck_kernel_keeps_no_other_from_its_close(
    folder: Path, gpus: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are committed, the end is recorded, all is closed that can be; the block then says so.

    The stuck one is there again when the folder is opened the next time, with its message.
    """
    monkeypatch.setattr(opening, "open_device", small)
    with pytest.raises(ringflow.KernelStalledError, match="'stuck' can't be stopped"):
        await leave_with_a_stuck_kernel(folder)
    (device,) = cuda._open
    assert device.name == "cuda:0"
    assert len(device.launches.live) == 1
    let_go(device, "stuck/state")
    until(lambda: not device.launches.live)
    device.close()
    async with opened_engine(folder, "host:0") as engine:
        assert len(await events_of(engine, "engine.closed.v1")) == 1
        for number in range(2):
            points = engine._core.state.kernels[f"other{number}"].recovery_points
            assert points[-1].applied_sequence == 1
            assert await total_of(engine.kernel(f"other{number}")) == 5 + number
        open_gate(engine, "stuck")
        assert await total_of(engine.kernel("stuck")) == 0


@loads_beside
@pytest.mark.parametrize("ask", ["stop", "rollback"])
async def test_a_kernel_that_obeys_too_late_works_on(
    engine: ringflow.Engine, gpus: Standin, ask: str
) -> None:
    """Its message outlasts the deadline of the request and that of taking it back, twice."""
    kernel = await engine.launch(adder(), device="cuda:0")
    await send_all(kernel, [1, 2])
    await engine.checkpoint("adder", name="early")
    receipt = await close_gate(engine, kernel)
    with short_deadlines(engine):
        for _ in range(2):
            with pytest.raises(ringflow.KernelStalledError):
                await getattr(engine, ask)("adder")
            assert engine.kernels()[0].state == "running"
    await send_all(kernel, [3])
    open_gate(engine)
    with anyio.fail_after(60):
        await receipt.done()
    assert await total_of(kernel) == 6
    await getattr(engine, ask)("adder")
    assert engine.kernels()[0].state == {"stop": "stopped", "rollback": "running"}[ask]
    if ask == "rollback":  # the gate is closed again, and its message comes again
        open_gate(engine)
