"""Arrays and large payloads through the bulk arenas, on the host device."""

from __future__ import annotations

import ctypes
import random
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ringflow.device.abi import Command, KernelFault
from ringflow.device.api import LaunchStatus
from ringflow.device.bulk import Bulk, MessageArena
from ringflow.device.host.device import HostDevice
from ringflow.device.host.memory import HostAllocation
from ringflow.device.native import native
from ringflow.device.posting import Posting
from ringflow.device.pump import Output, Pump
from ringflow.device.resident import ResidentKernel
from ringflow.errors import DeviceError, LimitExceededError, SpecError
from tests.device.kernels import resident, spec

DEADLINE_S = 30.0
TELL, DOUBLED, COPY, ECHO, TWICE, LATCH, PLAIN, ROOMS = range(1, 9)
SEED = 20260


@pytest.fixture
def device() -> Iterator[HostDevice]:
    made = HostDevice("host:0", memory_limit_bytes=256 << 20)
    yield made
    made.close()


def launched(device: HostDevice, **changes: Any) -> ResidentKernel:
    options = {"max_reply_data_bytes": 1 << 16, "reply_bulk_bytes": 1 << 18, **changes}
    kernel = resident(device, "arrays", **options)
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    return kernel


def words(count: int, *, seed: int = 1) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint32)


def bulk(array: np.ndarray[Any, Any]) -> Bulk:
    return Bulk.of(array.tobytes())


def run_all(kernel: ResidentKernel, postings: list[Posting]) -> list[Output]:
    """Post all and wait until they are done; return the outputs."""
    pump = Pump()
    key = pump.register(kernel)
    outputs: list[Output] = []
    waiting, done = list(postings), -1
    while done < postings[-1].sequence:
        if waiting:
            del waiting[: kernel.post(waiting)]
        for report in pump.wait(DEADLINE_S):
            assert report.status is LaunchStatus.RUNNING, kernel.detail
            outputs += report.outputs
            done = report.done_sequence
    pump.unregister(key)
    return outputs


def told(output: Output) -> tuple[int, ...]:
    fields: tuple[int, ...] = struct.unpack("<IIIIQ", output.payload)
    return fields


def test_a_message_has_its_payload_and_its_array(device: HostDevice) -> None:
    """An array beside a payload is bulk_data only; alone it is data as well."""
    kernel, array = launched(device), words(1000)
    total = int(array.sum(dtype=np.uint64))
    outputs = run_all(
        kernel,
        [
            Posting(1, TELL, b"\x07", bulk=bulk(array)),
            Posting(2, TELL, b"", bulk=bulk(array)),
            Posting(3, TELL, b"\x09"),
            Posting(4, TELL),
        ],
    )
    first = int(array.view(np.uint8)[0])
    assert [told(output) for output in outputs] == [
        (1, 7, 4000, 0, total),
        (4000, first, 4000, 1, total),
        (1, 9, 0, 0, 0),
        (0, 0, 0, 0, 0),
    ]
    kernel.close()


@pytest.mark.parametrize("size_bytes", [1, 7, 63, 64, 65, 97, 224, 225, 4096, 65536])
def test_payloads_of_any_size_come_back(device: HostDevice, size_bytes: int) -> None:
    """Byte for byte, whatever the sizes' last bits are."""
    kernel = launched(device)
    payload = bytes(np.random.default_rng(size_bytes).integers(0, 256, size_bytes, np.uint8))
    (output,) = run_all(kernel, [Posting(1, ECHO, bulk=Bulk.of(payload))])
    assert (output.payload, bytes(output.data)) == (b"", payload)
    assert output.data.readonly
    kernel.close()


