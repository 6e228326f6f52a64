"""The stand-in driver through raw ``cuda.bindings``: devices, code, queues, places on SMs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cuda.raw import Float, Gpu, Pointer, Word, ask, code_of, cubin, gpu
from tests.cuda.standin import Hazard, Standin, build, plug

pytestmark = pytest.mark.usefixtures("plain_environment")

FULL = {"blocks": 8, "threads": 1024}  # two blocks an SM: all four are taken


def test_no_device_until_one_is_plugged_in() -> None:
    """Every test but those that plug one in is on a machine without a GPU."""
    assert code_of("cuInit", 0) == 100
    with plug(1):
        assert code_of("cuDeviceGetCount") == 3
        ask("cuInit", 0)
        assert ask("cuDeviceGetCount") == 1
    assert code_of("cuInit", 0) == 100
    assert code_of("cuDeviceGetCount") == 3


@pytest.mark.slow
def test_ziglang_builds_the_library_where_there_is_no_compiler(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """What tests/cuda need is installed with the tests, so they never skip."""
    folder.mkdir()
    monkeypatch.setattr("shutil.which", lambda name: None)
    build._build(folder / build.SONAME)
    assert (folder / build.SONAME).read_bytes().startswith(b"\x7fELF")


def test_a_grid_runs_the_kernel_that_the_cubin_was_made_from(gpus: Standin) -> None:
    """clang's PTX of the same source, between the copies before and after it on its stream."""
    with gpu() as one:
        values = np.ctypeslib.as_array(one.words).view(np.float32)
        values[:] = np.arange(1024)
        ask("cuMemcpyHtoDAsync", one.memory, one.pinned, 4096, one.stream)
        arguments = ((one.memory, Pointer), (2.0, Float), (1000, Word))
        assert not one.launch("scale", *arguments, blocks=4, threads=256)
        ask("cuMemcpyDtoHAsync", one.pinned, one.memory, 4096, one.stream)
        ask("cuStreamSynchronize", one.stream)
        expected = np.arange(1024, dtype=np.float32)
        expected[:1000] *= 2
        assert np.array_equal(values, expected)


def test_a_persistent_kernel_polls_mapped_memory_while_copies_go_on(gpus: Standin) -> None:
    """Its stream is busy until the host's word stops it; another stream is not."""
    with gpu() as one:
        one.spin()
        one.write(one.memory + 64, 5)
        assert one.read(one.memory + 64) == [5]
        assert code_of("cuStreamQuery", one.stream) == 600
        assert gpus.live(0) == 1
        one.stop()
        assert gpus.live(0) == 0
        address, size = ask("cuLibraryGetGlobal", one.library, b"counter")
        assert (size, one.read(int(address))) == (4, [3])


def test_work_is_done_later_than_it_is_asked_for() -> None:
    """A buffer that is used again before its copy was made spoils the copy, as on a GPU."""
    with plug(1, delay_s=0.02), gpu() as one:
        one.words[8] = 1
        ask("cuMemcpyHtoDAsync", one.memory, one.pinned + 32, 4, one.stream)
        one.words[8] = 2
        ask("cuStreamSynchronize", one.stream)
        assert one.read(one.memory) == [2]


def test_code_for_another_architecture_or_of_unknown_origin_is_refused() -> None:
    """209 for the one; the other is a defect of the test, and says so."""
    with plug(1, architecture=(8, 0)) as standin:
        ask("cuInit", 0)
        ask("cuCtxPushCurrent", ask("cuDevicePrimaryCtxRetain", 0))
        assert code_of("cuLibraryLoadData", cubin(), [], [], 0, [], [], 0) == 209
        foreign = bytearray(cubin())
        foreign[1024] ^= 1  # in a section
        assert code_of("cuLibraryLoadData", bytes(foreign), [], [], 0, [], [], 0) == 200
        assert "no test compiled" in standin.forget_problems()[0]
        assert code_of("cuLibraryLoadData", b"junk" * 64, [], [], 0, [], [], 0) == 200
        ask("cuDevicePrimaryCtxRelease", 0)


