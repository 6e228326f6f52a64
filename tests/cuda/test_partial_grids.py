"""Grids that are never there as a whole: something that no ledger knows holds multiprocessors."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Final

import pytest

from ringflow.device.api import LaunchStatus
from ringflow.device.cuda import launch
from ringflow.device.cuda.device import CudaDevice
from ringflow.device.resident import ResidentKernel
from ringflow.errors import KernelStalledError
from tests.cuda.kernels import DEADLINE_S, answer, end, launched, opened, plain, post, until
from tests.cuda.standin import Standin
from tests.device.kernels import resident

pytestmark = pytest.mark.parametrize(
    "gpus", [{"sm_count": 4, "loads_while_running": True}], indirect=True
)
LATE_S: Final = 0.2
LATCH_OTHERS: Final = 9
"""Message of ``trouble``: all blocks but the first wait until its word 2 is set."""
BLOCKS: Final = 50  # beside the hog there is room for fewer of them


class Hog:
    """Another library's kernel that holds all but half an SM."""

    def __init__(self, device: CudaDevice) -> None:
        self.device, self.code = device, device.load(plain())
        self.words = [device.allocate(4, label=name) for name in ("word", "out")]
        with device.context.current():
            self.stream = device.context.make_stream()

    def begin(self) -> None:
        function = self.code.kernel("wait_for").function  # type: ignore[attr-defined]
        addresses = tuple(word.address for word in self.words)
        parameters = (addresses, (ctypes.c_void_p, ctypes.c_void_p))
        context, shape = self.device.context, (7, 1, 1, 1024, 1, 1, 0)
        with context.current():
            context.call("cuLaunchKernel", function, *shape, self.stream, parameters, 0)

    def leave(self) -> None:
        self.device.copy_in(self.words[0], b"\1\0\0\0")
        with self.device.context.current():
            until(lambda: self.device.context.ask("cuStreamQuery", self.stream))


@pytest.fixture
def hog(gpus: Standin) -> Iterator[Hog]:
    device = opened()
    made = Hog(device)
    yield made
    made.leave()
    for word in made.words:
        device.free(word)
    device.unload(made.code)
    device.close()


@pytest.fixture
def first(hog: Hog) -> Iterator[ResidentKernel]:
    """A kernel that is there before all others: the cooperative one."""
    kernel = launched(hog.device, "echo", grid=(2, 1, 1))
    yield kernel
    assert answer(kernel) == b"abcd"
    end(kernel)


@pytest.mark.parametrize("gate_open", [True, False])
def test_a_grid_that_is_there_in_part_returns_when_it_is_given_up(
    hog: Hog, first: ResidentKernel, gate_open: bool
) -> None:
    """Its SMs were gone for as long as the other kernel lived; late blocks return at once."""
    kernel = resident(hog.device, "echo", grid=(BLOCKS, 1, 1))
    hog.begin()
    with pytest.raises(KernelStalledError, match="not all of its blocks have come"):
        kernel.launch(gate_open=gate_open, timeout_s=LATE_S)
    assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
    assert answer(first) == b"abcd"
    hog.leave()
    kernel.relaunch(base_sequence=0, epoch=2, gate_open=True, timeout_s=DEADLINE_S)
    assert answer(kernel) == b"abcd"
    end(kernel)


def test_a_parked_grid_whose_place_was_taken_leaves_what_it_has(
    hog: Hog, first: ResidentKernel
) -> None:
    """It has passed boundaries before, and counts on from them."""
    kernel = launched(hog.device, "echo", grid=(BLOCKS, 1, 1))
    assert answer(kernel) == b"abcd"
    with hog.device.lot.quiet(hog.device.name, "load"):
        hog.begin()
        hog.device.lot.timeout_s = LATE_S
    assert kernel.status is LaunchStatus.ABORTED
    until(lambda: len(hog.device.launches.live) == 1)
    hog.leave()
    kernel.relaunch(base_sequence=1, epoch=2, gate_open=True, timeout_s=DEADLINE_S)
    assert answer(kernel) == b"abcd"
    end(kernel)


def test_a_grid_that_was_there_and_is_given_up_ends_its_message_first(
    hog: Hog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past its first boundary the first block waits for all others, as ever."""
    monkeypatch.setattr(launch, "ABORT_DEADLINE_S", LATE_S)
    kernel = launched(hog.device, "trouble", grid=(2, 1, 1))
    post(kernel, LATCH_OTHERS)
    until(lambda: kernel.taken_sequence)
    with pytest.raises(KernelStalledError, match="look for a loop of it"):
        kernel.abort()
    assert kernel.status is LaunchStatus.RUNNING
    hog.device.staging.copy_in(kernel.regions["stop"].address + 8, b"\1\0\0\0")
    assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
    assert kernel.done_sequence == kernel.taken_sequence
    kernel.close()
    hog.device.unload(kernel.code)
