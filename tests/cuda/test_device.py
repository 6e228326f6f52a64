"""The CUDA device on the stand-in driver: kernels, launches, memory, and what ends them."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ringflow.device.api import LaunchStatus
from ringflow.device.cuda import driver
from ringflow.device.cuda.device import CudaDevice
from ringflow.device.cuda.ledger import COPY_QUEUES
from ringflow.errors import (
    DeviceError,
    DeviceLostError,
    DeviceMemoryError,
    EntryPointError,
    KernelStalledError,
)
from tests.cuda.kernels import (
    DEADLINE_S,
    LATCH,
    MEMORY_BYTES,
    TRAP,
    answer,
    end,
    launched,
    opened,
    plain,
    plain_launch,
    post,
    until,
)
from tests.cuda.standin import Fault, FaultKind, Standin
from tests.device.kernels import resident


@pytest.fixture
def device(gpus: Standin) -> Iterator[CudaDevice]:
    made = opened()
    yield made
    made.close()


# Kernels


def test_a_kernel_answers_and_returns(device: CudaDevice, gpus: Standin) -> None:
    """Its news are found by looking: nothing rings. Its end is written by its stream."""
    before = len(gpus.calls("cuStreamWriteValue32"))
    kernel = launched(device, "echo")
    assert answer(kernel, b"hello, you") == b"hello, you"
    end(kernel)
    assert len(gpus.calls("cuStreamWriteValue32")) == before + 1
    assert device.launches.live == []


def test_an_answer_that_comes_late_is_found_without_a_ring(device: CudaDevice) -> None:
    """The pump sleeps then, and nothing that a GPU does wakes it."""
    kernel = launched(device, "trouble")
    post(kernel, LATCH)
    stop = kernel.regions["stop"]
    late = threading.Timer(0.1, lambda: device.copy_in(stop, b"\1\0\0\0", offset_bytes=8))
    late.start()
    assert answer(kernel) == b"abcd"
    late.join()
    end(kernel)


@pytest.mark.parametrize(
    "gpus", [{"attributes": {"CAN_USE_64_BIT_STREAM_MEM_OPS": 0}}], indirect=True
)
def test_an_end_is_found_where_streams_write_no_words(device: CudaDevice, gpus: Standin) -> None:
    """The thread that watches the streams writes the status then."""
    end(launched(device, "echo"))
    assert gpus.calls("cuStreamWriteValue32") == []


def test_a_grid_of_blocks_is_cooperative_once_and_then_gated_by_the_ledger(
    device: CudaDevice, gpus: Standin
) -> None:
    """Two grids with barriers live side by side: the started word proves that each is resident."""
    kernels = [resident(device, "sweep", grid=(2, 1, 1)) for _ in range(2)]
    calls = ("cuLaunchKernel", "cuLaunchCooperativeKernel")
    before = len(gpus.calls(*calls))
    for kernel in kernels:
        kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    made = [call.name for call in gpus.calls(*calls)[before:]]
    assert made == ["cuLaunchCooperativeKernel", "cuLaunchKernel"]
    end(*kernels)


def test_what_does_not_fit_beside_what_runs_is_refused_at_once(device: CudaDevice) -> None:
    """Hazards 6 and 10: it would wait for ever. What runs is not touched, nothing stays taken."""
    code = device.load(plain())
    free = device.free_bytes, device.mapped_free_bytes
    word, out = (device.allocate(4, label=name) for name in ("word", "out"))
    fits = device.grid_that_fits(code, "wait_for", (1024, 1, 1))
    fewer = device.grid_that_fits(code, "wait_for", (1024, 1, 1), dynamic_shared_bytes=200 << 10)
    full = plain_launch(device, code, word, out, grid=(fits, 1, 1), block=(1024, 1, 1))
    assert device.grid_that_fits(code, "wait_for", (1024, 1, 1)) == 1
    assert fits > fewer > 0
    with pytest.raises(DeviceError, match="1 other grids hold the rest") as raised:
        plain_launch(device, code, word, out)
    assert raised.value.code == "does not fit"
    with pytest.raises(DeviceError, match="can never be resident together"):
        plain_launch(device, code, word, out, grid=(fits + 1, 1, 1), block=(1024, 1, 1))
    assert full.status is LaunchStatus.RUNNING
    device.copy_in(word, b"\1\0\0\0")
    assert full.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    assert bytes(device.copy_out(out)) == b"\7\0\0\0"
    for allocation in (word, out):
        device.free(allocation)
    del full
    again = plain_launch(device, code, out, entry_point="count", memory=[])
    assert again.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    del again
    plain_launch(device, code, out, entry_point="count", memory=[]).wait(DEADLINE_S)
    assert device.free_bytes == free[0]
    assert free[1] - device.mapped_free_bytes <= 512


def test_work_queues_are_bounded(gpus: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard 10: with 8 queues a fifth kernel could wait behind another, so it is refused."""
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "8")
    device = opened()
    one_more, *kernels = [resident(device, "echo") for _ in range(9 - COPY_QUEUES)]
    for kernel in kernels:
        kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    with pytest.raises(DeviceError, match="work queues"):
        one_more.launch(gate_open=True, timeout_s=1.0)
    one_more.close()
    assert answer(kernels[0]) == b"abcd"
    end(*kernels)
    device.close()