def test_kernels_and_their_parameters_are_listed(gpus: Standin) -> None:
    """By name, by number, and with what each takes."""
    with gpu() as one:
        kernel = ask("cuLibraryGetKernel", one.library, b"scale")
        found = [ask("cuKernelGetParamInfo", kernel, index) for index in range(3)]
        assert found == [(0, 8), (8, 4), (12, 4)]
        assert code_of("cuKernelGetParamInfo", kernel, 3) == 1
        assert code_of("cuLibraryGetKernel", one.library, b"absent") == 500
        assert code_of("cuLibraryGetGlobal", one.library, b"absent") == 500
        count = ask("cuLibraryGetKernelCount", one.library)
        kernels = ask("cuLibraryEnumerateKernels", count, one.library)
        names = {ask("cuKernelGetName", each).decode() for each in kernels}
        assert {"scale", "spin", "meet"} <= names


def test_events_order_streams_and_null_orders_blocking_ones(gpus: Standin) -> None:
    """Work waits for another stream's event; the legacy stream for all blocking streams."""
    gpus.allow("cuStreamCreate")
    with gpu() as one:
        one.spin()
        event = ask("cuEventCreate", 0)
        ask("cuEventRecord", event, one.stream)
        waiting, blocking = ask("cuStreamCreate", 1), ask("cuStreamCreate", 0)
        ask("cuStreamWaitEvent", waiting, event, 0)
        ask("cuMemcpyHtoDAsync", one.memory + 8, one.pinned + 8, 4, waiting)
        ask("cuStreamWaitEvent", blocking, event, 0)
        ask("cuMemcpyHtoDAsync", one.memory + 12, one.pinned + 8, 4, 0)
        gpus.settle()
        busy = [code_of("cuStreamQuery", each) for each in (waiting, blocking, 0)]
        assert busy == [600] * 3
        assert code_of("cuEventQuery", event) == 600
        one.stop()
        ask("cuEventSynchronize", event)
        for each in (waiting, blocking, 0):
            ask("cuStreamSynchronize", each)
        for each in (waiting, blocking):
            ask("cuStreamDestroy", each)
        ask("cuEventDestroy", event)


def test_a_stream_writes_and_waits_for_words(gpus: Standin) -> None:
    """``cuStreamWriteValue32`` comes after the stream's work, and a wait holds it up."""
    with gpu() as one:
        ask("cuStreamWaitValue32", one.stream, one.pinned + 8, 4, 0)
        ask("cuStreamWriteValue32", one.stream, one.pinned + 12, 9, 0)
        gpus.settle()
        assert one.words[3] == 0
        one.words[2] = 5
        ask("cuStreamSynchronize", one.stream)
        assert one.words[3] == 9


def test_blocking_streams_wait_for_the_legacy_one(gpus: Standin) -> None:
    """Non-blocking ones don't: the library has no others."""
    gpus.allow("cuStreamCreate")
    with gpu() as one:
        one.spin()
        event, blocking = ask("cuEventCreate", 0), ask("cuStreamCreate", 0)
        ask("cuEventRecord", event, one.stream)
        ask("cuStreamWaitEvent", 0, event, 0)
        for stream in (blocking, one.copies):
            ask("cuMemcpyHtoDAsync", one.memory + 64, one.pinned + 64, 4, stream)
        gpus.settle()
        assert [code_of("cuStreamQuery", each) for each in (blocking, one.copies)] == [600, 0]
        one.stop()
        ask("cuStreamSynchronize", blocking)
        ask("cuStreamDestroy", blocking)
        ask("cuEventDestroy", event)


