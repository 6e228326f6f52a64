"""A held kernel's regions as other libraries' arrays, and these as what kernels begin with."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

import ringflow
from ringflow.dlpack import given_count
from tests.engine.arrays import Fold, Mirror, arrays, folded, hash_of
from tests.engine.kernels import Add, adder
from tests.producers import Capsules, CudaArray

pytestmark = pytest.mark.anyio

CELLS = np.arange(4096, dtype=np.float32)


async def test_a_region_is_read_where_it_lies(engine: ringflow.Engine) -> None:
    """By numpy's protocols and DLPack: the device's own memory, and not to be written."""
    kernel = await engine.launch(adder(), device="host:0")
    await (await kernel.send(Add(3))).done()
    async with kernel.held() as state:
        region = state["cells"]
        at = engine._core.runtimes["adder"].instance.resident.regions["cells"].address
        seen = [region.numpy(), np.asarray(region), np.from_dlpack(region)]
        for array in seen:
            assert array.ctypes.data == at
            assert not array.flags.writeable
            assert (array.dtype, array.shape) == (np.float32, (4096,))
        assert state["state"].numpy()[1] == 3
        assert region.__dlpack_device__() == (1, 0)
        assert not hasattr(region, "__cuda_array_interface__")
        copies = [
            np.array(region, dtype=np.float64),
            np.from_dlpack(region, copy=True),
            np.asarray(region, copy=True),
        ]
        for copy in copies:
            assert copy.ctypes.data != at
            assert copy.flags.writeable
            np.testing.assert_array_equal(copy, seen[0])
        assert region.__array__(np.float32, copy=False).ctypes.data == at
        with pytest.raises(ValueError, match="copy"):
            region.__array__(np.float64, copy=False)


async def test_read_only_is_not_given_where_it_cannot_be_told(engine: ringflow.Engine) -> None:
    """A library of before DLPack 1.0 gets a copy or nothing: it would take it as writable."""
    kernel = await engine.launch(adder(), device="host:0")
    async with kernel.held() as state:
        region = state["cells"]
        with pytest.raises(BufferError, match="read-only"):
            region.__dlpack__()
        with pytest.raises(BufferError, match="copied to host memory only"):
            region.__dlpack__(max_version=(1, 0), dl_device=(2, 0))
        assert type(region.__dlpack__(copy=True)).__name__ == "PyCapsule"


async def test_a_region_is_of_no_use_after_the_hold(engine: ringflow.Engine) -> None:
    """Each call says so; the memory of an array from before stays, even without the kernel."""
    kernel = await engine.launch(adder(), device="host:0")
    gc.collect()
    before = given_count()
    async with kernel.held() as state:
        region = state["cells"]
        kept = np.from_dlpack(region)
        direct = region.numpy()
    uses: list[Callable[[], object]] = [
        region.numpy,
        region.__dlpack_device__,
        lambda: region.__dlpack__(max_version=(1, 0)),
        lambda: np.asarray(region),
        lambda: region.digest,
    ]
    for use in uses:
        with pytest.raises(ringflow.UsageError, match=r"'adder' is held no longer.*'cells'"):
            use()
    await engine.stop("adder")
    assert given_count() == before + 1
    assert kept.sum() == direct.sum()  # not what was freed
    del kept
    gc.collect()
    assert given_count() == before


async def test_a_region_that_is_not_there_is_named_with_those_that_are(
    engine: ringflow.Engine,
) -> None:
    """It is a ``KeyError`` too, so that ``in`` and ``get`` work as of any mapping."""
    kernel = await engine.launch(adder())
    async with kernel.held() as state:
        with pytest.raises(
            ringflow.UnknownRegionError, match="no region 'kep'; there are: state, cells;"
        ):
            state["kep"]
        assert ("kep" in state, state.get("kep"), "state" in state) == (False, None, True)


async def test_a_region_may_be_used_while_the_engine_ends_the_hold(folder: Path) -> None:
    """The kernel is gone, its memory may be others' by now: an error, no array."""
    ready, go = anyio.Event(), anyio.Event()
    found: list[str] = []

    async def hold(kernel: ringflow.KernelHandle) -> None:
        async with kernel.held() as state:
            ready.set()
            await go.wait()
            try:
                state["cells"].numpy()
            except ringflow.RingflowError as error:
                found.append(str(error))

    async with anyio.create_task_group() as tasks:
        async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
            kernel = await engine.launch(adder(), device="host:0")
            tasks.start_soon(hold, kernel)
            await ready.wait()
        go.set()
    assert len(found) == 1


