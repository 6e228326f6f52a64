"""Arrays between a real GPU's kernels and other libraries in the process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import ringflow
from ringflow.arrays import taken
from ringflow.device.arrays import read
from ringflow.device.cuda import driver
from tests.cuda.library import Library
from tests.engine.arrays import Fold, Mirror, arrays, folded, hash_of
from tests.engine.kernels import Add, adder
from tests.gpu.conftest import skip_without

pytestmark = [pytest.mark.gpu, pytest.mark.anyio]

VALUES = np.arange(5_000, dtype=np.float32)
CELLS = np.arange(4096, dtype=np.float32)


@pytest.fixture
def library() -> Iterator[Library]:
    skip_without(1)
    driver.start()
    made = Library(0)
    yield made
    made.close()


async def test_arrays_are_read_beside_a_running_kernel(
    library: Library, engine: ringflow.Engine
) -> None:
    """What the library's stream writes, by each protocol, again and again."""
    kernel = await engine.launch(arrays(), device="cuda:0")
    sent = []
    for round in range(20):
        values = VALUES + round
        library.write(library.first, values)
        protocol = library.interface if round % 2 else library.capsules
        await kernel.send(Fold(round), data=protocol(library.first, values))
        sent.append((round, values.tobytes()))
    assert await hash_of(kernel) == folded(sent)


async def test_a_region_is_read_where_it_lies(engine: ringflow.Engine) -> None:
    kernel = await engine.launch(adder(), device="cuda:0")
    await (await kernel.send(Add(3))).done()
    async with kernel.held() as state:
        assert bytes(read(taken(state["cells"]))) == state["cells"].numpy().tobytes()
        np.testing.assert_array_equal(state["cells"].numpy(), CELLS + np.float32(0.5))


@pytest.mark.library("torch")
async def test_pytorch(engine: ringflow.Engine) -> None:
    import torch  # type: ignore[import-not-found, unused-ignore]

    given = torch.arange(4096, dtype=torch.float32, device="cuda:0").flip(0).contiguous()
    regions = (
        ringflow.Region("state", dtype="uint64", shape=(4,)),
        ringflow.Region("cells", dtype="float32", shape=(4096,), initial=given),
    )
    kernel = await engine.launch(adder(regions=regions), device="cuda:0")
    async with kernel.held() as state:
        tensor = torch.from_dlpack(state["cells"])
        assert tensor.device.index == 0
        assert torch.equal(tensor, given)
        torch.cuda.current_stream().synchronize()
    echo = await engine.launch(arrays(), device="cuda:0")
    reply = await echo.call(Mirror(), data=given, timeout_s=60)
    np.testing.assert_array_equal(reply.array("uint32"), ~CELLS[::-1].copy().view(np.uint32))


@pytest.mark.library("cupy")
async def test_cupy(engine: ringflow.Engine) -> None:
    import cupy  # type: ignore[import-not-found, unused-ignore]

    with cupy.cuda.Stream(non_blocking=True) as stream:
        given = cupy.arange(4096, dtype=cupy.float32)[::-1].copy()
        regions = (
            ringflow.Region("state", dtype="uint64", shape=(4,)),
            ringflow.Region("cells", dtype="float32", shape=(4096,), initial=given),
        )
        kernel = await engine.launch(adder(regions=regions), device="cuda:0")
        async with kernel.held() as state:
            for array in (cupy.from_dlpack(state["cells"]), cupy.asarray(state["cells"])):
                assert bool((array == given).all())
            stream.synchronize()
        echo = await engine.launch(arrays(), device="cuda:0")
        reply = await echo.call(Mirror(), data=given, timeout_s=60)
    np.testing.assert_array_equal(reply.array("uint32"), ~CELLS[::-1].copy().view(np.uint32))
