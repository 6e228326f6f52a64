"""``docs/arrays.md`` runs as it stands, on a host device and on the stand-in's GPU."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ringflow
from ringflow.device.cuda import driver
from tests.cuda.engines import opened_engine
from tests.cuda.library import Library
from tests.cuda.standin import Standin
from tests.engine.arrays import Ask, Fold, arrays, folded, hash_of
from tests.engine.kernels import adder
from tests.producers import CudaArray, Stream

pytestmark = pytest.mark.anyio

TEXT = (Path(__file__).parents[2] / "docs" / "arrays.md").read_text(encoding="utf-8")
READS, GIVES, NAMES_STREAM = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
CELLS = np.arange(4096, dtype=np.float32)


async def _run(block: str, names: dict[str, Any]) -> None:
    code = compile(block, "docs/arrays.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if (waiting := eval(code, names)) is not None:
        await waiting


@pytest.mark.parametrize("device", ["host:0", "cuda:0"])
async def test_regions_are_read_as_documented(gpus: Standin, folder: Path, device: str) -> None:
    regions = (
        ringflow.Region("state", dtype="uint64", shape=(4,)),
        ringflow.Region("values", dtype="float32", shape=(4096,), initial=CELLS),
    )
    async with opened_engine(folder, device) as engine:
        names: dict[str, Any] = {"np": np}
        names["kernel"] = await engine.launch(adder(regions=regions), device=device)
        block = READS if device == "host:0" else READS.replace('["values"])  # any', READS_ON_HOST)
        await _run(block, names)
    for name in ("values", "same", "own"):
        np.testing.assert_array_equal(names[name], CELLS)


# Numpy has no arrays in a GPU's memory, so it asks for a copy.
READS_ON_HOST = '["values"], device="cpu")  # any'


async def test_arrays_are_given_as_documented(gpus: Standin, folder: Path) -> None:
    driver.start()
    library = Library(0)
    array = np.arange(1000, dtype=np.float32)
    on_gpu = library.make(array)
    names: dict[str, Any] = {"ringflow": ringflow, "Load": lambda: Fold(1)}
    async with opened_engine(folder, "cuda:0") as engine:
        kernel = names["kernel"] = await engine.launch(arrays(), device="cuda:0")
        names["array"] = array
        await _run(GIVES, names)
        assert names["region"].initial is array
        names["array"] = CudaArray(on_gpu, array.shape, "<f4")
        names["stream"] = Stream(library.stream)
        await _run(NAMES_STREAM, names)
        assert await hash_of(kernel) == folded([(1, array.tobytes())] * 2)
        assert (await kernel.call(Ask(), timeout_s=30)).sequence == 4
    library.close()