@pytest.mark.parametrize(("connections", "code"), [(1, 600), (4, 0)])
def test_streams_share_hardware_queues(connections: int, code: int) -> None:
    """A copy stands behind a kernel of another stream where there are too few queues."""
    with plug(1, connections=connections) as standin, gpu() as one:
        one.spin()
        event = ask("cuEventCreate", 0)
        ask("cuMemcpyHtoDAsync", one.memory + 64, one.pinned + 64, 4, one.copies)
        ask("cuEventRecord", event, one.copies)
        standin.settle()
        assert code_of("cuEventQuery", event) == code
        one.stop()
        ask("cuStreamSynchronize", one.copies)
        ask("cuEventDestroy", event)


def test_connections_and_loading_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the driver reads them when it starts: with one queue the copy waits."""
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    monkeypatch.setenv("CUDA_MODULE_LOADING", "LAZY")
    with plug(1) as standin, gpu() as one:
        assert ask("cuModuleGetLoadingMode") == 2
        one.spin()
        ask("cuMemcpyHtoDAsync", one.memory + 64, one.pinned + 64, 4, one.copies)
        standin.settle()
        assert code_of("cuStreamQuery", one.copies) == 600
        one.stop()
        ask("cuStreamSynchronize", one.copies)


def beside(one: Gpu, what: str) -> None:
    """Enqueue something on the second stream."""
    if what == "kernel":
        one.launch("put", (one.memory + 64, Pointer), (1, Word), stream=one.copies)
    elif what == "memset":
        ask("cuMemsetD32Async", one.memory + 64, 1, 1, one.copies)
    else:
        ask("cuMemcpyDtoDAsync", one.memory + 64, one.memory + 128, 4, one.copies)


@pytest.mark.parametrize("what", ["kernel", "memset", "copy within the device"])
def test_work_for_sms_waits_while_a_grid_fills_them(gpus: Standin, what: str) -> None:
    """Copies by DMA go on; beside a smaller grid it all runs."""
    gpus.allow("cuMemsetD32Async", "cuMemcpyDtoDAsync")  # ringflow never calls them there
    with gpu() as one:
        one.spin(**FULL)
        beside(one, what)
        gpus.settle()
        assert code_of("cuStreamQuery", one.copies) == 600
        one.stop()
        ask("cuStreamSynchronize", one.copies)
        one.spin(blocks=7, threads=1024)
        beside(one, what)
        ask("cuStreamSynchronize", one.copies)
        one.stop()


def test_a_second_cooperative_grid_waits_and_one_that_can_never_fit_is_refused(
    gpus: Standin,
) -> None:
    """All blocks or none; more than the device holds is 720."""
    with gpu() as one:
        arguments = ((one.memory + 64, Pointer),)
        one.write(one.memory + 64, 0)
        assert one.launch("meet", *arguments, blocks=9, threads=1024, cooperative=True) == 720
        assert not one.launch("put", *arguments, (0, Word), cooperative=True)  # the first waits
        one.spin(blocks=2, threads=1024)
        shape = {"blocks": 7, "threads": 1024, "stream": one.copies, "cooperative": True}
        assert not one.launch("meet", *arguments, **shape)
        gpus.settle()
        assert gpus.live(0) == 1
        one.stop()
        ask("cuStreamSynchronize", one.copies)
        assert one.read(one.memory + 64) == [7]


def test_a_larger_grid_runs_in_waves(gpus: Standin) -> None:
    """Blocks take the places of those that ended."""
    with gpu() as one:
        one.write(one.memory, *[0] * 32)
        assert not one.launch("number", (one.memory, Pointer), blocks=20, threads=1024)
        ask("cuStreamSynchronize", one.stream)
        assert one.read(one.memory, 20) == [index * 1024 for index in range(1, 21)]


def test_blocks_of_a_larger_grid_that_wait_for_each_other_are_a_deadlock() -> None:
    """A barrier of all of them never comes."""
    with plug(1, wait_deadline_s=1.0) as standin, gpu() as one:
        one.write(one.memory, 0)
        assert not one.launch("meet", (one.memory, Pointer), blocks=9, threads=1024)
        assert code_of("cuStreamSynchronize", one.stream) == 702
        assert "does not end: a deadlock" in standin.forget_problems()[0]
        ask("cuDevicePrimaryCtxReset", one.device)
        one.__init__()  # type: ignore[misc]
        ask("cuDevicePrimaryCtxRelease", one.device)


def test_hazards_can_be_taken_out(gpus: Standin) -> None:
    """Without the places' hazard a kernel starts beside a full grid."""
    gpus.set_hazards(Hazard(0))
    with gpu() as one:
        one.spin(**FULL)
        beside(one, "kernel")
        ask("cuStreamSynchronize", one.copies)
        one.stop()


