"""Opening GPUs: by which names, what each thing that is missing says, and leaving them behind."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pytest

from ringflow.device.compiler.api import CompileTarget, compile_source
from ringflow.device.cuda import driver
from ringflow.device.cuda.context import HEAP_BYTES, PRINTF_BYTES
from ringflow.device.registry import open_device
from ringflow.errors import DeviceError, UnknownDeviceError, UsageError
from tests.cuda.kernels import PLAIN, opened, plain
from tests.cuda.standin import Fault, Standin

UUID = "GPU-00000000-0000-0000-0000-000000000000"


def test_a_gpu_opens_by_ordinal_and_by_uuid(gpus: Standin) -> None:
    """The ordinals of different tools differ; the UUID is nvidia-smi's."""
    second = opened("cuda:1")
    again = opened(f"cuda:{second.uuid}")
    assert (again.uuid, again.context.ordinal) == (second.uuid, 1)
    assert again.name == f"cuda:{second.uuid}"
    assert second.target == CompileTarget("sm_90")
    again.close()
    second.close()


@pytest.mark.parametrize("name", ["cuda:2", f"cuda:{UUID}"])
def test_an_unknown_gpu_is_told_which_there_are(gpus: Standin, name: str) -> None:
    """With their UUIDs, and what hides GPUs."""
    with pytest.raises(UnknownDeviceError, match=r"cuda:1 \(GPU-.*CUDA_VISIBLE_DEVICES") as raised:
        open_device(name)
    assert isinstance(raised.value, DeviceError)  # as is all else that keeps a GPU from opening
    assert (raised.value.call, raised.value.code) == ("open", "unknown device")


@pytest.mark.parametrize("name", ["cuda:", "cuda:01", "cuda:-1", "cuda:GPU-1", "cuda", "gpu:0"])
def test_a_name_of_no_form_needs_no_driver(name: str) -> None:
    """The forms are listed."""
    with pytest.raises(UnknownDeviceError, match="cuda:GPU-UUID"):
        open_device(name)


def test_options_of_other_devices_are_refused(gpus: Standin) -> None:
    """A limit that nothing obeys would be a trap."""
    with pytest.raises(UsageError, match="memcheck is for host devices"):
        open_device("cuda:0", memcheck=True)
    with pytest.raises(UsageError, match="mapped_limit_bytes is for GPUs"):
        open_device("host:0", mapped_limit_bytes=1 << 20)


def test_without_a_driver_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As cuda-python puts it, and what to install."""

    def missing(*arguments: Any) -> Any:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(driver.bindings(), "cuInit", missing)
    with pytest.raises(DeviceError, match=r"install it.*libcuda.so.1") as raised:
        open_device("cuda:0")
    assert raised.value.code == "no driver"


def test_without_a_gpu_the_error_says_so() -> None:
    """As on a machine whose GPUs are hidden."""
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES") as raised:
        open_device("cuda:0")
    assert (raised.value.call, raised.value.code) == ("cuInit", "CUDA_ERROR_NO_DEVICE")


@pytest.mark.parametrize("gpus", [{"driver_version": 12080}], indirect=True)
def test_an_old_driver_is_refused(gpus: Standin) -> None:
    """It would refuse each cubin, with a text that says less."""
    with pytest.raises(DeviceError, match=r"12\.8, 13\.0 is needed; update") as raised:
        opened()
    assert raised.value.code == "old driver"


@pytest.mark.parametrize(
    ("gpus", "text", "code"),
    [
        ({"attributes": {"KERNEL_EXEC_TIMEOUT": 1}}, "without a display", "kernel timeout"),
        ({"attributes": {"COOPERATIVE_LAUNCH": 0}}, "no cooperative launches", "not supported"),
        ({"attributes": {"CAN_MAP_HOST_MEMORY": 0}}, "no mapped host memory", "not supported"),
    ],
    indirect=["gpus"],
)
def test_gpus_that_run_no_persistent_kernels_are_refused(
    gpus: Standin, text: str, code: str
) -> None:
    """Hazard 5: a display's driver kills long kernels."""
    with pytest.raises(DeviceError, match=text) as raised:
        opened()
    assert raised.value.code == code
    assert gpus.calls("cuDevicePrimaryCtxRetain") == []


@pytest.mark.parametrize("gpus", [{"architecture": (19, 0)}], indirect=True)
def test_an_architecture_that_nvrtc_does_not_know_is_told(gpus: Standin) -> None:
    """The device opens, without kernels of ringflow's own; code for it can't be compiled."""
    device = opened()
    allocation = device.allocate(100_000, label="a")
    assert len(device.digest_blocks(allocation)) == 32
    with pytest.raises(DeviceError, match=r"cannot compile for sm_190.*install an NVRTC"):
        compile_source(PLAIN, entry_point="count", target=device.target, cache=None)
    with pytest.raises(DeviceError, match="compile it for 'sm_190'") as raised:
        device.load(plain())
    assert raised.value.code == "target"
    device.close()