async def test_digests_are_those_of_the_hold(engine: ringflow.Engine) -> None:
    kernel = await engine.launch(adder(), device="host:0")
    async with kernel.held() as state:
        held = {name: region.digest for name, region in state.items()}
    assert held == (await engine.checkpoint("adder", name="now")).digests


@pytest.mark.parametrize("strided", [False, True])
async def test_a_kernel_begins_with_any_librarys_array(
    engine: ringflow.Engine, strided: bool
) -> None:
    """In C order, whatever its strides are; and restarts with it."""
    values = np.random.default_rng(5).random((2, 4096), np.float32)[0]
    given = Capsules(values[::-1] if strided else values)
    regions = (
        ringflow.Region("state", dtype="uint64", shape=(4,)),
        ringflow.Region("cells", dtype="float32", shape=(4096,), initial=given),
    )
    kernel = await engine.launch(adder(regions=regions), device="host:0")
    async with kernel.held() as state:
        np.testing.assert_array_equal(state["cells"].numpy(), given.array)
    before = given_count()
    del regions
    gc.collect()
    assert given_count() == before - 1  # the kernel has its own memory, and keeps no array


async def test_messages_carry_any_librarys_array(engine: ringflow.Engine) -> None:
    """The bytes that it has when it is sent; its strides must be those of C order."""
    kernel = await engine.launch(arrays(), device="host:0")
    values = np.arange(3000, dtype=np.uint32)
    givens: list[Any] = [values, Capsules(values), Capsules(values, knows_versions=False)]
    sent = [(salt, values.tobytes()) for salt in range(len(givens))]
    for salt, given in enumerate(givens):
        await kernel.send(Fold(salt), data=given)
    assert await hash_of(kernel) == folded(sent)
    reply = await kernel.call(Mirror(), data=Capsules(values), timeout_s=30)
    assert np.array_equal(reply.array("uint32"), ~values)
    with pytest.raises(ringflow.UsageError, match="not contiguous"):
        await kernel.send(Fold(9), data=Capsules(values[::2]))
    with pytest.raises(ringflow.UsageError, match="not contiguous"):
        await kernel.send(Fold(9), data=CudaArray(64, (2, 2), "<f4", strides=(4, 8)))


async def test_one_kernels_region_is_anothers_message(engine: ringflow.Engine) -> None:
    """A held region is an array like any other."""
    source = await engine.launch(adder(), device="host:0")
    target = await engine.launch(arrays(), device="host:1")
    async with source.held() as state:
        await target.send(Fold(1), data=state["cells"])
        cells = state["cells"].numpy().tobytes()
    assert await hash_of(target) == folded([(1, cells)])


@pytest.mark.library("torch")
async def test_pytorch_reads_and_gives(engine: ringflow.Engine) -> None:
    import torch  # type: ignore[import-not-found, unused-ignore]

    given = torch.arange(4096, dtype=torch.float32)
    regions = (
        ringflow.Region("state", dtype="uint64", shape=(4,)),
        ringflow.Region("cells", dtype="float32", shape=(4096,), initial=given),
    )
    kernel = await engine.launch(adder(regions=regions), device="host:0")
    async with kernel.held() as state:
        tensor = torch.from_dlpack(state["cells"])
        assert tensor.data_ptr() == state["cells"].numpy().ctypes.data
        assert torch.equal(tensor, given)
    echo = await engine.launch(arrays(), device="host:0")
    reply = await echo.call(Mirror(), data=given, timeout_s=30)
    assert bytes(reply.data) == (~given.numpy().view(np.uint32)).tobytes()