def test_lazy_loading_loads_a_function_when_it_is_first_needed() -> None:
    """Eager loading does it with the library, in every context that there is."""
    with plug(2, eager=False), gpu(preload=False) as one:
        function = one.function("put")
        assert int(ask("cuFuncIsLoaded", function)) == 0
        ask("cuFuncLoad", function)
        assert int(ask("cuFuncIsLoaded", function)) == 1
    with plug(2, eager=True), gpu(preload=False) as one:
        assert int(ask("cuFuncIsLoaded", one.function("put"))) == 1


CORE = """
import numpy as np
from cuda.core import Device, LaunchConfig, LegacyPinnedMemoryResource, ObjectCode, launch
from tests.cuda.raw import cubin

first, second = Device(0), Device(1)
first.set_current()
stream = first.create_stream()
memory = first.memory_resource.allocate(4096, stream=stream)
pinned = LegacyPinnedMemoryResource().allocate(4096)
values = np.from_dlpack(pinned).view(np.float32)
values[:] = np.arange(1024)
memory.copy_from(pinned, stream=stream)
scale = ObjectCode.from_cubin(cubin()).get_kernel("scale")
launch(stream, LaunchConfig(grid=4, block=256), scale, memory, np.float32(3), np.uint32(1024))
memory.copy_to(pinned, stream=stream)
stream.record().sync()
print(len(Device.get_all_devices()), first.can_access_peer(second), values[:3].tolist())
"""


def test_the_real_cuda_core_works_in_a_child_which_has_devices_of_the_same_kind() -> None:
    """It keeps contexts as long as its process, so it has one of its own here, and leaks them."""
    with plug(3, check=False):
        child = [sys.executable, "-c", CORE]
        done = subprocess.run(child, capture_output=True, text=True, check=False)
    assert done.stdout == "3 True [0.0, 3.0, 6.0]\n", done.stderr


BREAKS_A_RULE = """
from tests.cuda.raw import Gpu, ask
one = Gpu(0)
one.spin()
ask("cuMemAlloc", 64)
one.stop()
"""


def test_what_a_child_process_does_wrong_fails_its_parents_test() -> None:
    """As its own problems do: calls beside a kernel, and leaks."""
    with plug(1, check=False) as standin:
        subprocess.run([sys.executable, "-c", BREAKS_A_RULE], check=True)
    assert "cuMemAlloc was called while a kernel lives on cuda:0" in standin.problems[0]
    assert any("leak on cuda:0: 64 bytes" in text for text in standin.problems)
    assert all(text.startswith("in child ") for text in standin.problems)


def test_a_launch_with_bad_arguments_is_refused(gpus: Standin) -> None:
    """Too many threads, too much shared memory, no such stream."""
    with gpu() as one:
        arguments = ((one.memory, Pointer), (1, Word))
        assert one.launch("put", *arguments, threads=2048) == 1
        assert one.launch("put", *arguments, blocks=0) == 1
        stale = ask("cuStreamCreate", 0)
        ask("cuStreamDestroy", stale)
        assert one.launch("put", *arguments, stream=stale) == 400