def test_limits_are_set_before_anything_runs(gpus: Standin) -> None:
    """Hazard 12: what grows later synchronises the context."""
    device = opened(local_memory_bytes=5000)
    assert device.context.local_memory_bytes == 5008  # in sixteens
    names = driver.bindings().CUlimit
    asked = ("STACK_SIZE", "PRINTF_FIFO_SIZE", "MALLOC_HEAP_SIZE")
    with device.context.current():
        found = [driver.call("cuCtxGetLimit", getattr(names, f"CU_LIMIT_{a}")) for a in asked]
    assert found == [5008, PRINTF_BYTES, HEAP_BYTES]
    device.close()
    opened(local_memory_bytes=5000).close()
    assert len(gpus.calls("cuCtxSetLimit")) == 6  # the next context has its driver's limits again
    assert all(call.live == 0 for call in gpus.calls("cuCtxSetLimit", "cuMemHostAlloc"))


def test_no_stream_waits_for_the_legacy_one(gpus: Standin) -> None:
    """Hazard 3: other libraries' work there would wait for kernels that never end."""
    device = opened()
    streams = [*device.context._streams, *device.launches.grids.streams]
    with device.context.current():
        flags = [driver.call("cuStreamGetFlags", stream) for stream in streams]
    assert len(flags) > 28
    assert set(flags) == {1}
    device.close()


def test_memory_is_taken_once(gpus: Standin) -> None:
    """Nine tenths of what is free, in one piece, and pinned memory besides."""
    device = open_device("cuda:0", mapped_limit_bytes=1 << 20)
    assert device.memory_bytes > (256 << 20) * 8 // 10
    before = gpus.calls("cuMemAlloc", "cuMemHostAlloc")
    assert len(before) == 2
    device.free(device.allocate(1 << 20, label="a"))
    device.free(device.allocate_mapped(1 << 16, label="b"))
    assert gpus.calls("cuMemAlloc", "cuMemHostAlloc") == before
    device.close()


@pytest.mark.parametrize("gpus", [{"faults": [Fault("cuMemHostAlloc", code=2)]}], indirect=True)
def test_host_memory_that_cannot_be_locked_is_told(gpus: Standin) -> None:
    """Less of the GPU's memory would not help."""
    with pytest.raises(DeviceError, match=r"smaller mapped_limit_bytes.*ulimit -l") as raised:
        opened()
    assert "memory_limit_bytes" not in str(raised.value)
    assert (raised.value.call, raised.value.code) == ("cuMemHostAlloc", "CUDA_ERROR_OUT_OF_MEMORY")
    opened().close()


LEAVES = """
    import atexit, contextlib, sys
    from tests.cuda.standin import install, plug
    from tests.cuda.standin.launching import _pool
    install(), _pool()  # what stands for the GPU works on until the last
    stack = contextlib.ExitStack()
    standin = stack.enter_context(plug(1))

    @atexit.register  # registered first, so it runs last
    def tell():
        freed = standin.calls("cuMemFree", "cuMemFreeHost", "cuModuleUnload")
        print("live", standin.live(0), [call.live for call in freed if call.live])
        print("freed", sorted({call.name for call in freed}))
        with contextlib.suppress(AssertionError):
            stack.close()
        print("problems", standin.problems)
        sys.stdout.flush()

    from tests.cuda.kernels import opened, launched, answer
    kernels = [launched(opened(), "echo", grid=(2, 1, 1)) for _ in range(1)]
    assert answer(kernels[0]) == b"abcd"
"""


def test_a_program_that_just_ends_stops_its_kernels_first() -> None:
    """Hazard 4: stop word, wait with a deadline, release; a spinning kernel would hold it up."""
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LEAVES)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "live 0 []",
        "freed ['cuMemFree', 'cuMemFreeHost', 'cuModuleUnload']",
        "problems []",
    ]


def test_nothing_of_cuda_is_loaded_before_a_gpu_is_opened() -> None:
    """Neither by the import nor by host devices."""
    program = """
        import sys, ringflow
        from ringflow.device.registry import open_device
        open_device("host:0").close()
        print([name for name in sys.modules if name == "cuda" or name.startswith("cuda.")])
        print([name for name in sys.modules if name.startswith("ringflow.device.cuda")])
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout == "[]\n[]\n"
