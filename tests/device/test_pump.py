"""The native pump against a kernel that the test plays word by word."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from ringflow.device.abi import Command, KernelState
from ringflow.device.api import LaunchStatus
from ringflow.device.posting import Posting
from ringflow.device.pump import Output, Pump, PumpReport
from ringflow.device.resident import ResidentKernel
from ringflow.errors import KernelStalledError, KernelStateError, KernelTrappedError
from tests.device.doubles import PlayedCode, PlayedDevice, PlayedLaunch, played_spec

DEADLINE_S = 20.0


class Played:
    """A resident kernel whose device side is the test's."""

    def __init__(self, *, rings: bool = True, **spec: int) -> None:
        self.device = PlayedDevice("host:9")
        self.device.rings_ = rings
        self.kernel = ResidentKernel(
            self.device,
            PlayedCode(),
            played_spec(**spec),
            grid=(1, 1, 1),
            base_sequence=10,
            epoch=3,
        )
        self.kernel.launch(gate_open=True, timeout_s=DEADLINE_S)

    @property
    def side(self) -> PlayedLaunch:
        return self.device.played

    def close(self) -> None:
        self.kernel.close()
        self.device.close()


@pytest.fixture
def played() -> Iterator[Played]:
    made = Played()
    yield made
    made.close()


@pytest.fixture
def pump() -> Pump:
    return Pump()


def postings(first: int, count: int) -> list[Posting]:
    return [Posting(first + i, 1, bytes([i])) for i in range(count)]


def only(reports: list[PumpReport]) -> PumpReport:
    (report,) = reports
    return report


def test_first_report_says_the_launch_state(played: Played, pump: Pump) -> None:
    """What happened before the kernel was registered is reported too."""
    key = pump.register(played.kernel)
    report = only(pump.wait(DEADLINE_S))
    assert (report.key, report.state, report.done_sequence) == (key, KernelState.RUNNING, 10)
    assert (report.status, report.outputs) == (LaunchStatus.RUNNING, ())
    assert pump.wait(0.0) == []


def test_a_kernel_that_nobody_rings_for_is_looked_after(pump: Pump) -> None:
    """Whoever waits for its news, by the pump or by a command, does not sleep for long."""
    played = Played(rings=False)
    pump.register(played.kernel)
    pump.wait(0.0)
    silence = threading.Timer(0.1, played.side.reply, (11, b"a"))
    silence.start()
    assert only(pump.wait(DEADLINE_S)).outputs == (Output(11, 0, 1, 0, b"a"),)
    silence.join()
    generation = played.kernel.command(Command.HOLD)
    report = threading.Timer(0.1, played.side.report, (generation, KernelState.HELD))
    started_s = time.monotonic()
    report.start()
    assert played.kernel.await_generation(generation, DEADLINE_S) is KernelState.HELD
    assert time.monotonic() - started_s < DEADLINE_S / 2
    report.join()
    played.close()


def test_outputs_arrive_once_in_order_with_their_done_mark(played: Played, pump: Pump) -> None:
    """Outputs carry sequence and index; what was taken doesn't come again."""
    pump.register(played.kernel)
    pump.wait(0.0)
    played.side.reply(11, b"a")
    played.side.reply(11, b"bc", index=1)
    played.side.done(11, 1)
    report = only(pump.wait(DEADLINE_S))
    assert report.outputs == (Output(11, 0, 1, 0, b"a"), Output(11, 1, 1, 0, b"bc"))
    assert report.done_sequence == 11
    assert pump.wait(0.0) == []


def test_credits_are_given_again_only_after_outputs_were_taken(pump: Pump) -> None:
    """A done message whose replies lie in the ring still counts: 8 reply slots, 4 a message."""
    played = Played(reply_slots=8, max_replies=4)
    assert played.kernel.room() == 2
    assert played.kernel.post(postings(11, 3)) == 2
    for sequence in (11, 12):
        for index in range(4):
            played.side.reply(sequence, b"x", index=index)
    played.side.done(12, 2)
    assert played.kernel.room() == 0, "the replies have not been taken"
    pump.register(played.kernel)
    assert len(only(pump.wait(DEADLINE_S)).outputs) == 8
    assert played.kernel.room() == 2
    played.close()


