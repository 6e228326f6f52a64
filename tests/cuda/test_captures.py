"""Graphs that another library captures in this process: ringflow's calls leave them alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ringflow.arrays import taken
from ringflow.device.arrays import read
from ringflow.device.cuda import driver
from ringflow.errors import DeviceError
from tests.cuda.kernels import answer, end, launched, opened, until
from tests.cuda.library import Library
from tests.cuda.raw import ask, code_of, gpu
from tests.cuda.standin import Standin

DATA = np.arange(5000, dtype=np.float32)


@pytest.fixture
def library(gpus: Standin) -> Iterator[Library]:
    """Another library on the second GPU."""
    driver.start()
    made = Library(1)
    yield made
    made.close()


def test_a_query_spoils_a_capture_of_another_thread(gpus: Standin, library: Library) -> None:
    """Unless its own thread has said that it has no part in it; each thread speaks for itself."""
    relaxed = driver.bindings().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    with gpu() as one:
        with library.capturing():
            before = ask("cuThreadExchangeStreamCaptureMode", relaxed)
            assert code_of("cuStreamQuery", one.stream) == 0
            assert ask("cuThreadExchangeStreamCaptureMode", before) == relaxed
        with pytest.raises(DeviceError, match="901"), library.capturing():
            assert code_of("cuStreamQuery", one.stream) == 900
        ask("cuThreadExchangeStreamCaptureMode", relaxed)
        spoiled = pytest.raises(DeviceError, match="901")
        with ThreadPoolExecutor(1) as other, spoiled, library.capturing():
            assert other.submit(code_of, "cuMemAlloc", 64).result() == 900
        ask("cuThreadExchangeStreamCaptureMode", before)
        assert code_of("cuStreamQuery", one.stream) == 0


@pytest.mark.parametrize("gpus", [{"loads_while_running": True}], indirect=True)
def test_a_life_of_kernels_spoils_no_capture(gpus: Standin, library: Library) -> None:
    """Opening, loading, copies, watching, digests, the end: all go on while somebody captures."""
    with library.capturing():
        first, second = opened("cuda:0"), opened("cuda:1")
        kernel = launched(first, "echo")
        looks = len(gpus.calls("cuStreamQuery"))
        until(lambda: len(gpus.calls("cuStreamQuery")) > looks)
        assert answer(kernel) == b"abcd"
        source, target = first.allocate(1 << 20, label="from"), second.allocate(1 << 20, label="to")
        first.copy_in(source, b"\7" * (1 << 20))
        first.copy_to_peer(source, second, target)
        assert second.digest_blocks(target) == first.digest_blocks(source)
        end(kernel)
        first.free(source)
        second.free(target)
        first.close()
        second.close()


@pytest.mark.parametrize("is_open", [False, True])
def test_reading_an_array_spoils_no_capture(library: Library, is_open: bool) -> None:
    """Whether ringflow has its GPU open or not; the thread's own mode is as before."""
    array = taken(library.interface(library.make(DATA), DATA, stream=None))
    device = opened("cuda:1") if is_open else None
    with library.capturing():
        assert bytes(read(array)) == DATA.tobytes()
    mode = driver.bindings().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
    assert driver.call("cuThreadExchangeStreamCaptureMode", mode) == mode
    if device is not None:
        device.close()
