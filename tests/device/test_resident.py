"""Persistent kernels on the host device, through the ABI as a GPU would see it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import numpy as np
import pytest

from ringflow.device.abi import Command, KernelFault, KernelState, OutputFlag
from ringflow.device.api import LaunchStatus
from ringflow.device.host.device import HostDevice
from ringflow.device.host.pool import shared_pool
from ringflow.device.posting import Posting
from ringflow.device.pump import Output, Pump
from ringflow.device.resident import ResidentKernel
from ringflow.errors import (
    EntryPointError,
    KernelStalledError,
    KernelTrappedError,
    LimitExceededError,
    RegionMismatchError,
)
from tests.device.kernels import compiled, resident, spec

DEADLINE_S = 30.0
OPENED: list[ResidentKernel] = []
ADD = 1
ECHO, TRAP, SPIN, FLOOD, MANY, HUGE_REPLY, LATCH = range(1, 8)
TICK = 7


@pytest.fixture
def device() -> Iterator[HostDevice]:
    made = HostDevice("host:0", memory_limit_bytes=256 << 20)
    yield made
    while OPENED:
        OPENED.pop().close()
    made.close()


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def run_all(kernel: ResidentKernel, pump: Pump, postings: Iterable[Posting]) -> list[Output]:
    """Post all, waiting for room, until all are done; return the outputs."""
    waiting = list(postings)
    last = waiting[-1].sequence if waiting else kernel.done_sequence
    outputs: list[Output] = []
    done = -1
    while done < last:
        if waiting and (room := kernel.room()):
            del waiting[: kernel.post(waiting[:room])]
        for report in pump.wait(DEADLINE_S):
            assert report.status is LaunchStatus.RUNNING, kernel.detail
            outputs += report.outputs
            done = report.done_sequence
    return outputs


def swept(field: np.ndarray[Any, Any], steps: int) -> np.ndarray[Any, Any]:
    """Return what ``sweep`` makes of a field."""
    for _ in range(steps):
        field = field + np.roll(field, -1) + np.uint32(1)
    return field


def end(kernel: ResidentKernel, command: Command = Command.RETURN) -> None:
    kernel.command(command)
    assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED


def launched(
    device: HostDevice, name: str, *, gate_open: bool = True, **options: object
) -> ResidentKernel:
    """Return a launched test kernel; the device's fixture closes it."""
    kernel = resident(device, name, **options)  # type: ignore[arg-type]
    OPENED.append(kernel)
    kernel.launch(gate_open=gate_open, timeout_s=DEADLINE_S)
    return kernel


def test_echo_comes_back(device: HostDevice) -> None:
    """A payload goes through both rings unchanged, with its identity."""
    kernel, pump = launched(device, "echo"), Pump()
    pump.register(kernel)
    payloads = [bytes(range(size)) for size in (0, 1, 7, 8, 96)]
    outputs = run_all(
        kernel, pump, [Posting(i + 1, 5, p, correlation=i) for i, p in enumerate(payloads)]
    )
    assert outputs == [Output(i + 1, 0, 5, 0, p, i) for i, p in enumerate(payloads)]
    end(kernel)