def test_posts_and_commands_share_one_doorbell(played: Played) -> None:
    """A command keeps the count of messages, a post keeps the command; generations rise."""
    kernel, side = played.kernel, played.side
    assert kernel.post(postings(11, 3)) == 3
    first = kernel.command(Command.HOLD)
    assert kernel.post(postings(14, 2)) == 2
    bell = side.word("doorbell")
    assert (bell & 0xFFFFFFFF, bell >> 32 & 0xFFFFFF, bell >> 56) == (5, first, Command.HOLD)
    assert kernel.command(Command.RUN) == first + 1


def test_ring_keeps_slots_until_their_message_is_done(played: Played) -> None:
    """The ring never takes more than its slots, whatever the kernel has copied out."""
    kernel = played.kernel
    assert kernel.post(postings(11, 20)) == 8
    played.side.put("consumed", 8)
    assert kernel.post(postings(19, 1)) == 0
    played.side.done(13, 3)
    kernel.collect()
    assert kernel.post(postings(19, 5)) == 3


def test_sequences_must_rise(played: Played) -> None:
    """A message posted twice in one launch is a fault of the caller's."""
    played.kernel.post(postings(11, 2))
    with pytest.raises(AssertionError, match="posted after 12"):
        played.kernel.post(postings(12, 1))


def test_end_is_reported_after_all_outputs(played: Played, pump: Pump) -> None:
    """The report that says completed is the last one with outputs."""
    pump.register(played.kernel)
    pump.wait(0.0)
    generation = played.kernel.command(Command.RETURN)
    played.side.reply(11, b"last")
    played.side.done(11, 1)
    played.side.report(generation, KernelState.RETURNING)
    played.side.end(LaunchStatus.COMPLETED)
    report = only(pump.wait(DEADLINE_S))
    assert (len(report.outputs), report.status) == (1, LaunchStatus.COMPLETED)
    assert pump.wait(0.0) == []


def test_an_end_that_no_return_has_led_to_is_a_trap(played: Played, pump: Pump) -> None:
    """Also where the command was given: a grid that obeys it says so first."""
    pump.register(played.kernel)
    pump.wait(0.0)
    played.kernel.command(Command.RETURN)
    played.side.put("taken_sequence", 12)
    played.side.reply(12, b"half done")
    played.side.done(11, 1)
    played.side.end(LaunchStatus.COMPLETED)
    report = only(pump.wait(DEADLINE_S))
    assert (len(report.outputs), report.status) == (1, LaunchStatus.TRAPPED)
    assert "returned from its loop by itself while handling message 12" in played.kernel.detail


def test_small_buffer_delays_done_and_state_until_all_is_taken() -> None:
    """What doesn't fit comes in later reports, and only the last one says done and held."""
    slots = 2048
    played = Played(ring_slots=2048, reply_slots=slots)
    kernel, side = played.kernel, played.side
    assert kernel.post(postings(11, 1)) == 1
    first = kernel.collect()
    assert first is not None
    for index in range(slots):
        side.reply(11, b"x", index=index)
    side.done(11, 1)
    side.report(kernel.command(Command.HOLD), KernelState.HELD)
    indices: list[int] = []
    while (report := kernel.collect()) is not None:
        indices += [output.index for output in report.outputs]
        if len(indices) < slots:
            assert report.done_sequence == 10
            assert report.state is KernelState.RUNNING
            assert kernel.room() == slots - 1
    assert indices == list(range(slots))
    assert kernel.room() == slots
    played.close()


def test_wake_ends_a_wait_and_is_not_lost(pump: Pump) -> None:
    """A wake before the wait, and one during it, both end it."""
    pump.wake()
    assert pump.wait(DEADLINE_S) == []
    results: list[list[PumpReport]] = []
    waiter = threading.Thread(target=lambda: results.append(pump.wait(1e6)))
    waiter.start()
    while pump.statistics.sleeps == 0:
        waiter.join(0.001)
    pump.wake()
    waiter.join(DEADLINE_S)
    assert results == [[]]


