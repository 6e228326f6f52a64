"""Grids that return for a moment, so that code can be loaded, and go on as if nothing had been."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, repeat

import pytest

from ringflow.device.abi import Command, KernelState
from ringflow.device.api import LaunchStatus
from ringflow.device.native import native
from ringflow.device.parking import Lot, Pause, lot_of
from ringflow.device.posting import Posting
from ringflow.errors import KernelStalledError, KernelStateError, KernelTrappedError
from tests.device.doubles import ParkingDevice
from tests.device.kernels import compiled, resident
from tests.device.watched import ADD, DEADLINE_S, Watched, u32, u64

TRAP, LATCH, LEAVE = 2, 7, 8


def late(*_: object) -> None:
    raise KernelStalledError("too late", call="await", code="timeout")


def latched(device: ParkingDevice) -> Watched:
    """Return a kernel that is in a message, and stays there until ``open_latch``."""
    trouble = Watched(device, "trouble")
    trouble.kernel.post([Posting(1, LATCH)])
    trouble.until_taken(1)
    return trouble


def open_latch(device: ParkingDevice, trouble: Watched) -> None:
    stop = bytearray(64)
    stop[8:12] = u32(1)
    device.copy_in(trouble.kernel.regions["stop"], stop)
    native().ring_workers(native().room)  # nobody else tells a sleeping worker


@contextmanager
def loading_beside(device: ParkingDevice, trouble: Watched) -> Iterator[None]:
    """Load code in another thread: it waits for the kernel in the block, and is done after it."""
    loaded: list[object] = []
    thread = threading.Thread(target=lambda: loaded.append(device.load(compiled("echo"))))
    thread.start()
    end_s = time.monotonic() + DEADLINE_S
    while not trouble.kernel._parked:
        assert time.monotonic() < end_s
    yield
    thread.join(DEADLINE_S)
    assert loaded, "the grid never returned"


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


def test_a_kernel_goes_on_with_its_messages_as_if_nothing_had_been(
    device: ParkingDevice, lot: Lot
) -> None:
    """Those before, during and after come once and in order; pump and poster take no part."""
    counter = Watched(device, "counter")
    postings = iter(Posting(i, ADD, u64(i)) for i in range(1, 41))
    for turn in range(4):
        for _ in range(5):
            counter.kernel.post([next(postings)])
        with lot.quiet(device.name, "load"):
            assert counter.kernel.status is LaunchStatus.COMPLETED
            for _ in range(5):
                counter.kernel.post([next(postings)])
        counter.until_done(10 * turn + 10)
    assert counter.sums == [i * (i + 1) // 2 for i in range(1, 41)]
    assert counter.statuses == {LaunchStatus.RUNNING}
    counter.kernel.close()


def test_code_is_loaded_while_no_grid_runs(device: ParkingDevice) -> None:
    """All of the device's kernels are parked, and all work afterwards."""
    counters = [Watched(device, "counter") for _ in range(3)]
    device.beside.clear()
    device.load(compiled("echo"))
    assert device.beside == [0]
    for counter in counters:
        counter.kernel.post([Posting(1, ADD, u64(7))])
        counter.until_done(1)
        assert counter.sums == [7]
        counter.kernel.close()


def test_what_was_done_is_told(device: ParkingDevice, lot: Lot) -> None:
    """Which kernels, for what and how long; nothing where none ran."""
    told: list[Pause] = []
    with lot.heard_by(told.append):
        with lot.quiet(device.name, "load"):
            pass
        assert told == []
        counter = Watched(device, "counter")
        with lot.quiet(device.name, "load"):
            pass
    with lot.quiet(device.name, "load"):
        pass
    (pause,) = told
    assert (pause.device, pause.purpose, pause.kernels) == ("host:7", "load", ("counter",))
    assert pause.pause_ns > 0
    assert pause.failure == ""
    counter.kernel.close()


def test_a_held_kernel_is_held_again(device: ParkingDevice, lot: Lot) -> None:
    """The host may look at its regions before and after; a RUN given meanwhile is obeyed."""
    counter = Watched(device, "counter", gate_open=False)
    counter.kernel.post([Posting(1, ADD, u64(5))])
    with lot.quiet(device.name, "load"):
        pass
    assert counter.kernel.state is KernelState.HELD
    assert counter.kernel.done_sequence == 0
    with lot.quiet(device.name, "load"):
        generation = counter.kernel.command(Command.RUN)
    counter.kernel.await_generation(generation, DEADLINE_S)
    counter.until_done(1)
    assert counter.sums == [5]
    counter.kernel.close()