def test_wrong_shapes_are_refused(device: CudaDevice) -> None:
    """Too many threads, too much shared memory, parameters of other sizes, an unknown kernel."""
    code = device.load(plain())
    out = device.allocate(4, label="out")
    with pytest.raises(DeviceError, match="1025 threads"):
        plain_launch(device, code, out, entry_point="count", block=(1025, 1, 1))
    with pytest.raises(DeviceError, match="dynamic shared memory"):
        plain_launch(device, code, out, entry_point="count", dynamic_shared_bytes=1 << 20)
    with pytest.raises(EntryPointError, match=r"takes parameters of \[8\] bytes"):
        plain_launch(device, code, out, out, entry_point="count")
    with pytest.raises(EntryPointError, match="no kernel 'counts'"):
        plain_launch(device, code, out, entry_point="counts")


def test_variables_are_state_that_is_read_and_written(device: CudaDevice) -> None:
    """A ``__device__`` variable is an allocation to copies, as long as its code is loaded."""
    code = device.load(plain())
    (calls,) = code.globals
    assert (calls.label, calls.size_bytes, code.unlisted) == ("global:calls", 4, "")
    out = device.allocate(4, label="out")
    count: Any = {"entry_point": "count", "block": (1, 1, 1)}
    for expected in (1, 2):
        plain_launch(device, code, out, **count).wait(DEADLINE_S)
        assert int.from_bytes(device.copy_out(calls), "little") == expected
    device.copy_in(calls, (41).to_bytes(4, "little"))
    plain_launch(device, code, out, **count).wait(DEADLINE_S)
    assert int.from_bytes(device.copy_out(out), "little") == 42
    device.unload(code)
    with pytest.raises(DeviceError, match="not an allocation"):
        device.copy_out(calls)


def test_local_memory_grows_only_while_nothing_runs(device: CudaDevice) -> None:
    """Hazard 12: a launch that needs more of it would wait for what runs."""
    code = device.load(plain())
    out = device.allocate(4, label="out")
    hungry = {"entry_point": "hungry", "grid": (1, 1, 1), "block": (32, 1, 1)}
    parameters = (out.address.to_bytes(8, "little"), (5).to_bytes(4, "little"))
    kernel = launched(device, "echo")
    with pytest.raises(DeviceError, match="larger local_memory_bytes") as raised:
        device.launch(code, parameters=parameters, **hungry)  # type: ignore[arg-type]
    assert raised.value.code == "local memory"
    end(kernel)
    launch = device.launch(code, parameters=parameters, **hungry)  # type: ignore[arg-type]
    assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    assert int.from_bytes(device.copy_out(out), "little") == 10