def test_the_whole_grid_writes_a_reply_in_place(device: HostDevice) -> None:
    """reply_buffer is where the array will lie; a typed value may come with a copy."""
    kernel = launched(device, grid=(4, 1, 1), max_replies=2)
    array = words(5000)
    outputs = run_all(
        kernel,
        [
            Posting(1, DOUBLED, bulk=bulk(array)),
            Posting(2, COPY, bulk=bulk(array)),
            Posting(3, TWICE, bulk=bulk(array)),
        ],
    )
    assert [(o.sequence, o.index) for o in outputs] == [(1, 0), (2, 0), (3, 0), (3, 1)]
    found = [np.frombuffer(output.data, np.uint32) for output in outputs]
    assert np.array_equal(found[0], array * np.uint32(2))
    assert np.array_equal(found[1], array)
    assert np.array_equal(np.concatenate(found[2:]), array)
    assert outputs[1].payload == (2).to_bytes(8, "little")
    assert [output.payload for output in outputs[2:]] == [b"", (2).to_bytes(4, "little")]
    kernel.close()


def test_arrays_beyond_the_arena_wait_and_all_arrive(device: HostDevice) -> None:
    """Random sizes through an arena of a few pieces, past every wrap-around, in order."""
    kernel = launched(device, bulk_bytes=1 << 16, max_reply_data_bytes=1 << 16)
    chosen = random.Random(SEED)
    arrays = [words(chosen.randrange(1, 1 << 14), seed=n) for n in range(300)]
    postings = [Posting(n, COPY, bulk=bulk(array)) for n, array in enumerate(arrays, 1)]
    outputs = run_all(kernel, postings)
    assert [output.sequence for output in outputs] == list(range(1, 301))
    for output, array in zip(outputs, arrays, strict=True):
        assert bytes(output.data) == array.tobytes(), f"seed {SEED}: {output.sequence}"
    kernel.close()


def test_a_full_arena_posts_what_fits(device: HostDevice) -> None:
    """What has no room is not posted; once the messages before it are done, it is."""
    kernel = launched(device, bulk_bytes=4096, reply_bulk_bytes=1 << 20)
    kernel.post([Posting(1, LATCH)])
    postings = [Posting(n, TELL, bulk=bulk(words(512, seed=n))) for n in (2, 3, 4)]
    assert kernel.post(postings) == 2
    assert kernel.post(postings[2:]) == 0
    assert kernel.post([Posting(4, TELL)]) == 1, "what needs no room in the arena has it"
    kernel.write_region("latch", (1).to_bytes(4, "little"))
    outputs = run_all(kernel, [Posting(5, TELL, bulk=bulk(words(1024, seed=4)))])
    sums = [int(words(512, seed=n).sum(dtype=np.uint64)) for n in (2, 3)]
    sums += [0, int(words(1024, seed=4).sum(dtype=np.uint64))]
    assert [told(output)[-1] for output in outputs] == sums
    kernel.close()


def test_a_relaunch_has_the_whole_arena(device: HostDevice) -> None:
    """What was posted and not finished is posted anew; its old room is free."""
    kernel = launched(device, bulk_bytes=4096)
    kernel.post([Posting(1, LATCH), Posting(2, TELL, bulk=bulk(words(1024)))])
    kernel.abort()
    assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.ABORTED
    kernel.collect()
    kernel.write_region("latch", (1).to_bytes(4, "little"))
    kernel.relaunch(base_sequence=1, epoch=2, gate_open=True, timeout_s=DEADLINE_S)
    (output,) = run_all(kernel, [Posting(2, TELL, bulk=bulk(words(1024, seed=2)))])
    assert told(output)[-1] == int(words(1024, seed=2).sum(dtype=np.uint64))
    kernel.close()


def test_credits_keep_the_room_for_replies(device: HostDevice) -> None:
    """With room for two messages' arrays the third one waits until one has been copied."""
    kernel = launched(device, max_reply_data_bytes=60_000, reply_bulk_bytes=130_000)
    assert kernel.room() == 2
    array = words(15_000)
    postings = [Posting(n, COPY, bulk=bulk(array)) for n in (1, 2, 3)]
    assert kernel.post(postings) == 2
    while kernel.done_sequence < 2:
        pass
    assert kernel.room() == 0
    report = kernel.collect()
    assert report is not None
    assert [bytes(output.data) == array.tobytes() for output in report.outputs] == [True, True]
    assert kernel.room() == 2
    assert kernel.post(postings[2:]) == 1
    kernel.close()