def test_counter_answers_10000_messages_in_order(device: HostDevice) -> None:
    """Each reply holds the total so far: none lost, none doubled, none out of turn."""
    kernel, pump = launched(device, "counter"), Pump()
    pump.register(kernel)
    outputs = run_all(kernel, pump, (Posting(i, ADD, u64(i)) for i in range(1, 10_001)))
    assert [output.sequence for output in outputs] == list(range(1, 10_001))
    totals = [int.from_bytes(output.payload[:8], "little") for output in outputs]
    assert totals == [i * (i + 1) // 2 for i in range(1, 10_001)]
    assert {output.type for output in outputs} == {2}
    end(kernel)
    assert np.frombuffer(kernel.read_region("saved"), np.uint64)[0] == 10_000


@pytest.mark.parametrize(("blocks", "threads"), [(1, 64), (2, 32), (7, 96), (8, 256)])
def test_blocks_meet_at_sync(device: HostDevice, blocks: int, threads: int) -> None:
    """A field that several blocks hand on to each other is what numpy says, whatever the grid."""
    field = np.random.default_rng(blocks).integers(0, 1 << 32, 1000, dtype=np.uint32)
    kernel = launched(device, "sweep", grid=(blocks, 1, 1), block=(threads, 1, 1), gate_open=False)
    kernel.write_region("field", field.tobytes())
    kernel.command(Command.RUN)
    pump = Pump()
    pump.register(kernel)
    outputs = run_all(kernel, pump, [Posting(1, 1, u32(3)), Posting(2, 1, u32(20))])
    sums = []
    for steps in (3, 20):
        field = swept(field, steps)
        sums.append(int(field.sum(dtype=np.uint64)))
    assert [int.from_bytes(output.payload, "little") for output in outputs] == sums
    assert np.array_equal(np.frombuffer(kernel.read_region("field"), np.uint32), field)
    end(kernel)


def test_hold_shows_consistent_memory_while_messages_are_posted(device: HostDevice) -> None:
    """Under HOLD the regions are those of a message boundary, and they stand still."""
    expected = np.random.default_rng(1).integers(0, 1 << 32, 1000, dtype=np.uint32)
    kernel, pump = launched(device, "sweep", grid=(4, 1, 1), gate_open=False), Pump()
    kernel.write_region("field", expected.tobytes())
    kernel.command(Command.RUN)
    pump.register(kernel)
    applied = 0
    stop = threading.Event()

    def produce() -> None:
        sequence = 0
        while not stop.is_set():
            sequence += kernel.post([Posting(sequence + 1, 1, u32(2))])
            pump.wait(0.001)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        while kernel.done_sequence < 1:
            producer.join(0.001)
        for _ in range(20):
            state = kernel.await_generation(kernel.command(Command.HOLD), DEADLINE_S)
            assert state is KernelState.HELD
            done = kernel.done_sequence
            field = np.frombuffer(kernel.read_region("field"), np.uint32)
            sums = np.frombuffer(kernel.read_region("sums"), np.uint64)
            assert done == 0 or field.sum(dtype=np.uint64) == sums[0]
            expected = swept(expected, 2 * (done - applied))
            applied = done
            assert np.array_equal(field, expected), "not the state after the last done message"
            assert bytes(kernel.read_region("field")) == field.tobytes()
            assert kernel.done_sequence == done
            kernel.await_generation(kernel.command(Command.RUN), DEADLINE_S)
    finally:
        stop.set()
        producer.join()
    assert applied > 0
    end(kernel)


def test_return_leaves_unread_messages_and_relaunch_goes_on(device: HostDevice) -> None:
    """Returns at random moments, and nothing is lost or applied twice."""
    kernel, pump = launched(device, "counter", ring_slots=64), Pump()
    pump.register(kernel)
    total, done, epoch = 5_000, 0, 1
    replies: list[Output] = []
    while done < total:
        for round_index in range(3):
            room = kernel.room()
            first = max(done, kernel.posted_sequence) + 1
            kernel.post(
                [Posting(i, ADD, u64(i)) for i in range(first, min(first + room, total + 1))]
            )
            if round_index < 2:
                for report in pump.wait(0.0):
                    replies += report.outputs
        kernel.command(Command.RETURN)
        ended = False
        while not ended:
            for report in pump.wait(DEADLINE_S):
                replies += report.outputs
                done = report.done_sequence
                ended = report.status is LaunchStatus.COMPLETED
        assert np.frombuffer(kernel.read_region("saved"), np.uint64)[0] == done
        epoch += 1
        kernel.relaunch(
            base_sequence=done, epoch=epoch, gate_open=epoch % 2 == 0, timeout_s=DEADLINE_S
        )
        if epoch % 2:
            kernel.command(Command.RUN)
    assert [reply.sequence for reply in replies] == list(range(1, total + 1))
    assert int.from_bytes(replies[-1].payload[:8], "little") == total * (total + 1) // 2
    assert epoch > 3


def test_return_drained_finishes_the_ring(device: HostDevice) -> None:
    """All that was posted before RETURN_DRAINED is applied, then the grid ends."""
    kernel = launched(device, "counter", gate_open=False, grid=(2, 1, 1))
    assert kernel.post([Posting(i, ADD, u64(1)) for i in range(1, 101)]) == 100
    end(kernel, Command.RETURN_DRAINED)
    assert kernel.done_sequence == 100
    assert kernel.state is KernelState.RETURNING
    assert np.frombuffer(kernel.read_region("saved"), np.uint64)[0] == 100


def test_closed_gate_applies_nothing(device: HostDevice) -> None:
    """A kernel launched behind a closed gate is held before any message, until RUN."""
    kernel, pump = launched(device, "counter", gate_open=False), Pump()
    pump.register(kernel)
    assert kernel.state is KernelState.HELD
    kernel.post([Posting(1, ADD, u64(7))])
    assert [report.outputs for report in pump.wait(DEADLINE_S)] == [()]
    assert pump.wait(0.05) == []
    assert not any(kernel.read_region("total"))
    kernel.await_generation(kernel.command(Command.RUN), DEADLINE_S)
    assert len(run_all(kernel, pump, [])) <= 1
    while kernel.done_sequence < 1:
        pump.wait(0.1)
    assert np.frombuffer(kernel.read_region("total"), np.uint64).tolist() == [7, 1]
    end(kernel)


def test_hold_can_be_followed_by_return(device: HostDevice) -> None:
    """From HELD straight to the end, without a message in between."""
    kernel = launched(device, "counter", grid=(3, 1, 1))
    kernel.await_generation(kernel.command(Command.HOLD), DEADLINE_S)
    kernel.post([Posting(1, ADD, u64(7))])
    end(kernel)
    assert kernel.done_sequence == 0
    assert not any(kernel.read_region("total"))


@pytest.mark.parametrize("command", [Command.HOLD, Command.RETURN])
def test_command_waits_for_one_message_at_most(device: HostDevice, command: Command) -> None:
    """Ten more messages lie in the kernel's batch already, and none of them is begun."""
    kernel = launched(device, "trouble", gate_open=False)
    kernel.post([Posting(1, LATCH), *(Posting(i, ECHO, u32(i)) for i in range(2, 12))])
    kernel.command(Command.RUN)
    while kernel.taken_sequence < 1:
        kernel.wait_ended(0.001)
    generation = kernel.command(command)
    kernel.write_region("stop", u32(0) + u32(0) + u32(1) + bytes(52))
    state = kernel.await_generation(generation, DEADLINE_S)
    assert state is (KernelState.HELD if command is Command.HOLD else KernelState.RETURNING)
    assert (kernel.done_sequence, kernel.taken_sequence) == (1, 1)


def test_output_before_the_first_message(device: HostDevice) -> None:
    """It belongs to the last message before the launch, and the start is no done message."""
    kernel, pump = launched(device, "greeting", base_sequence=41, epoch=6), Pump()
    pump.register(kernel)
    (report,) = pump.wait(DEADLINE_S)
    assert report.outputs == (Output(41, 0, 9, OutputFlag.EMITTED, u64(41)),)
    assert (report.done_sequence, report.taken_sequence) == (41, 41)


def test_relaunch_may_be_the_first_launch(device: HostDevice) -> None:
    """A kernel prepared before its base sequence was known starts from that one."""
    kernel = resident(device, "greeting")
    OPENED.append(kernel)
    kernel.relaunch(base_sequence=7, epoch=2, gate_open=True, timeout_s=DEADLINE_S)
    assert (kernel.done_sequence, kernel.posted_sequence) == (7, 7)


def test_waiting_kernel_answers_a_ping(device: HostDevice) -> None:
    """Also a parked one, and one that is held."""
    kernel = launched(device, "counter", gate_open=False, grid=(2, 1, 1))
    for value in (5, 6):
        kernel.ping(value)
        while kernel.echo != value:
            kernel.wait_ended(0.001)
        kernel.await_generation(kernel.command(Command.RUN), DEADLINE_S)


def test_trap_is_told_with_its_place_and_others_live(device: HostDevice) -> None:
    """The launch says trapped, and where; another kernel on the device still answers."""
    kernel, other = launched(device, "trouble", grid=(2, 1, 1)), launched(device, "echo")
    pump = Pump()
    key, other_key = pump.register(kernel), pump.register(other)
    kernel.post([Posting(1, ECHO, u32(5)), Posting(2, TRAP), Posting(3, ECHO, u32(6))])
    outputs: list[Output] = []
    status = LaunchStatus.RUNNING
    while status is LaunchStatus.RUNNING:
        for report in pump.wait(DEADLINE_S):
            if report.key == key:
                outputs += report.outputs
                status = report.status
    assert status is LaunchStatus.TRAPPED
    assert [output.sequence for output in outputs] == [1]
    assert kernel.taken_sequence == 2
    assert "trap" in kernel.detail
    assert "'trouble', block (0, 0, 0), thread (0, 0, 0)" in kernel.detail
    with pytest.raises(KernelTrappedError, match="restore it"):
        kernel.await_generation(kernel.command(Command.RUN), DEADLINE_S)
    other.post([Posting(1, 1, b"alive")])
    answers = [
        output
        for report in pump.wait(DEADLINE_S)
        if report.key == other_key
        for output in report.outputs
    ]
    assert all(answer.payload == b"alive" for answer in answers)
    while other.done_sequence < 1:
        pump.wait(0.1)


def test_endless_loop_is_preempted_and_can_be_aborted(device: HostDevice) -> None:
    """A loop that never polls takes turns with other kernels, and the host can end it."""
    kernel, other, pump = launched(device, "trouble"), launched(device, "counter"), Pump()
    pump.register(other)
    kernel.post([Posting(1, SPIN)])
    while kernel.taken_sequence < 1:
        pump.wait(0.001)
    with pytest.raises(KernelStalledError, match="boundary"):
        kernel.await_generation(kernel.command(Command.HOLD), 0.2)
    outputs = run_all(other, pump, [Posting(i, ADD, u64(i)) for i in range(1, 101)])
    assert len(outputs) == 100
    assert kernel.wait_ended(0.0) is LaunchStatus.RUNNING
    kernel.abort()
    assert kernel.wait_ended(0.0) is LaunchStatus.ABORTED
    end(other)


def test_tiny_reply_ring_never_blocks_a_kernel(device: HostDevice) -> None:
    """Four replies a message and eight slots: two messages at a time, and all replies arrive."""
    kernel = launched(device, "trouble", ring_slots=16, reply_slots=8, max_replies=4)
    pump = Pump()
    pump.register(kernel)
    assert kernel.room() == 2
    counts = [i % 5 for i in range(200)]
    outputs = run_all(
        kernel, pump, [Posting(i + 1, MANY, u32(count)) for i, count in enumerate(counts)]
    )
    assert [(output.sequence, output.index) for output in outputs] == [
        (i + 1, index) for i, count in enumerate(counts) for index in range(count)
    ]
    end(kernel)


def test_full_reply_ring_does_not_block_a_return(device: HostDevice) -> None:
    """Nobody takes outputs, and the kernel still returns."""
    kernel = launched(device, "trouble", ring_slots=16, reply_slots=8, max_replies=4)
    assert kernel.post([Posting(i, MANY, u32(4)) for i in range(1, 9)]) == 2
    while kernel.done_sequence < 2:
        kernel.await_generation(kernel.command(Command.RUN), DEADLINE_S)
    end(kernel)
    report = kernel.collect()
    assert report is not None
    assert len(report.outputs) == 8


@pytest.mark.parametrize(
    ("posting", "fault"),
    [
        (Posting(1, MANY, u32(2)), KernelFault.TOO_MANY_REPLIES),
        (Posting(1, HUGE_REPLY, u32(97)), KernelFault.REPLY_TOO_LARGE),
    ],
)
def test_broken_contracts_trap(device: HostDevice, posting: Posting, fault: KernelFault) -> None:
    """More replies than declared, or one too large, is a trap that says so."""
    kernel = launched(device, "trouble")
    kernel.post([posting])
    assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.TRAPPED
    assert kernel.fault is fault
    assert fault.name.lower().replace("_", " ") in kernel.detail


def test_emitted_outputs_leave_room_for_replies(device: HostDevice) -> None:
    """Emit fills what replies don't need, then says no; the reply still gets through."""
    kernel = launched(device, "trouble", ring_slots=4, reply_slots=16, max_replies=2)
    kernel.post([Posting(1, FLOOD, u32(100))])
    while kernel.done_sequence < 1:
        kernel.await_generation(kernel.command(Command.RUN), DEADLINE_S)
    report = kernel.collect()
    assert report is not None
    emitted = [o for o in report.outputs if o.flags == OutputFlag.EMITTED]
    assert [(o.sequence, o.index) for o in report.outputs] == [(1, i) for i in range(9)]
    assert len(emitted) == 8
    assert report.outputs[-1].payload == u32(8)
    end(kernel)


def test_free_running_kernel_steps_between_messages(device: HostDevice) -> None:
    """step() goes on without messages, poll() takes them, HOLD stops both."""
    kernel, pump = launched(device, "free", grid=(2, 1, 1)), Pump()
    pump.register(kernel)
    first = run_all(kernel, pump, [Posting(1, 1)])
    second = run_all(kernel, pump, [Posting(2, 1)])
    counts = [int.from_bytes(outputs[0].payload, "little") for outputs in (first, second)]
    assert counts[0] < counts[1]
    kernel.await_generation(kernel.command(Command.HOLD), DEADLINE_S)
    held = bytes(kernel.read_region("steps"))
    kernel.post([Posting(3, 1)])
    assert pump.wait(0.05)[-1].outputs == ()
    assert bytes(kernel.read_region("steps")) == held
    end(kernel, Command.RETURN_DRAINED)
    reports = pump.wait(DEADLINE_S)
    assert [output.sequence for report in reports for output in report.outputs] == [3]
    assert reports[-1].steps == int.from_bytes(kernel.read_region("steps"), "little")


def test_closed_emissions_come_within_messages_alone(device: HostDevice) -> None:
    """Between them none comes until they are opened, also after a relaunch; the kernel works on."""
    kernel, pump = launched(device, "ticker", grid=(2, 1, 1), max_replies=2), Pump()
    pump.register(kernel)
    sequence, ticks = 0, list[int]()

    def types_since_last() -> list[int]:
        """Return the types of the outputs that come up to the next message, it included."""
        nonlocal sequence
        sequence += 1
        outputs = run_all(kernel, pump, [Posting(sequence, ADD)])
        ticks.extend(int.from_bytes(one.payload, "little") for one in outputs if one.type == TICK)
        return [one.type for one in outputs]

    while TICK not in types_since_last():
        pass
    kernel.close_emissions(True)
    types_since_last()  # with what came before the kernel saw it
    for _ in range(3):
        assert types_since_last() == [ADD, ADD, ADD]
    end(kernel)
    while pump.wait(DEADLINE_S)[-1].status is LaunchStatus.RUNNING:
        pass
    kernel.relaunch(base_sequence=sequence, epoch=2, gate_open=True, timeout_s=DEADLINE_S)
    assert types_since_last() == [ADD, ADD, ADD]
    kernel.close_emissions(False)
    while TICK not in types_since_last():
        pass
    assert ticks == list(range(len(ticks)))
    end(kernel)


def test_200_parked_kernels_make_no_rounds(device: HostDevice) -> None:
    """Workers sleep while 200 kernels wait, and one message wakes the one that it is for."""
    pump = Pump()
    kernels = [launched(device, "echo", ring_slots=2, reply_slots=2) for _ in range(200)]
    for kernel in kernels:
        pump.register(kernel)
    while pump.wait(0.01):
        pass
    settled = [-1]
    while settled != (settled := [w.rounds for w in shared_pool().statistics]):
        assert pump.wait(0.1) == []
    assert run_all(kernels[77], pump, [Posting(1, 1, b"you")])[0].payload == b"you"
    for kernel in kernels:
        kernel.command(Command.RETURN)
    for kernel in kernels:
        assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED


def test_two_kernels_share_a_worker(device: HostDevice) -> None:
    """Messages to two kernels at once: both make their way."""
    pump = Pump()
    kernels = [launched(device, "counter", grid=(2, 1, 1)) for _ in range(2)]
    keys = [pump.register(kernel) for kernel in kernels]
    sent, got = [0, 0], dict.fromkeys(keys, 0)
    while min(got.values()) < 2000:
        for i, kernel in enumerate(kernels):
            batch = [Posting(n, ADD, u64(1)) for n in range(sent[i] + 1, min(sent[i] + 33, 2001))]
            sent[i] += kernel.post(batch)
        for report in pump.wait(0.01):
            got[report.key] += len(report.outputs)
    assert list(got.values()) == [2000, 2000]
    for kernel in kernels:
        end(kernel)


def test_kernel_that_never_receives_is_a_stall(device: HostDevice) -> None:
    """The start is proved by the kernel's own word, not by the launch call."""
    kernel = resident(device, "silent")
    OPENED.append(kernel)
    with pytest.raises(KernelStalledError, match="must call receive"):
        kernel.launch(gate_open=True, timeout_s=DEADLINE_S)


def test_regions_are_checked_and_digested(device: HostDevice) -> None:
    """A region takes exactly its bytes; its digests are those of the device's memory."""
    kernel = resident(device, "counter")
    with pytest.raises(RegionMismatchError):
        kernel.write_region("total", bytes(15))
    before = kernel.digests()
    kernel.write_region("total", u64(3) + u64(4))
    after = kernel.digests()
    assert [name for name in before if before[name] != after[name]] == ["total"]
    assert bytes(kernel.read_region("total")) == u64(3) + u64(4)


@pytest.mark.parametrize("slot_bytes", [64, 128, 256, 512, 4096])
def test_behind_a_short_payload_there_are_zeros(device: HostDevice, slot_bytes: int) -> None:
    """Nothing of earlier messages, also not of those before another launch of the same kernel."""
    kernel, pump, room = launched(device, "whole", slot_bytes=slot_bytes), Pump(), slot_bytes - 32
    pump.register(kernel)
    sizes = [room] * 40 + [*range(0, room, max(room // 32, 1)), room, 1, 0] + [room] * 40
    for first in (1, 1 + len(sizes)):
        postings = [Posting(first + i, room, b"\xff" * size) for i, size in enumerate(sizes)]
        outputs = run_all(kernel, pump, postings)
        assert [one.payload for one in outputs] == [p.payload.ljust(room, b"\0") for p in postings]
        end(kernel)
        sizes.reverse()
        kernel.launch(gate_open=True, timeout_s=DEADLINE_S)


def test_payload_too_large_is_refused(device: HostDevice) -> None:
    """Nothing is posted of a batch with a payload that no slot carries."""
    kernel = launched(device, "counter", gate_open=False)
    with pytest.raises(LimitExceededError, match="slot_bytes"):
        kernel.post([Posting(1, ADD, u64(1)), Posting(2, ADD, bytes(97))])
    assert kernel.room() == 256


def test_wrong_parameters_name_both_lists(device: HostDevice) -> None:
    """A spec whose regions don't match the kernel's parameters is refused before memory."""
    free = device.free_bytes
    code = device.load(compiled("counter"))
    mismatch = attrs.evolve(spec("counter"), regions=spec("trouble").regions)
    for wrong, text in (
        (mismatch, r"\[8, 8, 8\] bytes.*\[control 8, stop 8\]"),
        (spec("trouble"), "no kernel 'trouble'; it has counter"),
    ):
        with pytest.raises(EntryPointError, match=text):
            ResidentKernel(device, code, wrong, grid=(1, 1, 1), base_sequence=0, epoch=1)
    assert device.free_bytes == free