def test_news_wake_a_sleeping_pump(played: Played, pump: Pump) -> None:
    """The pump sleeps without scanning until somebody rings."""
    pump.register(played.kernel)
    pump.wait(0.0)
    results: list[list[PumpReport]] = []
    waiter = threading.Thread(target=lambda: results.append(pump.wait(1e6)))
    waiter.start()
    while pump.statistics.sleeps == 0:
        waiter.join(0.001)
    scans = pump.statistics.scans
    waiter.join(0.05)
    assert pump.statistics.scans == scans
    played.side.reply(11, b"news")
    played.side.ring()
    waiter.join(DEADLINE_S)
    assert only(results[0]).outputs[0].payload == b"news"


def test_each_kernel_has_its_own_report_and_key(pump: Pump) -> None:
    """News of several kernels come in one batch; an unregistered one says nothing."""
    several = [Played() for _ in range(3)]
    keys = [pump.register(played.kernel) for played in several]
    assert sorted(report.key for report in pump.wait(DEADLINE_S)) == keys
    pump.unregister(keys[1])
    for played in several:
        played.side.reply(11, b"x")
    assert sorted(report.key for report in pump.wait(DEADLINE_S)) == [keys[0], keys[2]]
    for played in several:
        played.close()
    assert pump.statistics.kernels == 0


def test_kernel_on_a_pump_has_no_second_reader(played: Played, pump: Pump) -> None:
    """Two readers of one ring would each see half."""
    key = pump.register(played.kernel)
    with pytest.raises(KernelStateError):
        played.kernel.collect()
    with pytest.raises(KernelStateError):
        Pump().register(played.kernel)
    pump.unregister(key)
    assert played.kernel.collect() is not None


def test_relaunch_under_a_pump_starts_new_rings(played: Played, pump: Pump) -> None:
    """Unread slots are gone, counters start anew, and the key stays."""
    kernel = played.kernel
    key = pump.register(kernel)
    kernel.post(postings(11, 5))
    played.side.done(12, 2)
    played.side.end(LaunchStatus.COMPLETED)
    assert only(pump.wait(DEADLINE_S)).done_sequence == 12
    kernel.relaunch(base_sequence=12, epoch=4, gate_open=False, timeout_s=DEADLINE_S)
    report = only(pump.wait(DEADLINE_S))
    assert (report.key, report.state, report.done_sequence) == (key, KernelState.HELD, 12)
    assert kernel.room() == 8
    assert kernel.post(postings(13, 1)) == 1


def test_relaunch_needs_an_ended_grid_and_taken_outputs(played: Played) -> None:
    """Neither a running kernel nor untaken outputs may be lost."""
    with pytest.raises(KernelStateError, match="running"):
        played.kernel.relaunch(base_sequence=10, epoch=4, gate_open=True, timeout_s=1.0)
    played.side.reply(11, b"x")
    played.side.end(LaunchStatus.COMPLETED)
    with pytest.raises(KernelStateError, match="drained"):
        played.kernel.relaunch(base_sequence=11, epoch=4, gate_open=True, timeout_s=1.0)


def test_unanswered_command_is_a_stall(played: Played) -> None:
    """Past the deadline the host knows nothing, and says what to look for."""
    with pytest.raises(KernelStalledError, match=r"boundary within 0\.01 s"):
        played.kernel.await_generation(played.kernel.command(Command.HOLD), 0.01)
    played.side.end(LaunchStatus.TRAPPED)
    with pytest.raises(KernelTrappedError, match="played trap"):
        played.kernel.await_generation(played.kernel.command(Command.RUN), DEADLINE_S)


def test_later_generation_answers_an_earlier_command(played: Played) -> None:
    """A kernel that obeyed a later command has passed the earlier one."""
    kernel = played.kernel
    earlier = kernel.command(Command.HOLD)
    played.side.report(kernel.command(Command.RUN), KernelState.RUNNING)
    assert kernel.await_generation(earlier, DEADLINE_S) is KernelState.RUNNING