def test_a_report_gives_no_credit_before_its_arrays_are_copied(device: HostDevice) -> None:
    """What native code has reported lies where it lay, until the host says that it has it."""
    kernel = launched(device, max_reply_data_bytes=60_000, reply_bulk_bytes=130_000)
    buffer = ctypes.create_string_buffer(1 << 16)
    kernel.post([Posting(n, COPY, bulk=bulk(words(100))) for n in (1, 2)])
    while kernel.done_sequence < 2:
        pass
    assert native().collect(kernel.entry_address, ctypes.addressof(buffer), len(buffer)) > 0
    assert kernel.room() == 0
    kernel.release_arrays()
    assert kernel.room() == 2
    kernel.close()


def test_more_reply_data_than_declared_traps(device: HostDevice) -> None:
    """The spec's bound is exact, and so is none."""
    for most, fault in ((4000, KernelFault.NONE), (3999, KernelFault.REPLY_DATA_TOO_LARGE)):
        kernel = launched(device, max_reply_data_bytes=most, max_replies=2)
        kernel.post([Posting(1, TWICE, bulk=bulk(words(1000)))])
        while not kernel.done_sequence and kernel.status is LaunchStatus.RUNNING:
            pass
        assert kernel.fault is fault
        kernel.close()
    kernel = launched(device, max_reply_data_bytes=0)
    kernel.post([Posting(1, DOUBLED, bulk=bulk(words(10)))])
    assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.TRAPPED
    assert "reply data too large" in kernel.detail
    kernel.close()


@pytest.mark.parametrize(
    ("most", "most_replies", "sent", "rooms"),
    [
        (6000, 3, 1000, (6000, 5000, 4000)),
        (6000, 2, 1000, (6000, 5000, 0)),
        (6000, 3, 4000, (6000, 2000, 0)),
        (6001, 3, 6001, (6001, 0, 0)),
        (0, 2, 1000, (0, 0, 0)),
    ],
)
def test_every_thread_knows_the_room_for_replies(
    device: HostDevice, most: int, most_replies: int, sent: int, rooms: tuple[int, ...]
) -> None:
    """What is left of the spec's bound while a reply may come; afterwards nothing."""
    kernel = launched(device, max_reply_data_bytes=most, max_replies=most_replies, grid=(3, 1, 1))
    array = (bytes(range(256)) * 30)[:sent]
    outputs = run_all(kernel, [Posting(n, ROOMS, bulk=Bulk.of(array)) for n in range(1, 30)])
    told = [struct.unpack("<QQQ", output.payload) for output in outputs if output.payload]
    assert told == [rooms] * 29
    found = [bytes(output.data) for output in outputs if output.data]
    assert found == [array[: min(sent, room)] for room in rooms[:2] if room] * 29
    kernel.command(Command.RETURN)
    assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
    total = 29 * 3 * 32 * sum(rooms)
    assert bytes(kernel.read_region("latch")) == total.to_bytes(4, "little")
    kernel.close()


def test_bulk_beyond_the_arena_is_refused(device: HostDevice) -> None:
    """The error names the field of the spec; nothing was posted."""
    kernel = launched(device, bulk_bytes=4096)
    with pytest.raises(LimitExceededError, match="bulk_bytes"):
        kernel.post([Posting(1, TELL, bulk=bulk(words(1025)))])
    assert kernel.posted_sequence == 0
    none = launched(device, bulk_bytes=0)
    with pytest.raises(LimitExceededError, match="limit of 0"):
        none.post([Posting(1, TELL, bulk=bulk(words(1)))])
    kernel.close()
    none.close()


def test_arenas_are_the_devices_memory_and_given_back(device: HostDevice) -> None:
    """A closed kernel leaves nothing behind, and its arrays can't be read any more."""
    free = device.free_bytes
    kernel = launched(device, bulk_bytes=1 << 20, reply_bulk_bytes=1 << 20)
    assert free - device.free_bytes > 3 << 19
    kernel.close()
    assert device.free_bytes == free
    with pytest.raises(DeviceError, match="closed"):
        kernel.take_array(1)
    kernel.release_arrays()


