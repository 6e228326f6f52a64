"""The contract of devices, held by real GPUs."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from ringflow.device.abi import Command, KernelState
from ringflow.device.api import Device, Launch, LaunchStatus
from ringflow.device.compiler.api import compile_source
from ringflow.device.cuda.device import CudaDevice
from ringflow.errors import DeviceError
from tests.device import test_contract as contract
from tests.device.kernels import resident

DEADLINE_S = 30.0
PROMISES = [test for name, test in vars(contract).items() if name.startswith("test_")]
ALONE = [test for test in PROMISES if "peer" not in inspect.signature(test).parameters]
TOGETHER = [test for test in PROMISES if "peer" in inspect.signature(test).parameters]
BITS = """
extern "C" __global__ void bits(float* values, unsigned length) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= length) return;
    float x = 1.0f / (1.0f + i), y = x;
    for (int k = 0; k < 50; ++k) {
        y = y * 0.75f + x * x;
        x = sqrtf(x + y) - y / (x + 3.0f);
    }
    values[i] = x + fmaf(x, y, 1e-30f);
}
"""

BESIDE = """
extern "C" __global__ void waits(volatile unsigned* word, unsigned* out) {
    while (!*word) __nanosleep(1000);
}
extern "C" __global__ void shares(volatile unsigned* word, unsigned* out) {
    extern __shared__ unsigned own[];
    own[threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (!threadIdx.x) *out = own[blockDim.x - 1];
}
"""


@pytest.mark.gpu
@pytest.mark.parametrize("promise", ALONE, ids=lambda test: test.__name__[5:])
def test_a_gpu_keeps_the_contract(device: Device, promise: Callable[..., None]) -> None:
    """What every device promises."""
    promise(device)


@pytest.mark.gpu
@pytest.mark.parametrize("promise", TOGETHER, ids=lambda test: test.__name__[5:])
def test_a_gpu_and_the_host_keep_the_contract(
    device: Device, host: Device, promise: Callable[..., None]
) -> None:
    """What two devices of two kinds promise."""
    promise(device, host)


@pytest.mark.multigpu
@pytest.mark.parametrize("promise", TOGETHER, ids=lambda test: test.__name__[5:])
def test_two_gpus_keep_the_contract(
    device: Device, second: Device, promise: Callable[..., None]
) -> None:
    """What two GPUs promise."""
    promise(device, second)


def bits_of(device: Device, length: int = 2_000) -> bytes:
    """Return what arithmetic that rounds at each step gives on a device."""
    code = device.load(compile_source(BITS, entry_point="bits", target=device.target, cache=None))
    values = device.allocate(4 * length, label="values")
    launch = device.launch(
        code,
        "bits",
        grid=(-(-length // 128), 1, 1),
        block=(128, 1, 1),
        parameters=(values.address.to_bytes(8, "little"), length.to_bytes(4, "little")),
    )
    assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    data = bytes(device.copy_out(values))
    device.free(values)
    device.unload(code)
    return data


@pytest.mark.gpu
def test_a_gpu_computes_the_same_bits_as_the_host(device: Device, host: Device) -> None:
    """No fused multiplications, exact divisions and roots: nothing is left to differ."""
    assert bits_of(device) == bits_of(host)


@pytest.mark.gpu
def test_a_kernel_that_never_answers_leaves_the_others_at_work(device: Device) -> None:
    """Its launch fails within the deadline, and what ran before answers on."""
    working = resident(device, "echo")
    working.launch(gate_open=True, timeout_s=DEADLINE_S)
    silent = resident(device, "silent")
    with pytest.raises(DeviceError):
        silent.launch(gate_open=True, timeout_s=1.0)
    state = working.await_generation(working.command(Command.HOLD), DEADLINE_S)
    assert state is KernelState.HELD
    working.command(Command.RETURN)
    assert working.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
    working.close()
    silent.close()


@pytest.mark.gpu
def test_a_block_of_much_shared_memory_starts_beside_small_ones(device: Device) -> None:
    """A block lives on every SM, so the split of its memory is that of the first kernel."""
    assert isinstance(device, CudaDevice)
    code = device.load(
        compile_source(BESIDE, entry_point="waits", target=device.target, cache=None)
    )
    word, out = (device.allocate(4, label=name) for name in ("word", "out"))
    limits = device.context.attributes

    def launched(entry_point: str, blocks: int, shared_bytes: int) -> Launch:
        return device.launch(
            code,
            entry_point,
            grid=(blocks, 1, 1),
            block=(32, 1, 1),
            parameters=tuple(one.address.to_bytes(8, "little") for one in (word, out)),
            dynamic_shared_bytes=shared_bytes,
        )

    small = launched("waits", limits.sm_count, 0)
    try:
        large = launched("shares", 1, min(100 << 10, limits.max_shared_bytes))
        assert large.wait(DEADLINE_S) is LaunchStatus.COMPLETED
        assert small.status is LaunchStatus.RUNNING
        assert bytes(device.copy_out(out)) == (31).to_bytes(4, "little")
    finally:
        device.copy_in(word, (1).to_bytes(4, "little"))
    assert small.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    for allocation in (word, out):
        device.free(allocation)
    device.unload(code)
