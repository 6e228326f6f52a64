"""What every device promises, whatever it is made of; each implementation runs all of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import pytest
import xxhash

from ringflow.device.abi import Command
from ringflow.device.api import Device, LaunchStatus
from ringflow.device.compiler.api import compile_source
from ringflow.device.host.device import HostDevice
from ringflow.device.posting import Posting
from ringflow.device.pump import Pump
from ringflow.device.registry import open_device
from ringflow.errors import DeviceError, DeviceMemoryError, EntryPointError
from tests.cuda.standin import plug
from tests.device.kernels import resident

DEADLINE_S = 30.0
MEMORY_BYTES = 64 << 20
WORK_NS = 2_000_000
PATHS = ("host", "nvlink", "pcie peer", "staged")
SCALE = """
extern "C" __global__ void scale(float* values, float factor, unsigned length) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < length) values[i] *= factor;
}
extern "C" __global__ void reversed(unsigned* values) {
    extern __shared__ unsigned shared[];
    shared[threadIdx.x] = values[threadIdx.x];
    __syncthreads();
    values[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}
"""


@pytest.fixture(params=["workers", "deterministic", "cuda"])
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """What the devices are made of; GPUs are those of the stand-in driver, a test double."""
    if request.param != "cuda":
        yield request.param
        return
    with plug():
        yield request.param


def opened(kind: str, number: int) -> Device:
    return open_device(
        f"{'cuda' if kind == 'cuda' else 'host'}:{number}",
        memory_limit_bytes=MEMORY_BYTES,
        deterministic_seed=5 if kind == "deterministic" else None,
    )


@pytest.fixture
def device(kind: str) -> Iterator[Device]:
    made = opened(kind, 0)
    yield made
    made.close()


@pytest.fixture
def peer(kind: str) -> Iterator[Device]:
    made = opened(kind, 1)
    yield made
    made.close()


def test_identity(device: Device, peer: Device) -> None:
    """Two devices have two names and two UUIDs, and the same device has the same again."""
    assert device.name != peer.name
    assert device.uuid != peer.uuid
    again = open_device(device.name)
    assert again.uuid == device.uuid
    again.close()


def test_allocations_are_zeroed_aligned_and_accounted(device: Device) -> None:
    """Free bytes fall by what is taken and rise by what is given back."""
    before = device.free_bytes
    made = [device.allocate(size, label=f"a{size}") for size in (1, 1000, 1 << 20)]
    assert all(allocation.address % 128 == 0 for allocation in made)
    assert all(not any(device.copy_out(allocation)) for allocation in made)
    assert device.free_bytes <= before - sum(a.size_bytes for a in made)
    device.copy_in(made[1], b"\xff" * 1000)
    for allocation in made:
        device.free(allocation)
    assert device.free_bytes == before
    assert not any(device.copy_out(device.allocate(1000, label="again")))


def test_exhaustion_is_an_error_and_takes_nothing(device: Device) -> None:
    """The error says how much was wanted and how much there is."""
    kept = device.allocate(1 << 20, label="kept")
    free = device.free_bytes
    with pytest.raises(DeviceMemoryError) as raised:
        device.allocate(free + 1, label="too much")
    assert (raised.value.wanted_bytes, raised.value.free_bytes) == (free + 1, free)
    assert device.free_bytes == free
    device.free(kept)


def test_freeing_twice_is_refused(device: Device) -> None:
    """A second free, or another device's memory, changes nothing."""
    allocation = device.allocate(64, label="once")
    device.free(allocation)
    with pytest.raises(DeviceError):
        device.free(allocation)


def test_copies_hit_their_range_and_no_other(device: Device) -> None:
    """In and out at an offset; past the end is an error and changes nothing."""
    allocation = device.allocate(1000, label="range")
    device.copy_in(allocation, b"abc", offset_bytes=500)
    data = bytes(device.copy_out(allocation))
    assert data == bytes(500) + b"abc" + bytes(497)
    assert bytes(device.copy_out(allocation, offset_bytes=499, size_bytes=3)) == b"\0ab"
    for offset_bytes in (998, 1000, -1):
        with pytest.raises(DeviceError):
            device.copy_in(allocation, b"xyz", offset_bytes=offset_bytes)
    with pytest.raises(DeviceError):
        device.copy_out(allocation, offset_bytes=999, size_bytes=2)
    assert bytes(device.copy_out(allocation)) == data


def test_copied_out_memory_is_a_copy(device: Device) -> None:
    """What was read doesn't change with the device's memory."""
    allocation = device.allocate(8, label="copy")
    before = device.copy_out(allocation)
    device.copy_in(allocation, b"12345678")
    assert bytes(before) == bytes(8)


def test_view_is_the_memory_itself_or_nothing(device: Device) -> None:
    """Where there is a view, writing to it is writing to the device."""
    allocation = device.allocate(8, label="view")
    view = device.view(allocation)
    if view is not None:
        view[:] = b"12345678"
        assert bytes(device.copy_out(allocation)) == b"12345678"


def test_peer_copy_says_its_path(device: Device, peer: Device) -> None:
    """All bytes arrive; sizes that differ are refused."""
    data = np.random.default_rng(7).bytes(200_000)
    source, target = device.allocate(200_000, label="s"), peer.allocate(200_000, label="t")
    device.copy_in(source, data)
    assert device.copy_to_peer(source, peer, target) in PATHS
    assert bytes(peer.copy_out(target)) == data
    with pytest.raises(DeviceError):
        device.copy_to_peer(source, peer, peer.allocate(1000, label="short"))


def test_copy_within_a_device(device: Device) -> None:
    """A device is a peer of its own: reloads copy regions from old code's to new code's."""
    data = np.random.default_rng(9).bytes(100_001)
    source, target = (device.allocate(len(data), label=label) for label in "st")
    device.copy_in(source, data)
    assert device.copy_to_peer(source, device, target) in (*PATHS, "device")
    assert bytes(device.copy_out(target)) == data


def test_digests_are_those_of_the_memory(device: Device) -> None:
    """xxh3-128 of each 64 KiB block, the last one shorter; one bit changes one digest."""
    data = bytearray(np.random.default_rng(8).bytes(3 * 65536 + 100))
    allocation = device.allocate(len(data), label="digest")
    device.copy_in(allocation, data)
    expected = b"".join(
        xxhash.xxh3_128_digest(data[start : start + 65536]) for start in range(0, len(data), 65536)
    )
    assert device.digest_blocks(allocation) == expected
    device.copy_in(allocation, bytes([data[70000] ^ 1]), offset_bytes=70000)
    changed = device.digest_blocks(allocation)
    assert [i for i in range(4) if changed[16 * i :][:16] != expected[16 * i :][:16]] == [1]


def test_plain_kernel_runs_to_its_end(device: Device) -> None:
    """Parameters of several sizes, a grid of several blocks, a ragged end."""
    code = device.load(compile_source(SCALE, entry_point="scale", target=device.target, cache=None))
    assert code.parameter_sizes["scale"] == (8, 4, 4)
    values = np.arange(1000, dtype=np.float32)
    allocation = device.allocate(values.nbytes, label="values")
    device.copy_in(allocation, values.tobytes())
    launch = device.launch(
        code,
        "scale",
        grid=(4, 1, 1),
        block=(256, 1, 1),
        parameters=(
            allocation.address.to_bytes(8, "little"),
            np.float32(3).tobytes(),
            np.uint32(999).tobytes(),
        ),
    )
    assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    values[:999] *= 3
    assert np.array_equal(np.frombuffer(device.copy_out(allocation), np.float32), values)
    device.unload(code)


def test_dynamic_shared_memory(device: Device) -> None:
    """A launch gets the shared memory that it asks for."""
    code = device.load(
        compile_source(SCALE, entry_point="reversed", target=device.target, cache=None)
    )
    allocation = device.allocate(4 * 64, label="values")
    device.copy_in(allocation, np.arange(64, dtype=np.uint32).tobytes())
    launch = device.launch(
        code,
        "reversed",
        grid=(1, 1, 1),
        block=(64, 1, 1),
        parameters=(allocation.address.to_bytes(8, "little"),),
        dynamic_shared_bytes=4 * 64,
    )
    assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    got = np.frombuffer(device.copy_out(allocation), np.uint32)
    assert np.array_equal(got, np.arange(64)[::-1])


def test_wrong_entry_point_or_parameters_are_refused(device: Device) -> None:
    """Nothing is launched with parameters that the kernel doesn't take."""
    code = device.load(compile_source(SCALE, entry_point="scale", target=device.target, cache=None))
    for entry_point, parameters in (
        ("scal", ()),
        ("scale", (bytes(8),)),
        ("scale", (bytes(8),) * 3),
    ):
        with pytest.raises(EntryPointError):
            device.launch(code, entry_point, grid=(1, 1, 1), block=(1, 1, 1), parameters=parameters)


def test_device_with_a_live_launch_is_not_closed(device: Device) -> None:
    """Closing under a running kernel would pull its memory away."""
    kernel = resident(device, "echo")
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    with pytest.raises(DeviceError, match="running"):
        device.close()
    kernel.close()


def clock_ns(device: Device) -> int:
    """Return the time that goes on at the speed of the device's clock."""
    if isinstance(device, HostDevice) and device.stepping is not None:
        return device.virtual_time_ns
    return time.monotonic_ns()


def test_a_kernels_clock_measures_its_work_and_no_idle_time(device: Device) -> None:
    """What it spent in messages, over two launches; the time around them bounds it."""
    pump = Pump()
    worked_ns = around_ns = busy_ns = 0
    with contextlib.closing(resident(device, "timed")) as kernel:
        pump.register(kernel)
        kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
        for last in (3, 6, 9):
            began_ns = clock_ns(device)
            work = WORK_NS.to_bytes(8, "little")
            kernel.post([Posting(last - i, 1, work) for i in (2, 1, 0)])
            done = 0
            while done < last:
                for report in pump.wait(DEADLINE_S):
                    done, busy_ns = report.done_sequence, report.busy_ns
                    times = [int.from_bytes(out.payload, "little") for out in report.outputs]
                    worked_ns += sum(times)
            around_ns += clock_ns(device) - began_ns
            assert last * WORK_NS <= worked_ns <= busy_ns <= around_ns
            if last == 6:
                kernel.command(Command.RETURN)
                assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
                kernel.relaunch(base_sequence=last, epoch=2, gate_open=True, timeout_s=DEADLINE_S)
            pump.wait(0.05)  # the kernel is idle
        assert kernel.busy_ns == busy_ns


def test_closed_kernel_gives_all_memory_back(device: Device) -> None:
    """Regions, workspace, control block and rings: all of it, also when a piece didn't fit."""
    free = device.free_bytes
    kernel = resident(device, "counter")
    assert device.free_bytes < free
    kernel.close()
    assert device.free_bytes == free
    ballast = device.allocate(free - 1024, label="ballast")
    with pytest.raises(DeviceMemoryError):
        resident(device, "counter")
    assert device.free_bytes == 1024
    device.free(ballast)
