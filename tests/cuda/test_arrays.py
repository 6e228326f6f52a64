"""Arrays between a GPU's kernels and other libraries, on the stand-in's GPUs."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ringflow
from ringflow.arrays import taken
from ringflow.device.arrays import read
from ringflow.device.cuda import driver, foreign
from ringflow.dlpack import given_count, take
from ringflow.storage import block_digests, region_digest
from tests.cuda.engines import opened_engine, small
from tests.cuda.kernels import until
from tests.cuda.library import Library
from tests.cuda.standin import Fault, FaultKind, Standin
from tests.engine.arrays import Fold, Mirror, arrays, folded, hash_of
from tests.engine.kernels import Add, adder
from tests.engine.test_variables import tally
from tests.producers import CudaArray

pytestmark = pytest.mark.anyio

OLD = np.zeros(5000, np.float32)
NEW = np.arange(5000, dtype=np.float32)


@pytest.fixture
def library(gpus: Standin) -> Iterator[Library]:
    """Another library on the second GPU."""
    driver.start()
    made = Library(1)
    yield made
    made.close()


PROTOCOLS = pytest.mark.parametrize("protocol", ["interface", "capsules", "on_stream"])


def _given(library: Library, address: int, protocol: str) -> Any:
    if protocol == "capsules":
        return library.capsules(address, NEW)
    if protocol == "interface":
        return library.interface(address, NEW)
    return ringflow.on_stream(CudaArray(address, NEW.shape, "<f4"), library.stream)


# Reading


@PROTOCOLS
@pytest.mark.parametrize("is_open", [False, True])
def test_an_array_is_read_once_its_stream_has_made_it(
    gpus: Standin, library: Library, protocol: str, is_open: bool
) -> None:
    """What was there before is not what is read, whether ringflow has the GPU open or not."""
    address = library.make(OLD)
    device = small("cuda:1") if is_open else None
    gpus.arm(Fault("cuMemcpyHtoDAsync", kind=FaultKind.STALL_WORK))
    library.write(address, NEW)
    array = taken(_given(library, address, protocol))
    found: list[memoryview] = []
    reader = threading.Thread(target=lambda: found.append(read(array)))
    began = len(gpus.trace)
    reader.start()
    until(lambda: any(call.name == "cuEventQuery" for call in gpus.trace[began:]))
    assert not found
    gpus.release()
    reader.join(30)
    assert bytes(found[0]) == NEW.tobytes()
    if device is not None:
        device.close()


def test_a_stream_that_does_not_end_has_a_deadline(
    gpus: Standin, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "READY_DEADLINE_S", 0.05)
    address = library.make(OLD)
    gpus.arm(Fault("cuMemcpyHtoDAsync", kind=FaultKind.STALL_WORK))
    library.write(address, NEW)
    array = taken(library.interface(address, NEW))
    with pytest.raises(ringflow.DeviceError, match=r"CudaArray.* has not come to its end") as told:
        read(array)
    assert told.value.code == "timeout"
    gpus.release()


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("is_known", [False, True])
def test_a_gpu_that_is_lost_is_told(
    gpus: Standin, library: Library, is_open: bool, is_known: bool
) -> None:
    """By the wait for the array's stream, or by the first question, if it was lost before."""
    array = taken(library.interface(library.make(OLD), OLD))
    device = small("cuda:1") if is_open else None
    if is_known:
        gpus.kill(1)
    else:
        gpus.arm(Fault("cuEventQuery", code=719))
    with pytest.raises(ringflow.DeviceLostError, match="device 'cuda:1' is lost"):
        read(array)
    if device is not None:
        assert device.lost or is_known
        device.close()


def test_an_array_is_read_beside_a_gpu_that_is_lost(gpus: Standin, library: Library) -> None:
    """Which GPU an address is of is asked in a context that can answer."""
    lost = small("cuda:0")
    array = taken(library.interface(library.make(NEW), NEW))
    gpus.kill(0)
    assert bytes(read(array)) == NEW.tobytes()
    lost.close()


def test_memory_that_is_no_gpus_is_told(gpus: Standin, library: Library) -> None:
    """An address of nobody, or of a library that has freed it; nothing needs a driver for none."""
    for address in (0x1234, NEW.ctypes.data):
        with pytest.raises(ringflow.DeviceError, match="is in no GPU's memory") as told:
            read(taken(CudaArray(address, (4,), "<f4")))
        assert "not freed" in str(told.value)
    assert not read(taken(CudaArray(0, (0, 7), "<f4")))


def test_without_a_driver_in_use_an_array_is_nowhere(gpus: Standin) -> None:
    with pytest.raises(ringflow.DeviceError, match="no GPU is in use here"):
        read(taken(CudaArray(4096, (4,), "<f4")))


# Through an engine