def test_a_command_that_waits_for_its_answer_gets_it(device: ParkingDevice, lot: Lot) -> None:
    """Given before the parking, obeyed after it, under its generation or a later one."""
    counter = Watched(device, "counter")
    generation = counter.kernel.command(Command.HOLD)
    with lot.quiet(device.name, "load"):
        pass
    assert counter.kernel.await_generation(generation, DEADLINE_S) is KernelState.HELD
    counter.until_state(KernelState.HELD)
    counter.kernel.close()


def test_a_command_does_not_call_a_grid_back_that_is_to_return(
    device: ParkingDevice, lot: Lot
) -> None:
    """Given while the grid is still at work, it is obeyed once the grid goes on."""
    trouble = latched(device)
    with loading_beside(device, trouble):
        generation = trouble.kernel.command(Command.HOLD)
        open_latch(device, trouble)
    assert trouble.kernel.await_generation(generation, DEADLINE_S) is KernelState.HELD
    trouble.kernel.close()


def test_a_return_given_meanwhile_is_obeyed(device: ParkingDevice, lot: Lot) -> None:
    """The pump tells of the end that was asked for, and of no other."""
    counter = Watched(device, "counter")
    with lot.quiet(device.name, "load"):
        counter.kernel.command(Command.RETURN)
    assert counter.kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
    while LaunchStatus.COMPLETED not in counter.statuses:
        counter.reports += counter.pump.wait(DEADLINE_S)
    with lot.quiet(device.name, "load"):
        pass  # there is nothing to launch again
    assert counter.kernel.status is LaunchStatus.COMPLETED
    counter.kernel.close()


def test_a_kernel_that_is_returning_is_left_to_return(device: ParkingDevice, lot: Lot) -> None:
    """Who asked for that finds its grid ended."""
    counter = Watched(device, "counter")
    counter.kernel.command(Command.RETURN)
    with lot.quiet(device.name, "load"):
        assert counter.kernel.status is LaunchStatus.COMPLETED
    assert counter.kernel.status is LaunchStatus.COMPLETED
    counter.kernel.close()


def test_a_kernel_that_is_returning_is_not_said_to_be_parked(
    device: ParkingDevice, lot: Lot
) -> None:
    """The pause names those that went on; where there are none it is no pause."""
    told: list[Pause] = []
    for others in (["counter"], []):
        counters = [Watched(device, name) for name in others]
        trouble = latched(device)
        trouble.kernel.command(Command.RETURN)
        with lot.heard_by(told.append), loading_beside(device, trouble):
            open_latch(device, trouble)
        assert [list(pause.kernels) for pause in told] == [others] * len(others)
        assert trouble.kernel.status is LaunchStatus.COMPLETED
        told.clear()
        for one in (trouble, *counters):
            one.kernel.close()


def test_a_return_that_is_taken_back_meanwhile_keeps_nobody_waiting(
    device: ParkingDevice, lot: Lot
) -> None:
    """The grid returns for the load all the same, and works on after it."""
    trouble = latched(device)
    trouble.kernel.command(Command.RETURN)
    with loading_beside(device, trouble):
        generation = trouble.kernel.command(Command.RUN)
        open_latch(device, trouble)
    assert trouble.kernel.await_generation(generation, DEADLINE_S) is KernelState.RUNNING
    trouble.kernel.close()