def test_memcheck_finds_nothing_in_the_arenas() -> None:
    """Kernels may read their messages' arrays and write their replies'."""
    device = HostDevice("host:0", memory_limit_bytes=64 << 20, memcheck=True)
    kernel, array = launched(device), words(16384)
    outputs = run_all(kernel, [Posting(n, COPY, bulk=bulk(array)) for n in (1, 2, 3)])
    assert [bytes(output.data) == array.tobytes() for output in outputs] == [True] * 3
    kernel.close()
    device.close()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"bulk_bytes": -1}, "bulk_bytes"),
        ({"bulk_bytes": (1 << 31) + 1}, "bulk_bytes"),
        ({"max_reply_data_bytes": 1 << 22}, "reply_bulk_bytes"),
        ({"max_reply_data_bytes": 1, "max_replies": 0}, "max_replies"),
    ],
)
def test_specs_that_have_no_room_are_refused(changes: dict[str, Any], what: str) -> None:
    """By the field that has to change."""
    with pytest.raises(SpecError, match=what):
        spec("arrays", **changes)


def test_a_ring_of_pieces_never_overlaps_and_never_starves() -> None:
    """Random pieces against a model: those in use are apart, and an empty arena takes any."""
    chosen, memory = random.Random(SEED), HostAllocation(1 << 14, label="arena")
    arena = MessageArena(memory)
    held: dict[int, tuple[int, int]] = {}
    done = sequence = 0
    for _ in range(20_000):
        size = chosen.randrange(1, 1 << chosen.randrange(1, 15))
        if arena.reserve(sequence + 1, size, done_sequence=done):
            sequence += 1
            start = arena.offset_of(sequence)
            assert start % 64 == 0
            assert start + size <= 1 << 14, f"seed {SEED}"
            for other, length in held.values():
                assert start + size <= other or other + length <= start, f"seed {SEED}"
            held[sequence] = (start, size)
        else:
            assert held, f"seed {SEED}: {size} bytes fit into an empty arena"
        if held and chosen.random() < 0.6:
            done = chosen.choice(list(held))
            held = {number: place for number, place in held.items() if number > done}
    assert sequence > 5000


def test_memory_is_not_taken_back_under_a_copy() -> None:
    """A reset waits for the copy; who comes after it finds his room gone and copies nothing."""
    arena = MessageArena(HostAllocation(4096, label="arena"))
    assert arena.reserve(1, 100, done_sequence=0)
    entered, proceed, ended = threading.Event(), threading.Event(), threading.Event()

    class Slow(MessageArena):  # type: ignore[misc]  # final for users, not for this double
        def _copy(self, piece: Any, data: Any) -> None:
            entered.set()
            assert proceed.wait(DEADLINE_S)
            super()._copy(piece, data)

    slow = Slow(HostAllocation(4096, label="arena"))
    assert slow.reserve(1, 100, done_sequence=0)
    filling = threading.Thread(target=slow.fill, args=(1, Bulk.of(bytes(100))))

    def reset() -> None:
        slow.reset()
        ended.set()

    resetting = threading.Thread(target=reset)
    filling.start()
    assert entered.wait(DEADLINE_S)
    resetting.start()
    assert slow.reserve(2, 100, done_sequence=0), "an event loop never waits for a copy"
    assert not ended.is_set()
    proceed.set()
    filling.join(DEADLINE_S)
    resetting.join(DEADLINE_S)
    assert ended.is_set()
    assert not slow.is_filled(1)
    slow.fill(1, Bulk.of(bytes(100)))
    assert not slow.is_filled(1)


def test_a_copy_that_waits_for_the_close_finds_nothing_to_do() -> None:
    """Whenever the arena's lock is free there is memory for every piece."""

    class Watched(threading.Condition):
        """Has another copy begin as soon as the lock is given back."""

        def __exit__(self, *given: Any) -> None:
            super().__exit__(*given)
            if self.watching and not self._is_owned():  # type: ignore[attr-defined]
                self.watching = False
                arena.fill(1, Bulk.of(b"late"))

        watching = False

    arena = MessageArena(HostAllocation(4096, label="arena"))
    assert arena.reserve(1, 4, done_sequence=0)
    arena._changed = changed = Watched()
    changed.watching = True
    arena.close()
    assert not changed.watching
