"""Grids that are parked while their kernels come to a pump, or leave it."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from ringflow.device.api import LaunchStatus
from ringflow.device.grid import KernelGrid
from ringflow.device.native.layouts import PUMP
from ringflow.device.parking import Lot, lot_of
from ringflow.device.posting import Posting
from ringflow.device.pump import Pump
from ringflow.errors import LimitExceededError
from tests.device.doubles import ParkingDevice
from tests.device.kernels import resident
from tests.device.watched import ADD, DEADLINE_S, Watched, u64


@pytest.fixture
def device() -> Iterator[ParkingDevice]:
    made = ParkingDevice("host:7")
    yield made
    made.close()


@pytest.fixture
def lot(device: ParkingDevice) -> Lot:
    found = lot_of(device)
    assert found is not None
    return found


class Between(Pump):
    """A pump in which something else begins just before it looks at an entry, or after it has."""

    def __init__(self) -> None:
        super().__init__()
        self.before_resume = self.before_suspend = self.after_suspend = nothing

    def suspend(self, resident: KernelGrid) -> None:
        self.before_suspend()
        super().suspend(resident)
        self.after_suspend()

    def resume(self, resident: KernelGrid) -> None:
        self.before_resume()
        super().resume(resident)

    @property
    def entries(self) -> int:
        """How many the native pump looks at."""
        (count,) = struct.unpack_from("=I", self._memory.view, PUMP["count"])
        return int(count)


def nothing() -> None:
    pass


class Meanwhile:
    """Something that another thread does: once begun, it is done or waits for a lock."""

    waits = False

    def __init__(self, work: Callable[[], object]) -> None:
        self._thread = threading.Thread(target=work)

    def begin(self) -> None:
        if not self._thread.ident:  # the first time only
            self._thread.start()
            self._thread.join(0.2)
            self.waits = self._thread.is_alive()

    def end(self) -> None:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


def test_a_kernel_that_leaves_the_pump_as_it_is_parked_has_left(
    device: ParkingDevice, lot: Lot
) -> None:
    """The pump is not taken from the parking in the middle of it, and does not come back."""
    pump = Between()
    counter = Watched(device, "counter", pump=pump)
    leaving = Meanwhile(lambda: pump.unregister(counter.key))
    pump.before_suspend = leaving.begin
    with lot.quiet(device.name, "load"):
        leaving.end()
    assert leaving.waits
    assert pump.entries == 0
    assert counter.kernel.status is LaunchStatus.RUNNING
    counter.kernel.close()


def test_a_kernel_that_leaves_the_pump_as_it_goes_on_has_left(
    device: ParkingDevice, lot: Lot
) -> None:
    """Its entry would be looked at when it is freed."""
    pump = Between()
    counter = Watched(device, "counter", pump=pump)
    leaving = Meanwhile(lambda: pump.unregister(counter.key))
    with lot.quiet(device.name, "load"):
        pump.before_resume = leaving.begin
    leaving.end()
    assert pump.entries == 0
    counter.kernel.close()


def test_a_kernel_that_goes_on_as_it_leaves_the_pump_has_left(
    device: ParkingDevice, lot: Lot
) -> None:
    """The parking ends after its entry was taken away, and puts it back no more."""
    pump = Between()
    counter = Watched(device, "counter", pump=pump)
    parked, leave = threading.Event(), threading.Event()

    def park() -> None:
        with lot.quiet(device.name, "load"):
            parked.set()
            assert leave.wait(DEADLINE_S)

    thread = threading.Thread(target=park)
    thread.start()
    assert parked.wait(DEADLINE_S)

    def end_the_parking() -> None:
        leave.set()
        thread.join(DEADLINE_S)

    pump.after_suspend = end_the_parking
    pump.unregister(counter.key)
    assert pump.entries == 0
    assert counter.kernel.status is LaunchStatus.RUNNING
    counter.kernel.close()


def test_a_kernel_that_comes_to_the_pump_as_it_is_parked_is_there_once(
    device: ParkingDevice, lot: Lot
) -> None:
    """The pump tells of no end, and when the kernel leaves nothing of it stays."""
    pump = Between()
    kernel = resident(device, "counter")
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)

    def park() -> None:
        with lot.quiet(device.name, "load"):
            pass

    parking = Meanwhile(park)
    pump.before_resume = parking.begin
    key = pump.register(kernel)
    parking.end()
    assert pump.entries == 1
    pump.unregister(key)
    assert pump.entries == 0
    kernel.close()


def test_a_kernel_that_is_parked_keeps_its_place_on_a_full_pump(
    device: ParkingDevice, lot: Lot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one can't take it: the first would go on, and nobody would hear of it again."""
    monkeypatch.setattr("ringflow.device.pump.KERNELS_MAX", 1)
    counter = Watched(device, "counter")
    late = resident(device, "echo")
    with lot.quiet(device.name, "load"), pytest.raises(LimitExceededError, match="on one pump"):
        counter.pump.register(late)
    counter.kernel.post([Posting(1, ADD, u64(3))])
    counter.until_done(1)
    counter.pump.unregister(counter.key)
    counter.pump.register(late)
    late.close()
    counter.kernel.close()