@pytest.mark.parametrize("where", ["give_way", "await_gone", "go_on"])
def test_whatever_ends_a_parking_the_others_go_on(
    device: ParkingDevice, lot: Lot, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Interrupted anywhere it leaves no grid behind that could work."""
    first, second, third = (Watched(device, "counter") for _ in range(3))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(second.kernel, where, interrupted)
    told: list[Pause] = []
    with lot.heard_by(told.append), pytest.raises(KeyboardInterrupt):
        device.load(compiled("echo"))
    monkeypatch.undo()
    assert [pause.failure for pause in told] == ["" if where == "go_on" else "KeyboardInterrupt"]
    second.kernel.go_on(DEADLINE_S)
    for one in (first, second, third):
        one.kernel.post([Posting(1, ADD, u64(3))])
        one.until_done(1)
        one.kernel.close()


class Asked:
    """Something that can be parked, and notes when it is asked."""

    def __init__(self, kernel_id: str, log: list[str]) -> None:
        self.kernel_id, self._log = kernel_id, log

    def give_way(self) -> bool:
        self._log.append(self.kernel_id)
        return True

    def await_gone(self, timeout_s: float) -> None:
        pass

    def go_on(self, timeout_s: float) -> None:
        self._log.append(self.kernel_id)


def test_kernels_are_parked_and_go_on_in_the_order_in_which_they_came() -> None:
    """A simulated world's run does not depend on where in memory they lie."""
    log: list[str] = []
    several = [Asked(f"{number:02}", log) for number in range(50)]
    random.Random(5).shuffle(several)
    lot = Lot()
    for one in several:
        lot.enter(one)
    with lot.quiet("host:7", "load"):
        pass
    assert log == [one.kernel_id for one in several] * 2


def test_kernels_that_come_while_others_are_parked_disturb_nobody() -> None:
    """Engines make theirs in threads of their own."""
    lot, log, done = Lot(), list[str](), threading.Event()
    several = [Asked("one", log) for _ in range(2_000)]

    def enter() -> None:
        for one in several:
            lot.enter(one)
        done.set()

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        coming = threading.Thread(target=enter)
        coming.start()
        while not done.is_set():
            with lot.quiet("host:7", "load"):
                pass
        coming.join(DEADLINE_S)
    finally:
        sys.setswitchinterval(interval_s)


def test_a_kernel_that_steps_goes_on_stepping(device: ParkingDevice, lot: Lot) -> None:
    """Its count goes on, and it still takes messages."""
    free = Watched(device, "free")
    with lot.quiet(device.name, "load"):
        before = int.from_bytes(free.kernel.read_region("steps"), "little")
    free.kernel.post([Posting(1, ADD)])
    free.until_done(1)
    assert free.sums[0] >= before
    free.kernel.close()


def test_emissions_that_are_closed_stay_closed(device: ParkingDevice, lot: Lot) -> None:
    """Also where they are closed while the grid is parked."""
    ticker = Watched(device, "ticker", max_replies=2)
    with lot.quiet(device.name, "load"):
        ticker.kernel.close_emissions(True)
    for sequence in (1, 2):
        ticker.kernel.post([Posting(sequence, ADD)])
        ticker.until_done(sequence)
        with lot.quiet(device.name, "load"):
            pass
    types = [output.type for report in ticker.reports for output in report.outputs]
    assert set(types[types.index(ADD) :]) == {ADD}, "what a message sends still comes"
    ticker.kernel.close()


def test_one_that_does_not_return_keeps_no_other_away(
    device: ParkingDevice, lot: Lot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load fails within its deadline, and all kernels work on, that one too."""
    counter = Watched(device, "counter")
    trouble = latched(device)
    told: list[Pause] = []
    device.beside.clear()
    with monkeypatch.context() as late_for_the_second:
        late_for_the_second.setattr(lot, "_now_ns", chain((0, 0), repeat(1 << 40)).__next__)
        with lot.heard_by(told.append), pytest.raises(KernelStalledError, match="trouble"):
            device.load(compiled("echo"))
    assert device.beside == []
    assert "trouble" in told[0].failure
    counter.kernel.post([Posting(1, ADD, u64(3))])
    counter.until_done(1)
    open_latch(device, trouble)
    trouble.kernel.post([Posting(2, 1, u32(9))])
    trouble.until_done(2)
    device.load(compiled("echo"))
    assert device.beside == [0]
    trouble.kernel.close()
    counter.kernel.close()


def test_a_grid_that_cannot_go_on_ends_as_aborted(device: ParkingDevice, lot: Lot) -> None:
    """The pump tells, so that its kernel is restored; others go on."""
    first, second = Watched(device, "counter"), Watched(device, "echo")
    with lot.quiet(device.name, "load"):
        device.refuses = "no room any more"
    device.refuses = ""
    for one in (first, second):
        while LaunchStatus.ABORTED not in one.statuses:
            one.reports += one.pump.wait(DEADLINE_S)
        assert "no room any more" in one.kernel.detail
        one.kernel.close()


def test_a_grid_that_goes_on_too_late_is_stopped(
    device: ParkingDevice, lot: Lot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not called aborted while it runs: its memory is freed then."""
    counter = Watched(device, "counter")
    with lot.quiet(device.name, "load"):
        monkeypatch.setattr(counter.kernel, "await_generation", late)
    assert device.launches[-1].status is LaunchStatus.ABORTED
    while LaunchStatus.ABORTED not in counter.statuses:
        counter.reports += counter.pump.wait(DEADLINE_S)
    assert "too late" in counter.kernel.detail
    counter.kernel.close()


def test_a_late_grid_that_cannot_be_stopped_keeps_its_memory(
    device: ParkingDevice, lot: Lot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told to be running until it can be."""
    counter = Watched(device, "counter")

    def stubborn(*_: object) -> None:
        monkeypatch.setattr(device.launches[-1], "abort", late)
        late()

    with lot.quiet(device.name, "load"):
        monkeypatch.setattr(counter.kernel, "await_generation", stubborn)
    assert counter.kernel.status is LaunchStatus.RUNNING
    free_bytes = device.free_bytes
    with pytest.raises(KernelStalledError, match="too late"):
        counter.kernel.close()
    assert device.free_bytes == free_bytes
    monkeypatch.undo()
    counter.kernel.close()
    assert device.launches[-1].status is LaunchStatus.ABORTED
    assert device.free_bytes > free_bytes


def test_a_grid_that_traps_as_it_goes_on_has_trapped(
    device: ParkingDevice, lot: Lot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who restores it is told of the trap, not of a grid that was aborted."""
    trouble = Watched(device, "trouble")

    def trapping(*_: object) -> None:
        trouble.kernel.post([Posting(1, TRAP)])
        assert trouble.kernel.wait_ended(DEADLINE_S) is LaunchStatus.TRAPPED
        raise KernelTrappedError("it trapped", call="await", code="trap")

    with lot.quiet(device.name, "load"):
        monkeypatch.setattr(trouble.kernel, "await_generation", trapping)
    assert trouble.kernel.status is LaunchStatus.TRAPPED
    trouble.kernel.close()


def test_a_grid_that_leaves_its_loop_by_itself_does_not_go_on(
    device: ParkingDevice, lot: Lot
) -> None:
    """Its message is half done: it would count as done when the next grid takes another one."""
    trouble = Watched(device, "trouble")
    trouble.kernel.post([Posting(1, LEAVE)])
    trouble.until_taken(1)
    with loading_beside(device, trouble):
        open_latch(device, trouble)
    while LaunchStatus.TRAPPED not in trouble.statuses:
        taken = trouble.pump.wait(DEADLINE_S)
        assert taken, "its end is not told"
        trouble.reports += taken
    assert "while handling message 1" in trouble.kernel.detail
    assert trouble.reports[-1].done_sequence == 0
    trouble.kernel.close()


def test_a_parked_kernel_is_aborted_when_it_has_gone_on(device: ParkingDevice, lot: Lot) -> None:
    """Its ended grid has nothing to abort, and the next one would not know of it."""
    counter = Watched(device, "counter")
    with ThreadPoolExecutor(1) as threads:
        with lot.quiet(device.name, "load"):
            aborted = threads.submit(counter.kernel.abort)
            with pytest.raises(TimeoutError):
                aborted.result(0.2)
        aborted.result(DEADLINE_S)
    assert counter.kernel.status is LaunchStatus.ABORTED
    counter.kernel.close()


def test_a_parked_kernel_is_not_launched_again(device: ParkingDevice, lot: Lot) -> None:
    """It runs, whatever its grid looks like; who asks too early changes nothing."""
    counter = Watched(device, "counter")

    def relaunch() -> None:
        counter.kernel.relaunch(base_sequence=9, epoch=2, gate_open=True, timeout_s=DEADLINE_S)

    with ThreadPoolExecutor(1) as threads:
        with lot.quiet(device.name, "load"):
            launched = threads.submit(relaunch)
            with pytest.raises(TimeoutError):
                launched.result(0.2)
        with pytest.raises(KernelStateError):
            launched.result(DEADLINE_S)
    counter.kernel.post([Posting(1, ADD, u64(3))])
    counter.until_done(1)
    counter.kernel.close()


def test_a_launch_waits_until_code_is_loaded(device: ParkingDevice, lot: Lot) -> None:
    """No grid starts beside a load."""
    counter = Watched(device, "counter")
    late = resident(device, "echo")
    with lot.quiet(device.name, "load"):
        thread = threading.Thread(
            target=late.launch, kwargs={"gate_open": True, "timeout_s": DEADLINE_S}
        )
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert not late.launched
    thread.join(DEADLINE_S)
    assert late.state is KernelState.RUNNING
    late.close()
    counter.kernel.close()


def test_devices_of_one_context_are_parked_together(device: ParkingDevice) -> None:
    """A load through one of them parks what runs on the other."""
    counter = Watched(device, "counter")
    again = ParkingDevice("host:7")
    told: list[Pause] = []
    shared = lot_of(again)
    assert shared is not None
    with shared.heard_by(told.append):
        again.load(compiled("echo"))
    assert [pause.kernels for pause in told] == [("counter",)]
    again.close()
    counter.kernel.close()