@pytest.mark.parametrize("protocol", ["interface", "capsules"])
async def test_a_kernel_begins_with_a_gpus_array(
    gpus: Standin, library: Library, folder: Path, protocol: str
) -> None:
    """On a host device, on the array's own GPU, and on another one; the kernels run meanwhile."""
    cells = np.random.default_rng(1).random(4096, np.float32)
    make = getattr(library, protocol)
    array = make(library.make(cells), cells)
    regions = (
        ringflow.Region("state", dtype="uint64", shape=(4,)),
        ringflow.Region("cells", dtype="float32", shape=(4096,), initial=array),
    )
    async with opened_engine(folder, "host:0", "cuda:1", "cuda:0") as engine:
        for number, name in enumerate(("host:0", "cuda:1", "cuda:0")):
            kernel = await engine.launch(adder(f"k{number}", regions=regions), device=name)
            async with kernel.held() as state:
                np.testing.assert_array_equal(state["cells"].numpy(), cells)


async def test_messages_carry_a_gpus_array(gpus: Standin, library: Library, folder: Path) -> None:
    """As its stream leaves it, while a kernel runs on that GPU and on the host."""
    interface = library.interface(library.make(NEW), NEW)
    capsules = library.capsules(library.make(NEW), NEW)
    gc.collect()
    before = given_count()
    async with opened_engine(folder, "host:0", "cuda:1") as engine:
        for number, name in enumerate(("host:0", "cuda:1")):
            kernel = await engine.launch(arrays(f"k{number}"), device=name)
            await kernel.send(Fold(1), data=interface)
            await kernel.send(Fold(2), data=capsules)
            assert await hash_of(kernel) == folded([(1, NEW.tobytes()), (2, NEW.tobytes())])
            reply = await kernel.call(Mirror(), data=capsules, timeout_s=30)
            assert np.array_equal(reply.array("uint32"), ~NEW.view(np.uint32))
            with pytest.raises(ringflow.LimitExceededError, match="bulk_bytes"):
                await kernel.send(Fold(1), data=CudaArray(64, (1 << 20,), "<f4"))
            with pytest.raises(ringflow.DeviceError, match="in no GPU's memory"):
                await kernel.send(Fold(1), data=CudaArray(64, (4,), "<f4"))
            assert (await kernel.send(Fold(3), data=NEW)).sequence == 5  # as if nothing was
    gc.collect()
    assert given_count() == before


async def test_a_gpus_region_is_given_where_it_lies(gpus: Standin, folder: Path) -> None:
    """To whoever speaks one of the protocols of GPUs, read-only; to numpy as a copy."""
    async with opened_engine(folder, "host:0", "cuda:1") as engine:
        kernel = await engine.launch(adder(), device="cuda:1")
        await (await kernel.send(Add(3))).done()
        at = engine._core.runtimes["adder"].instance.resident.regions["cells"].address
        async with kernel.held() as state:
            region = state["cells"]
            assert region.__dlpack_device__() == (2, 1)
            for stream in (None, -1, 1, 2, 4096):
                found = take(region.__dlpack__(stream=stream, max_version=(1, 0)))
                tensor = found.tensor
                assert (tensor.address, tensor.device, tensor.read_only) == (at, (2, 1), True)
                assert (tensor.dtype, tensor.shape) == ("float32", (4096,))
                found.release()
            with pytest.raises(BufferError, match="copied to host memory only"):
                region.__dlpack__(max_version=(1, 0), copy=True, dl_device=(2, 1))
            interface = region.__cuda_array_interface__
            assert (interface["data"], interface["stream"]) == ((at, True), None)
            assert not hasattr(region, "__array_interface__")
            cells = np.arange(4096, dtype=np.float32)
            copies = [
                region.numpy(),
                np.asarray(region),
                np.from_dlpack(region, device="cpu"),
                np.frombuffer(read(taken(region)), np.float32),
            ]
            for copy in copies:
                np.testing.assert_array_equal(copy, cells + np.float32(0.5))
            with pytest.raises(ValueError, match="needs a copy"):
                np.asarray(region, copy=False)
            assert region.digest == region_digest(block_digests(region.numpy()))
        with pytest.raises(ringflow.UsageError, match="held no longer"):
            _ = region.__cuda_array_interface__


async def test_a_held_region_stays_while_code_is_loaded_beside_it(
    gpus: Standin, folder: Path
) -> None:
    """The grid is parked for that: its memory stays where it is, and no message is applied."""
    async with opened_engine(folder, "cuda:0") as engine:
        kernel = await engine.launch(adder("held"), device="cuda:0")
        await (await kernel.send(Add(3))).done()
        async with kernel.held() as state:
            waiting = await kernel.send(Add(4))
            found = take(state["state"].__dlpack__(max_version=(1, 0)))
            beside = await engine.launch(adder("beside"), device="cuda:0")
            await (await beside.send(Add(5))).done()
            seen = taken(CudaArray(found.tensor.address, (4,), "<u8"))
            assert np.frombuffer(read(seen), np.uint64)[1] == 3
            found.release()
        await waiting.done()