def test_local_memory_that_was_asked_for_is_there_beside_kernels(gpus: Standin) -> None:
    """Hazard 12: it was taken at the opening, while nothing ran."""
    device = opened(local_memory_bytes=5000)
    code = device.load(plain())
    out, kernel = device.allocate(4, label="out"), launched(device, "echo")
    launch = device.launch(
        code,
        "hungry",
        grid=(1, 1, 1),
        block=(32, 1, 1),
        parameters=(out.address.to_bytes(8, "little"), (5).to_bytes(4, "little")),
    )
    assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    end(kernel)
    device.close()


def test_the_first_cooperative_launch_waits_for_nothing(device: CudaDevice) -> None:
    """Hazard 12: what the driver does for the first one was done at the opening."""
    single = launched(device, "echo")
    several = launched(device, "echo", grid=(2, 1, 1))
    assert answer(single) == answer(several) == b"abcd"
    end(single, several)


# What a live kernel holds up


def test_memory_of_a_kernel_that_never_answers_stays_taken(
    device: CudaDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its grid can't be stopped; nobody gets its memory, and the others work on."""
    monkeypatch.setattr("ringflow.device.cuda.launch.ABORT_DEADLINE_S", 0.2)
    before = device.free_bytes
    other, stalled = launched(device, "echo"), launched(device, "trouble")
    post(stalled, LATCH)
    until(lambda: stalled.taken_sequence)
    stop = stalled.regions["stop"]
    with pytest.raises(KernelStalledError, match="end the process"):
        stalled.end()
    device.free(stop)
    held = device.free_bytes
    with pytest.raises(DeviceError):
        device.free(stop)
    assert answer(other) == b"abcd"
    with pytest.raises(DeviceError, match="running"):
        device.close()
    device.staging.copy_in(stop.address + 8, b"\1\0\0\0")  # it is let go
    assert stalled.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
    until(lambda: device.free_bytes > held)
    stalled._allocations.remove(stop)
    stalled.close()
    end(other)
    assert device.free_bytes == before


def test_a_launch_that_never_starts_is_told_and_leaves_all_as_it_was(
    device: CudaDevice, gpus: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launch proof: another user of the context holds all SMs, which no ledger knows."""
    monkeypatch.setattr("ringflow.device.cuda.launch.ABORT_DEADLINE_S", 0.05)
    before = device.free_bytes
    code, kernel = device.load(plain()), resident(device, "echo")
    word, out = (device.allocate(4, label=name) for name in ("word", "out"))
    with device.context.current():
        stream, wait_for = device.context.make_stream(), code.kernel("wait_for")  # type: ignore[attr-defined]
        parameters = ((word.address, out.address), (ctypes.c_void_p, ctypes.c_void_p))
        shape = (device.grid_that_fits(code, "wait_for", (1024, 1, 1)), 1, 1, 1024, 1, 1, 0)
        device.context.call("cuLaunchKernel", wait_for.function, *shape, stream, parameters, 0)
    with pytest.raises(KernelStalledError, match="did not return within"):
        kernel.launch(gate_open=True, timeout_s=0.05)
    device.copy_in(word, b"\1\0\0\0")
    assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED  # it found the command to return
    kernel.close()
    for allocation in (word, out):
        device.free(allocation)
    assert device.free_bytes == before
    end(launched(device, "echo"))


def test_code_is_unloaded_when_nothing_runs(device: CudaDevice, gpus: Standin) -> None:
    """Hazard 2: unloading waits for every kernel of the context, so it is put off."""
    code = device.load(plain())
    kernel = launched(device, "echo")
    before = len(gpus.calls("cuModuleUnload"))
    device.unload(code)
    assert len(gpus.calls("cuModuleUnload")) == before
    assert answer(kernel) == b"abcd"
    end(kernel)
    until(lambda: len(gpus.calls("cuModuleUnload")) == before + 2)
    assert all(call.live == 0 for call in gpus.calls("cuModuleUnload"))


def test_plain_grids_hold_up_loads_that_would_wait_for_them(device: CudaDevice) -> None:
    """Hazard 1: persistent kernels are parked for a load; what can't be parked refuses it."""
    code = device.load(plain())
    word, out = (device.allocate(4, label=name) for name in ("word", "out"))
    running = plain_launch(device, code, word, out)
    with pytest.raises(DeviceError, match="wait_for"):
        device.load(plain())
    device.copy_in(word, b"\1\0\0\0")
    assert running.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    device.load(plain())


def test_the_same_gpu_is_neither_opened_nor_closed_under_running_kernels(
    device: CudaDevice,
) -> None:
    """Hazard 2: taking and giving back memory waits for all kernels of the context."""
    second = opened(f"cuda:{device.uuid}")
    assert second.uuid == device.uuid
    kernel = launched(device, "echo")
    with pytest.raises(DeviceError, match="can't open while kernels run"):
        opened()
    with pytest.raises(DeviceError, match="can't close while kernels run"):
        second.close()
    assert answer(kernel) == b"abcd"
    end(kernel)
    second.close()
    second.close()


def test_a_gpu_that_is_opened_twice_has_its_room_once(device: CudaDevice) -> None:
    """Two ledgers would give the same SMs away twice, and each load under the other's grid."""
    second = opened(f"cuda:{device.uuid}")
    codes = [one.load(plain()) for one in (device, second)]
    word, out = (device.allocate(4, label=name) for name in ("word", "out"))
    fits = device.grid_that_fits(codes[0], "wait_for", (1024, 1, 1))
    full = plain_launch(device, codes[0], word, out, grid=(fits, 1, 1), block=(1024, 1, 1))
    with pytest.raises(DeviceError, match="other grids hold the rest"):
        plain_launch(second, codes[1], second.allocate(4, label="out"), entry_point="count")
    with pytest.raises(DeviceError, match=r"load on .* would wait for its running kernels"):
        second.load(plain())
    second.unload(codes[1])  # later
    device.copy_in(word, b"\1\0\0\0")
    assert full.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    second.close()


def test_a_first_printf_waits_for_no_kernel(device: CudaDevice, gpus: Standin) -> None:
    """Hazards 2 and 12: its buffer was made when the device was opened."""
    code = device.load(plain())
    out = device.allocate(4, label="out")
    kernel = launched(device, "echo")
    launch = plain_launch(device, code, out, entry_point="says", block=(1, 1, 1))
    assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    assert gpus.printed == "0\n"
    assert answer(kernel) == b"abcd"
    end(kernel)


@pytest.mark.parametrize("gpus", [{"eager": False}], indirect=True)
def test_a_first_launch_loads_nothing(device: CudaDevice) -> None:
    """Hazard 1: where loading is lazy all the same, each kernel is loaded with its module."""
    code = device.load(plain())
    out = device.allocate(4, label="out")
    kernel = launched(device, "echo")
    launch = plain_launch(device, code, out, entry_point="count")
    assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    end(kernel)


def test_all_kernels_split_an_sm_alike(device: CudaDevice) -> None:
    """The split of an SM stays while a block lives there: one that wants another never starts."""
    device.load(plain())
    names = driver.bindings().CUfunction_attribute
    carveout = names.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
    kernels = [kernel for code in device._codes for kernel in code.kernels.values()]
    assert {"count", "ringflow_digest_blocks"} <= {kernel.name for kernel in kernels}
    with device.context.current():
        found = {driver.call("cuFuncGetAttribute", carveout, one.function) for one in kernels}
    assert found == {100}


def test_code_is_loaded_into_one_context(device: CudaDevice, gpus: Standin) -> None:
    """Hazard 1: an eager library goes into all contexts, and waits for the kernels of each."""
    kernel, other = launched(device, "echo"), opened("cuda:1")
    other.load(plain())
    assert gpus.calls("cuLibraryLoadData") == []
    assert answer(kernel) == b"abcd"
    end(kernel)
    other.close()


def test_copies_and_allocations_go_on_beside_a_kernel(device: CudaDevice, gpus: Standin) -> None:
    """Several pieces, in and out, zeroed memory; all of it calls that wait for no kernel."""
    kernel = launched(device, "echo")
    data = bytes(range(256)) * (9 << 12) + b"end"
    allocation = device.allocate(len(data), label="large")
    assert not any(device.copy_out(allocation))
    device.copy_in(allocation, data)
    assert bytes(device.copy_out(allocation)) == data
    device.free(allocation)
    assert bytes(device.copy_out(device.allocate(len(data), label="again"))) == bytes(len(data))
    assert not [call for call in gpus.trace if "Memset" in call.name]
    end(kernel)


@pytest.mark.parametrize("gpus", [{"wait_deadline_s": 5.0}], indirect=True)
def test_the_legacy_stream_waits_for_no_kernel_and_no_copy_for_it(
    device: CudaDevice, gpus: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 3: other libraries work there, beside kernels that never end."""
    monkeypatch.setattr("ringflow.device.cuda.staging.COPY_DEADLINE_S", 5.0)
    kernel = launched(device, "echo")
    allocation = device.allocate(8, label="a")
    there = (allocation.address, device.allocate_mapped(8, label="b").address, 8)
    gpus.allow("cuMemcpyHtoD")
    with device.context.current():
        driver.call("cuMemcpyHtoD", *there)
        gpus.arm(Fault("cuMemcpyHtoDAsync", kind=FaultKind.STALL_WORK))
        driver.call("cuMemcpyHtoDAsync", *there, 0)
    device.copy_in(allocation, b"12345678")
    assert bytes(device.copy_out(allocation)) == b"12345678"
    assert answer(kernel) == b"abcd"
    gpus.release()
    end(kernel)


def test_words_of_launches_that_are_gone_are_taken_back_once(device: CudaDevice) -> None:
    """Whoever asks what is free collects them, in whatever thread."""
    both = threading.Barrier(2)

    class Forgotten(deque[int]):
        """Lets a second thread look before the first one has taken a word."""

        def __len__(self) -> int:
            found = super().__len__()
            if found:
                with contextlib.suppress(threading.BrokenBarrierError):
                    both.wait(0.1)
            return found

    free_bytes = device.mapped_free_bytes
    word = device.allocate_mapped(4, label="word")
    device.launches._forgotten = Forgotten([word.address])
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(lambda: device.mapped_free_bytes) for _ in range(2)]
        assert [one.result(DEADLINE_S) for one in asked] == [free_bytes] * 2


# Failures


def test_a_copy_that_does_not_end_is_given_up(
    device: CudaDevice, gpus: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 7: every wait has a deadline; afterwards the buffers are good again."""
    allocation = device.allocate(8, label="a")
    for call, copy in (
        ("cuMemcpyHtoDAsync", lambda: device.copy_in(allocation, b"12345678")),
        ("cuMemcpyDtoHAsync", lambda: device.copy_out(allocation)),
    ):
        gpus.arm(Fault(call, kind=FaultKind.STALL_WORK))
        with monkeypatch.context() as soon:
            soon.setattr("ringflow.device.cuda.staging.COPY_DEADLINE_S", 0.05)
            with pytest.raises(DeviceError, match=call) as raised:
                copy()
        assert raised.value.code == "timeout"
        gpus.release()
        copy()
    assert bytes(device.copy_out(allocation)) == b"12345678"


def test_a_trap_loses_the_device_and_names_the_kernel(gpus: Standin) -> None:
    """Hazard 11: all kernels of the context end; the one that was at work is the trapped one."""
    device, other = opened(), opened("cuda:1")
    idle, trapping, elsewhere = (
        launched(device, "echo"),
        launched(device, "trouble"),
        launched(other, "echo"),
    )
    post(trapping, TRAP)
    assert trapping.wait_ended(DEADLINE_S) is LaunchStatus.TRAPPED
    assert idle.wait_ended(DEADLINE_S) is LaunchStatus.ABORTED
    assert "CUDA_ERROR_LAUNCH_FAILED" in trapping.detail
    assert device.lost
    for refused in (
        lambda: device.allocate(8, label="a"),
        lambda: device.copy_out(idle._allocations[0]),
        lambda: idle.launch(gate_open=True, timeout_s=1.0),
        lambda: device.load(plain()),
    ):
        with pytest.raises(DeviceLostError, match="restore its kernels on another device"):
            refused()
    assert answer(elsewhere) == b"abcd"
    idle.close()
    trapping.close()
    device.close()
    end(elsewhere)
    other.close()


@pytest.mark.parametrize("code", [700, 719, 214])
def test_a_sticky_error_of_any_call_loses_the_device(gpus: Standin, code: int) -> None:
    """Hazard 7: who waits is told within its deadline, by its status."""
    device = opened()
    kernel = launched(device, "echo")
    allocation = device.allocate(8, label="a")
    gpus.arm(Fault("cuMemcpyHtoDAsync", code=code))
    with pytest.raises(DeviceLostError):
        device.copy_in(allocation, b"12345678")
    assert kernel.wait_ended(DEADLINE_S) is not LaunchStatus.RUNNING
    kernel.close()
    device.close()


def test_a_launch_on_a_lost_device_is_told_at_once(gpus: Standin) -> None:
    """Its started word would never come."""
    device = opened()
    kernel = resident(device, "echo")
    gpus.arm(Fault("cuLaunchKernel", code=719))
    with pytest.raises(DeviceLostError):
        kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    assert device.lost
    kernel.close()
    device.close()


# Opening


def test_everything_that_opening_calls_can_fail_and_nothing_is_left(gpus: Standin) -> None:
    """Out of memory at any call: an error that names it, and the device opens the next time."""
    opened().close()
    calls: dict[str, int] = {}
    for call in gpus.trace:
        calls[call.name] = calls.get(call.name, 0) + 1
        if call.name == "cuCtxSynchronize":
            raise AssertionError("hazard 3: never wait for the context")
    closing = {"cuMemFree", "cuMemFreeHost", "cuStreamDestroy", "cuEventDestroy"}
    closing |= {"cuModuleUnload", "cuDevicePrimaryCtxRelease", "cuCtxPopCurrent"}
    for name, count in calls.items():
        if name in closing or name == "cuStreamQuery":  # how often that is asked, time decides
            continue
        last = 1 if name == "cuCtxPushCurrent" else count  # its last one is of the close
        for nth in sorted({1, last}):
            gpus.arm(Fault(name, nth=nth, code=2))
            failed = ""
            try:
                device = opened()
            except DeviceError as error:
                failed = f"{error.call} {error.code}"
            else:
                device.close()
            assert gpus.unused_faults == 0, name
            assert not failed or "OUT_OF_MEMORY" in failed, failed
    opened().close()


def test_out_of_memory_says_what_to_do(gpus: Standin) -> None:
    """The GPU has less than was asked for, or than there is left."""
    with pytest.raises(DeviceError, match="smaller memory_limit_bytes") as raised:
        opened(memory_limit_bytes=1 << 40)
    assert (raised.value.call, raised.value.code) == ("cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY")
    device = opened()
    with pytest.raises(DeviceMemoryError, match="migrate a kernel away"):
        device.allocate(MEMORY_BYTES + 1, label="large")
    with pytest.raises(DeviceMemoryError, match="larger mapped_limit_bytes"):
        device.allocate_mapped(MEMORY_BYTES, label="large")
    device.close()
