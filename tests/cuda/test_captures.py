"""Graphs that another library captures in this process: ringflow's calls leave them alone."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from ringflow.arrays import taken
from ringflow.device.abi import Command
from ringflow.device.api import LaunchStatus
from ringflow.device.arrays import read
from ringflow.device.cuda import driver
from tests.cuda.kernels import DEADLINE_S, answer, launched, opened, until
from tests.cuda.library import Library
from tests.cuda.raw import ask, code_of, gpu
from tests.cuda.standin import Standin

DATA = np.arange(5000, dtype=np.float32)


@pytest.mark.usefixtures("plain_environment")
def test_a_query_spoils_a_capture_of_another_thread(gpus: Standin) -> None:
    """Unless its own thread has said that it has no part in it; each thread speaks for itself."""
    relaxed = driver.bindings().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    with gpu() as one:
        with gpus.capturing():
            assert code_of("cuStreamQuery", one.stream) == 900
            assert [text for text in gpus.forget_problems() if "spoiled" in text]
            before = ask("cuThreadExchangeStreamCaptureMode", relaxed)
            assert code_of("cuStreamQuery", one.stream) == 0
            found: list[int] = []
            asking = threading.Thread(target=lambda: found.append(code_of("cuMemAlloc", 64)))
            asking.start()
            asking.join()
            assert found == [900]
            assert ask("cuThreadExchangeStreamCaptureMode", before) == relaxed
            assert code_of("cuMemAlloc", 64) == 900
        gpus.forget_problems()
        assert code_of("cuStreamQuery", one.stream) == 0


@pytest.mark.parametrize("gpus", [{"loads_while_running": True}], indirect=True)
def test_a_life_of_kernels_spoils_no_capture(gpus: Standin) -> None:
    """Opening, loading, copies, watching, digests, the end: all go on while somebody captures."""
    with gpus.capturing():
        first, second = opened("cuda:0"), opened("cuda:1")
        kernel = launched(first, "echo")
        looks = len(gpus.calls("cuStreamQuery"))
        until(lambda: len(gpus.calls("cuStreamQuery")) > looks)
        assert answer(kernel) == b"abcd"
        source, target = first.allocate(1 << 20, label="from"), second.allocate(1 << 20, label="to")
        first.copy_in(source, b"\7" * (1 << 20))
        first.copy_to_peer(source, second, target)
        assert second.digest_blocks(target) == first.digest_blocks(source)
        kernel.command(Command.RETURN)
        assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
        kernel.close()
        first.free(source)
        second.free(target)
        first.unload(kernel.code)
        first.close()
        second.close()


@pytest.mark.parametrize("is_open", [False, True])
def test_reading_an_array_spoils_no_capture(gpus: Standin, is_open: bool) -> None:
    """Whether ringflow has its GPU open or not; the thread's own mode is as before."""
    driver.start()
    library = Library(1)
    array = taken(library.interface(library.make(DATA), DATA))
    device = opened("cuda:1") if is_open else None
    with gpus.capturing():
        assert bytes(read(array)) == DATA.tobytes()
    mode = driver.bindings().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
    assert driver.call("cuThreadExchangeStreamCaptureMode", mode) == mode
    if device is not None:
        device.close()
    library.close()