async def test_one_gpus_region_is_another_kernels_message(gpus: Standin, folder: Path) -> None:
    async with opened_engine(folder, "cuda:0", "cuda:1") as engine:
        source = await engine.launch(adder(), device="cuda:0")
        target = await engine.launch(arrays(), device="cuda:1")
        async with source.held() as state:
            await target.send(Fold(1), data=state["cells"])
            cells = state["cells"].numpy().tobytes()
        assert await hash_of(target) == folded([(1, cells)])


@pytest.mark.parametrize("protocol", ["capsule", "interface"])
async def test_lent_memory_is_not_anothers_before_it_is_back(
    gpus: Standin, folder: Path, protocol: str
) -> None:
    """A library still reads a region of a kernel that is gone, on a device that is closed."""
    kept: Any
    async with opened_engine(folder, "cuda:0") as engine:
        device = engine._core.devices["cuda:0"]
        free_bytes = device.free_bytes
        kernel = await engine.launch(adder(), device="cuda:0")
        async with kernel.held() as state:
            region = state["cells"]
            if protocol == "capsule":
                kept = take(region.__dlpack__(max_version=(1, 0)))
                address = kept.tensor.address
            else:
                kept = region
                address = region.__cuda_array_interface__["data"][0]
        await engine.stop("adder")
        assert device.free_bytes == free_bytes - 4096 * 4
        other = device.allocate(4096 * 4, label="next")
        assert other.address != address
        device.free(other)
    assert not _freed(gpus)
    del region, state
    if protocol == "capsule":
        kept.release()
    del kept
    gc.collect()
    assert len(_freed(gpus)) == 1


def _freed(gpus: Standin) -> list[Any]:
    return [call for call in gpus.calls("cuMemFree", "cuMemFree_v2") if call.ordinal == 0]


async def test_memory_comes_back_at_once_where_it_may(gpus: Standin, folder: Path) -> None:
    """Lent memory of a closed device goes when another device of that GPU opens or closes."""
    async with opened_engine(folder, "cuda:0") as engine:
        kernel = await engine.launch(adder(), device="cuda:0")
        async with kernel.held() as state:
            kept = take(state["cells"].__dlpack__(max_version=(1, 0)))
    again = small("cuda:0")
    kept.release()
    del state
    gc.collect()
    assert not _freed(gpus)  # it would wait for whatever runs there now
    again.close()
    assert len(_freed(gpus)) == 2


async def test_a_variable_of_the_code_is_given_as_a_copy(gpus: Standin, folder: Path) -> None:
    """Its memory goes with the code."""
    async with opened_engine(folder, "cuda:0") as engine:
        kernel = await engine.launch(tally(), device="cuda:0")
        await (await kernel.send(Add(7))).done()
        async with kernel.held() as state:
            total = state["global:total"]
            for refused in (
                lambda: total.__dlpack__(max_version=(1, 0)),
                lambda: total.__cuda_array_interface__,
            ):
                with pytest.raises(BufferError, match="variable of the kernel's code"):
                    refused()
            assert np.from_dlpack(total, device="cpu").tobytes() == total.numpy().tobytes()


# With NVIDIA's own library at the other end


async def test_cuda_core_reads_regions(gpus: Standin, library: Library, folder: Path) -> None:
    """By both protocols: where it lies, what it is, and that it is not to be written."""
    from cuda.core.utils import StridedMemoryView

    async with opened_engine(folder, "cuda:1") as engine:
        kernel = await engine.launch(adder(), device="cuda:1")
        at = engine._core.runtimes["adder"].instance.resident.regions["cells"].address
        async with kernel.held() as state:
            with library.current():
                views = [
                    StridedMemoryView.from_dlpack(state["cells"], stream_ptr=library.stream),
                    StridedMemoryView.from_cuda_array_interface(state["cells"], stream_ptr=-1),
                ]
            for view in views:
                assert (view.ptr, view.shape) == (at, (4096,))
                assert (view.dtype, view.device_id) == (np.float32, 1)
                assert view.readonly
                assert view.is_device_accessible
        del views, view, state


def test_cuda_cores_buffers_and_streams_are_taken(gpus: Standin, library: Library) -> None:
    from cuda.core import Buffer, Stream

    with library.current():
        buffer = Buffer.from_handle(library.make(NEW), NEW.nbytes, owner=library)
        array = ringflow.on_stream(buffer, Stream.from_handle(library.stream))
    assert array.stream == library.stream
    assert bytes(read(taken(buffer))) == bytes(read(array)) == NEW.tobytes()
