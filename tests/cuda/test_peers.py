"""Copies between GPUs of the stand-in driver: their path, their pieces, and what goes wrong."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest

from ringflow.device.api import Allocation, Device
from ringflow.device.cuda import driver, memory_kernels, peers, staging
from ringflow.device.cuda.device import CudaDevice
from ringflow.device.cuda.peers import shared_peers
from ringflow.device.cuda.unfinished import Unfinished
from ringflow.device.registry import open_device
from ringflow.errors import DeviceError, DeviceLostError
from ringflow.storage.blocks import block_digests
from tests.cuda.kernels import until
from tests.cuda.standin import Fault, FaultKind, Standin
from tests.device.kernels import resident

DATA = np.random.default_rng(3).bytes(1_000_003)
DEADLINE_S = 30.0
PIECE_BYTES = 256 << 10
REFUSED = 900  # as in any thread while another one captures a graph
ONE_SM = {"sm_count": 1}

Open = Callable[[str], CudaDevice]


@pytest.fixture
def opened(gpus: Standin) -> Iterator[Open]:
    """Give a function that opens a device; all are closed at the end, the last one first."""
    with ExitStack() as stack:

        def open_one(name: str) -> CudaDevice:
            made = CudaDevice(name, memory_limit_bytes=16 << 20, mapped_limit_bytes=8 << 20)
            stack.callback(made.close)
            return made

        yield open_one


def filled(device: Device, data: bytes = DATA) -> Allocation:
    made = device.allocate(len(data), label="source")
    device.copy_in(made, data)
    return made


def copied(source: Device, target: Device) -> str:
    """Copy ``DATA`` from one device to another and look at it there; return the path."""
    there = target.allocate(len(DATA), label="target")
    path = source.copy_to_peer(filled(source), target, there)
    assert bytes(target.copy_out(there)) == DATA
    assert target.digest_blocks(there) == block_digests(DATA)
    return path


def pieces(gpus: Standin) -> list[int]:
    """Return which GPU made each piece of the copies so far."""
    return [call.ordinal for call in gpus.calls("cuMemcpyPeerAsync")]


# Paths


def test_reachable_gpus_copy_by_themselves(gpus: Standin, opened: Open) -> None:
    """Native atomics are the only sign of NVLink without an NVML; both ways, by the source."""
    first, second = opened("cuda:0"), opened("cuda:1")
    assert copied(first, second) == copied(second, first) == "nvlink"
    assert pieces(gpus) == [0, 1]


def test_nvml_says_that_it_is_pcie(
    gpus: Standin, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML has the last word on what the link is."""
    nvml = SimpleNamespace(
        NVML_P2P_CAPS_INDEX_NVLINK=2,
        NVML_P2P_STATUS_OK=0,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetP2PStatus=lambda one, other, index: 5,
        nvmlDeviceGetTopologyCommonAncestor=lambda one, other: 10,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert copied(opened("cuda:0"), opened("cuda:1")) == "pcie peer"
    assert len(pieces(gpus)) == 1


@pytest.mark.parametrize("gpus", [{"peer_access": False}], indirect=True)
def test_gpus_that_cannot_reach_each_other_are_staged(gpus: Standin, opened: Open) -> None:
    """The driver takes the bytes through the host; the path says so.

    What it makes for its first copy each way it has made at the opening, while no kernel ran.
    """
    first, second = opened("cuda:0"), opened("cuda:1")
    assert [(call.ordinal, call.code, call.live) for call in gpus.calls("cuMemcpyPeerAsync")] == [
        (1, 0, 0),
        (0, 0, 0),
    ]
    assert copied(first, second) == "staged"
    assert gpus.calls("cuCtxEnablePeerAccess") == []


@pytest.mark.parametrize("gpus", [{"peer_access": [(1, 0)]}], indirect=True)
def test_the_gpu_that_reaches_the_other_makes_the_copy(gpus: Standin, opened: Open) -> None:
    """Access one way is enough for copies both ways."""
    first, second = opened("cuda:0"), opened("cuda:1")
    assert copied(first, second) == copied(second, first) == "nvlink"
    assert pieces(gpus) == [1, 1]


def test_host_and_gpu_exchange_memory(gpus: Standin, opened: Open) -> None:
    """Through pinned buffers, in steps that don't need the whole region on the host."""
    host, gpu = open_device("host:0"), opened("cuda:0")
    assert copied(gpu, host) == copied(host, gpu) == "host"
    assert pieces(gpus) == []
    host.close()


def test_a_copy_goes_in_pieces(
    gpus: Standin, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each at its place, the last one shorter; at most two are awaited for at a time."""
    monkeypatch.setattr(peers, "PIECE_BYTES", PIECE_BYTES)
    assert copied(opened("cuda:0"), opened("cuda:1")) == "nvlink"
    assert len(pieces(gpus)) == 4
    issued = 0
    names = [call.name for call in gpus.calls("cuMemcpyPeerAsync", "cuEventQuery", "cuEventRecord")]
    for name in names[names.index("cuMemcpyPeerAsync") :]:
        issued = issued + 1 if name == "cuMemcpyPeerAsync" else issued
        if name == "cuEventQuery":
            break
    assert issued == 2


# Access


def test_access_is_opened_with_the_second_device_and_once(gpus: Standin, opened: Open) -> None:
    """Both ways, by the opening of the second one; a third opening of a GPU adds nothing."""
    opened("cuda:0")
    assert gpus.calls("cuCtxEnablePeerAccess") == []
    opened("cuda:1")
    opened("cuda:1")
    calls = gpus.calls("cuCtxEnablePeerAccess")
    assert sorted((call.ordinal, call.code) for call in calls) == [(0, 0), (1, 0)]


def test_access_that_is_there_already_is_no_error(gpus: Standin, opened: Open) -> None:
    """Another library has enabled it: the driver answers 704."""
    first = opened("cuda:0")
    device = driver.call("cuDeviceGet", 1)
    other = driver.call("cuDevicePrimaryCtxRetain", device)
    with first.context.current():
        driver.call("cuCtxEnablePeerAccess", other, 0)
    assert copied(first, opened("cuda:1")) == "nvlink"
    assert [call.code for call in gpus.calls("cuCtxEnablePeerAccess")].count(704) == 1
    assert pieces(gpus) == [0], "the first one can reach the second"
    driver.call("cuDevicePrimaryCtxRelease", device)


@pytest.mark.parametrize("code", [711, 217])
def test_access_that_is_refused_leaves_staging(gpus: Standin, opened: Open, code: int) -> None:
    """Too many peers, or not between these two after all: copies go on, and it is told why."""
    first = opened("cuda:0")
    gpus.arm(*[Fault("cuCtxEnablePeerAccess", code=code)] * 2)
    second = opened("cuda:1")
    assert copied(first, second) == "staged"
    link = shared_peers().link(first.context, second.context)
    assert "cuCtxEnablePeerAccess" in link.unknown


def test_no_access_is_opened_beside_a_running_kernel(gpus: Standin, opened: Open) -> None:
    """It would wait for the kernel, for ever: copies are staged, and the reason says what to do."""
    first = opened("cuda:0")
    kernel = resident(first, "echo")
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    second = opened("cuda:1")
    assert gpus.calls("cuCtxEnablePeerAccess") == []
    assert copied(first, second) == "staged"
    assert "before the first launch" in shared_peers().link(first.context, second.context).unknown
    kernel.close()


def test_access_that_waited_is_opened_with_one_of_the_two(gpus: Standin, opened: Open) -> None:
    """Whichever is closed and opened again while no kernel runs on either."""
    first = opened("cuda:0")
    kernel = resident(first, "echo")
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    second = CudaDevice("cuda:1", memory_limit_bytes=4 << 20)
    kernel.close()
    assert copied(first, second) == "staged"
    second.close()
    assert copied(first, opened("cuda:1")) == "nvlink"


def test_access_is_opened_anew_after_a_device_was_closed(gpus: Standin) -> None:
    """Access goes with the context: it is not taken for granted when the GPU is opened again."""
    for _ in range(2):
        first, second = (CudaDevice(f"cuda:{i}", memory_limit_bytes=4 << 20) for i in (0, 1))
        assert copied(first, second) == "nvlink"
        for device in (second, first):
            device.close()
    assert len(gpus.calls("cuCtxEnablePeerAccess")) == 4


# Beside grids that fill the GPU


@pytest.mark.parametrize("gpus", [ONE_SM], indirect=True)
def test_all_goes_on_beside_a_grid_that_fills_the_gpu(gpus: Standin, opened: Open) -> None:
    """What needs an SM is staged instead: it would never begin, and hold up what comes after it."""
    first, second = opened("cuda:0"), opened("cuda:1")
    source = filled(first)
    within, there = (d.allocate(len(DATA), label="target") for d in (first, second))
    code = resident(first, "echo")
    blocks = first.grid_that_fits(code.code, "echo", (32, 1, 1))
    code.close()
    kernel = resident(first, "echo", grid=(blocks, 1, 1))
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    launches = len(gpus.calls("cuLaunchKernel", "cuLaunchCooperativeKernel"))
    assert not any(first.copy_out(first.allocate(len(DATA), label="zeroed")))  # a memset needs SMs
    assert first.digest_blocks(source) == block_digests(DATA)
    assert first.copy_to_peer(source, first, within) == "staged"
    assert first.copy_to_peer(source, second, there) == "nvlink"
    assert len(gpus.calls("cuLaunchKernel", "cuLaunchCooperativeKernel")) == launches
    kernel.close()
    assert bytes(first.copy_out(within)) == bytes(second.copy_out(there)) == DATA


@pytest.mark.parametrize("gpus", [ONE_SM], indirect=True)
def test_memory_stays_on_a_gpu_that_has_room(gpus: Standin, opened: Open) -> None:
    """Digests and copies within the GPU are kernels': nothing of the memory leaves it."""
    device = opened("cuda:0")
    kernel = resident(device, "echo")
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    source, target = filled(device), device.allocate(len(DATA), label="target")
    before = len(gpus.calls("cuMemcpyDtoHAsync", "cuMemcpyHtoDAsync"))
    assert device.copy_to_peer(source, device, target) == "device"
    assert device.digest_blocks(target) == block_digests(DATA)
    assert len(gpus.calls("cuMemcpyDtoHAsync", "cuMemcpyHtoDAsync")) == before
    kernel.close()


@pytest.mark.parametrize("gpus", [ONE_SM], indirect=True)
def test_digests_that_do_not_begin_are_made_on_the_host(
    gpus: Standin, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may hold the SMs; the kernel's buffer rests until the late one has ended."""
    device = opened("cuda:0")
    source = filled(device)
    gpus.arm(Fault("cuLaunchCooperativeKernel", kind=FaultKind.STALL_WORK))
    with monkeypatch.context() as soon:
        soon.setattr(memory_kernels, "DEADLINE_S", 0.1)
        assert device.digest_blocks(source) == block_digests(DATA)
    before = len(gpus.calls("cuLaunchCooperativeKernel"))
    assert device.digest_blocks(source) == block_digests(DATA)
    assert len(gpus.calls("cuLaunchCooperativeKernel")) == before
    gpus.release()
    until(lambda: not device.launches.live)
    assert device.digest_blocks(source) == block_digests(DATA)
    assert len(gpus.calls("cuLaunchCooperativeKernel")) == before + 1


@pytest.mark.parametrize("gpus", [ONE_SM], indirect=True)
def test_copy_within_that_does_not_begin_is_an_error(
    gpus: Standin, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may still come, over what a kernel has written to the target since: nothing goes on."""
    device = opened("cuda:0")
    source, target = filled(device), device.allocate(len(DATA), label="target")
    free_bytes = device.free_bytes
    gpus.arm(Fault("cuLaunchCooperativeKernel", kind=FaultKind.STALL_WORK))
    with monkeypatch.context() as soon:
        soon.setattr(memory_kernels, "DEADLINE_S", 0.1)
        with pytest.raises(DeviceError, match="holds the GPU's SMs"):
            device.copy_to_peer(source, device, target)
    device.free(target)
    assert device.free_bytes == free_bytes
    gpus.release()
    until(lambda: device.free_bytes > free_bytes)


# What goes wrong


def test_copy_that_stops_is_an_error_by_its_deadline(
    gpus: Standin, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever for a piece; the devices work on once it has ended."""
    monkeypatch.setattr(peers, "PIECE_BYTES", PIECE_BYTES)
    first, second = opened("cuda:0"), opened("cuda:1")
    source, target = filled(first), second.allocate(len(DATA), label="target")
    gpus.arm(Fault("cuMemcpyPeerAsync", 3, kind=FaultKind.STALL_WORK))
    with monkeypatch.context() as soon:
        soon.setattr(peers, "PIECE_TIMEOUT_S", 0.2)
        with pytest.raises(DeviceError, match="to a peer") as raised:
            first.copy_to_peer(source, second, target)
    assert raised.value.code == "timeout"
    gpus.release()
    assert first.copy_to_peer(source, second, target) == "nvlink"
    assert bytes(second.copy_out(target)) == DATA


def test_memory_of_a_copy_that_may_still_come_is_nobody_elses(
    gpus: Standin, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Freed after its deadline, it is handed out again only when the late bytes have arrived."""
    first, second = opened("cuda:0"), opened("cuda:1")
    source, target = filled(first), second.allocate(len(DATA), label="target")
    free_bytes = [device.free_bytes for device in (first, second)]
    gpus.arm(Fault("cuMemcpyPeerAsync", kind=FaultKind.STALL_WORK))
    with monkeypatch.context() as soon:
        soon.setattr(peers, "PIECE_TIMEOUT_S", 0.2)
        with pytest.raises(DeviceError, match="copy to a peer"):
            first.copy_to_peer(source, second, target)
    first.free(source)
    second.free(target)
    assert [device.free_bytes for device in (first, second)] == free_bytes
    others = [device.allocate(len(DATA), label="other") for device in (first, second)]
    gpus.release()
    until(lambda: first.free_bytes == free_bytes[0])
    assert second.free_bytes == free_bytes[1]
    assert not any(any(d.copy_out(a)) for d, a in zip((first, second), others, strict=True))


def test_memory_of_a_late_copy_comes_back_while_the_other_gpu_is_idle(
    gpus: Standin, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both GPUs keep it; whoever looks for room on the one asks the other, too."""
    first, second = opened("cuda:0"), opened("cuda:1")
    free_bytes = first.free_bytes
    source, target = filled(first), second.allocate(len(DATA), label="target")
    gpus.arm(Fault("cuMemcpyPeerAsync", kind=FaultKind.STALL_WORK))
    with monkeypatch.context() as soon:
        soon.setattr(peers, "PIECE_TIMEOUT_S", 0.2)
        soon.setattr(Unfinished, "settle", lambda unfinished: None)
        with pytest.raises(DeviceError, match="copy to a peer"):
            first.copy_to_peer(source, second, target)
    first.free(source)
    gpus.release()
    until(lambda: first.free_bytes == free_bytes)


def test_memory_of_a_late_copy_in_is_kept_too(
    gpus: Standin, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies through pinned buffers are no other."""
    device = opened("cuda:0")
    free_bytes = device.free_bytes
    target = device.allocate(len(DATA), label="target")
    gpus.arm(Fault("cuMemcpyHtoDAsync", kind=FaultKind.STALL_WORK))
    with monkeypatch.context() as soon:
        soon.setattr(staging, "COPY_DEADLINE_S", 0.2)
        with pytest.raises(DeviceError, match="cuMemcpyHtoDAsync"):
            device.copy_in(target, DATA)
    device.free(target)
    assert device.free_bytes < free_bytes
    gpus.release()
    until(lambda: device.free_bytes == free_bytes)


@pytest.mark.parametrize("refused", ["cuEventQuery", "cuEventRecord", "cuEventCreate"])
def test_memory_of_a_copy_whose_end_was_not_told_is_nobody_elses(
    gpus: Standin, opened: Open, refused: str
) -> None:
    """No timeout: the driver refuses to say, or to record the event that keeps the memory."""
    first, second = opened("cuda:0"), opened("cuda:1")
    source, target = filled(first), second.allocate(len(DATA), label="target")
    free_bytes = second.free_bytes
    gpus.arm(
        Fault("cuMemcpyPeerAsync", kind=FaultKind.STALL_WORK), Fault("cuEventQuery", code=REFUSED)
    )
    nth = 3 if refused == "cuEventCreate" else 2  # after those that the copy itself needs
    gpus.arm(Fault(refused, nth, code=REFUSED), *[Fault(refused, code=REFUSED)] * 3)
    with pytest.raises(DeviceError, match=str(REFUSED)):
        first.copy_to_peer(source, second, target)
    second.free(target)
    assert second.free_bytes == free_bytes
    other = second.allocate(len(DATA), label="other")
    assert other.address != target.address
    gpus.release()
    until(lambda: first.free_bytes and second.free_bytes == free_bytes)
    assert not any(second.copy_out(other))


def test_bytes_that_change_on_the_way_are_found_by_digests(gpus: Standin, opened: Open) -> None:
    """One bit of a peer copy: the target's digests, read from its own memory, are others."""
    first, second = opened("cuda:0"), opened("cuda:1")
    source, target = filled(first), second.allocate(len(DATA), label="target")
    gpus.arm(Fault("cuMemcpyPeerAsync", kind=FaultKind.CORRUPT))
    first.copy_to_peer(source, second, target)
    assert second.digest_blocks(target) != first.digest_blocks(source)
    assert second.digest_blocks(target) == block_digests(bytes(second.copy_out(target)))


@pytest.mark.parametrize("lost", [0, 1])
def test_lost_gpu_is_named(gpus: Standin, opened: Open, lost: int) -> None:
    """Source or target: the error says which one is gone, and the other one works on."""
    devices = opened("cuda:0"), opened("cuda:1")
    source, target = filled(devices[0]), devices[1].allocate(len(DATA), label="target")
    gpus.kill(lost)
    with pytest.raises(DeviceLostError, match=f"cuda:{lost}"):
        devices[0].copy_to_peer(source, devices[1], target)
    other = devices[1 - lost]
    assert other.lost == ""
    assert other.digest_blocks(filled(other)) == block_digests(DATA)


@pytest.mark.parametrize("gpus", [ONE_SM], indirect=True)
@pytest.mark.parametrize("openings", [1, 2])
def test_launch_waits_for_digests_that_fill_the_gpu(
    gpus: Standin, opened: Open, openings: int
) -> None:
    """They are over in a moment: a launch then would be refused for nothing."""
    devices = [opened("cuda:0") for _ in range(openings)]
    device = devices[0]
    source, kernel = filled(device), resident(devices[-1], "echo")
    digests: list[bytes] = []
    refused: list[DeviceError] = []

    def digest() -> None:
        digests.append(device.digest_blocks(source))

    def launch() -> None:
        try:
            kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
        except DeviceError as error:
            refused.append(error)

    gpus.arm(Fault("cuLaunchCooperativeKernel", kind=FaultKind.STALL_WORK))
    threads = [threading.Thread(target=work) for work in (digest, launch)]
    threads[0].start()
    until(lambda: device.launches.room(1) == 0)
    threads[1].start()
    threads[1].join(0.1)  # long enough to be refused, where it is
    gpus.release()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert digests == [block_digests(DATA)]
    assert not refused
    kernel.close()
