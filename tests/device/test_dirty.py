"""Dirty marks: no written block is missed, whoever writes it, whenever the bitmaps are swapped."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from ringflow.device import abi
from ringflow.device.abi import Command, KernelState
from ringflow.device.api import DeviceGlobal, LaunchStatus
from ringflow.device.compiler.api import HOST, compile_source
from ringflow.device.dirty import DirtyTable
from ringflow.device.host.device import HostDevice
from ringflow.device.host.translate import translate
from ringflow.device.posting import Posting
from ringflow.device.pump import Pump
from ringflow.device.resident import ResidentKernel
from ringflow.errors import KernelStalledError, KernelStateError, UsageError
from ringflow.storage.blocks import BLOCK_BYTES, BLOCK_DIGEST_BYTES
from tests.device.kernels import LARGE_CELLS, resident

DEADLINE_S = 30.0
WRITE, MARK, SWEEP = 1, 2, 3
LARGE, SMALL, EXTRA = range(3)
BLOCKS = 201
BLOCK_CELLS = BLOCK_BYTES // 4
Dirty = dict[str, tuple[int, ...]]


@pytest.fixture
def device() -> Iterator[HostDevice]:
    made = HostDevice("host:0", memory_limit_bytes=256 << 20)
    yield made
    made.close()


@pytest.fixture
def kernel(device: HostDevice) -> Iterator[ResidentKernel]:
    """The marking kernel, running on seven blocks of 96 threads."""
    made = resident(device, "marker", grid=(7, 1, 1), block=(96, 1, 1), track_dirty=True)
    made.launch(gate_open=True, timeout_s=DEADLINE_S)
    assert swapped(made) == {"small": (0,)}
    yield made
    made.close()


def send(kernel: ResidentKernel, type: int, payload: bytes) -> None:
    """Post a message and wait until it is done and its outputs are taken."""
    pump, sequence, done = Pump(), kernel.posted_sequence + 1, 0
    key = pump.register(kernel)
    assert kernel.post([Posting(sequence, type, payload)])
    while done < sequence:
        reports = pump.wait(DEADLINE_S)
        assert reports, kernel.detail
        done = reports[-1].done_sequence
    pump.unregister(key)


def swapped(kernel: ResidentKernel) -> Dirty:
    """Let the kernel swap, and return what was marked before."""
    kernel.request_dirty_swap()
    kernel.await_dirty_swap(DEADLINE_S)
    return kernel.collect_dirty()


def hold(kernel: ResidentKernel) -> None:
    kernel.await_generation(kernel.command(Command.HOLD), DEADLINE_S)
    assert kernel.state is KernelState.HELD


def run(kernel: ResidentKernel) -> None:
    kernel.await_generation(kernel.command(Command.RUN), DEADLINE_S)


def end(kernel: ResidentKernel) -> None:
    kernel.command(Command.RETURN)
    assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> Dirty:
    """Return the blocks whose digests differ."""
    found = {}
    for name, digests in before.items():
        shape = (-1, BLOCK_DIGEST_BYTES)
        one, other = (
            np.frombuffer(side, np.uint8).reshape(shape) for side in (digests, after[name])
        )
        blocks = tuple(np.flatnonzero((one != other).any(axis=1)).tolist())
        if blocks:
            found[name] = blocks
    return found


def mark(kernel: ResidentKernel, region: int, offset: int, size: int) -> Dirty:
    send(kernel, MARK, struct.pack("<IiQ", region, offset, size))
    return swapped(kernel)


@pytest.mark.parametrize("stride", [1, 40, 4999, BLOCK_CELLS, 3 * BLOCK_CELLS + 17])
def test_marks_of_every_thread_are_the_changed_blocks(kernel: ResidentKernel, stride: int) -> None:
    """672 threads mark at once, many of them in the same word of the bitmap."""
    for first in (0, 123, LARGE_CELLS - 1):
        before = kernel.digests()
        send(kernel, WRITE, struct.pack("<II", first, stride))
        hold(kernel)
        assert swapped(kernel) == changed(before, kernel.digests())
        run(kernel)


@pytest.mark.parametrize(
    ("region", "offset", "size", "dirty"),
    [
        (LARGE, 0, 1, {"large": (0,)}),
        (LARGE, BLOCK_BYTES - 1, 1, {"large": (0,)}),
        (LARGE, BLOCK_BYTES - 1, 2, {"large": (0, 1)}),
        (LARGE, BLOCK_BYTES, BLOCK_BYTES, {"large": (1,)}),
        (LARGE, 31 * BLOCK_BYTES, 2 * BLOCK_BYTES, {"large": (31, 32)}),
        (LARGE, 30 * BLOCK_BYTES + 5, 67 * BLOCK_BYTES, {"large": tuple(range(30, 98))}),
        (LARGE, 0, LARGE_CELLS * 4, {"large": tuple(range(BLOCKS))}),
        (LARGE, LARGE_CELLS * 4 - 1, 1, {"large": (BLOCKS - 1,)}),
        (LARGE, 100, 0, {}),
        (LARGE, LARGE_CELLS * 4, 1, {}),
        (LARGE, -1, 1, {}),
        (LARGE, -5000, 5001, {"large": (0,)}),
        (SMALL, 60, 4, {"small": (0,)}),
        (SMALL, 64, 64, {}),
        (EXTRA, 0, 80_000, {"global:extra": (0, 1)}),
        (EXTRA, 79_999, 1, {"global:extra": (1,)}),
    ],
)
def test_a_range_marks_the_blocks_that_it_touches(
    kernel: ResidentKernel, region: int, offset: int, size: int, dirty: Dirty
) -> None:
    """Also over the bitmap's words, and of a variable; what lies outside of all regions is not."""
    assert mark(kernel, region, offset, size) == dirty
    assert swapped(kernel) == {}


def test_a_range_without_an_end_marks_to_the_end_of_memory(kernel: ResidentKernel) -> None:
    """The sum of address and size may not wrap to something small."""
    found = mark(kernel, LARGE, 0, (1 << 64) - 1)
    assert found["large"] == tuple(range(BLOCKS))


def test_no_mark_is_lost_while_the_host_swaps(kernel: ResidentKernel) -> None:
    """The host follows a kernel that never rests, by copies of marked blocks; then they are equal.

    The kernel writes a block in a few steps and comes back to it much later, so that a mark that
    is lost leaves a block stale.
    """
    copy = np.frombuffer(kernel.read_region("large"), np.uint32).copy()
    region = kernel.regions["large"]

    def follow() -> int:
        dirty = swapped(kernel).get("large", ())
        for block in dirty:
            first = block * BLOCK_BYTES
            size = min(BLOCK_BYTES, region.size_bytes - first)
            data = kernel.device.copy_out(region, offset_bytes=first, size_bytes=size)
            copy[first // 4 : (first + size) // 4] = np.frombuffer(data, np.uint32)
        return len(dirty)

    send(kernel, SWEEP, struct.pack("<I", 7))
    marked = 0
    for _ in range(20):
        marked += sum(follow() for _ in range(40))
        hold(kernel)
        follow()
        memory = np.frombuffer(kernel.read_region("large"), np.uint32)
        stale = np.flatnonzero((copy != memory).reshape(-1)) // BLOCK_CELLS
        assert len(stale) == 0, f"blocks {sorted(set(stale.tolist()))} were written without a mark"
        run(kernel)
    assert marked > 200
    assert copy.sum() > 0


def test_two_threads_mark_in_the_same_words() -> None:
    """A mark adds its bit at once: none is written over by another one's read before it."""
    source = """
        #include <ringflow.cuh>
        extern "C" __device__ void mark_every_other(ringflow::workspace* work, unsigned* bitmap,
                                                    unsigned first, unsigned count) {
            for (unsigned block = first; block < count; block += 2)
                ringflow::detail::mark_range(work, bitmap, 4096 + block * 65536ull, 1);
        }
        extern "C" __global__ void unused(ringflow::control*) {}
    """
    compiled = compile_source(source, entry_point="unused", target=HOST, cache=None)
    program = translate(compiled.code.decode(), preempt=False)
    marks = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_uint32] * 2)(
        program.function("mark_every_other")
    )
    count = 1 << 16
    region = (ctypes.c_uint64 * 3)(4096, 4096 + count * BLOCK_BYTES, 0)
    work = ctypes.create_string_buffer(abi.WORKSPACE.size_bytes)
    for word, value in (("dirty_ranges", ctypes.addressof(region)), ("dirty_range_count", 1)):
        struct.pack_into("<Q", work, abi.WORKSPACE[word], value)
    for _ in range(200):
        bitmap = (ctypes.c_uint32 * (count // 32))()
        start = threading.Barrier(2)

        def run_half(first: int, address: int, start: threading.Barrier) -> None:
            start.wait(DEADLINE_S)
            marks(ctypes.addressof(work), address, first, count)

        threads = [
            threading.Thread(target=run_half, args=(first, ctypes.addressof(bitmap), start))
            for first in (0, 1)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert set(bitmap) == {0xFFFFFFFF}


def test_marks_survive_the_end_of_a_launch(kernel: ResidentKernel) -> None:
    """Those of the loop and those after it; then the next launch's come alone."""
    send(kernel, WRITE, struct.pack("<II", 0, 1))
    end(kernel)
    assert kernel.collect_dirty() == {"large": (0,), "small": (0,)}
    assert kernel.collect_dirty() == {}
    kernel.relaunch(base_sequence=9, epoch=2, gate_open=True, timeout_s=DEADLINE_S)
    assert mark(kernel, LARGE, 5 * BLOCK_BYTES, 1) == {"large": (5,), "small": (0,)}


def test_marks_wait_for_their_collection_over_a_relaunch(kernel: ResidentKernel) -> None:
    """Nobody collects in between: both launches' marks come with the next swap."""
    assert mark(kernel, LARGE, 0, 1) == {"large": (0,)}
    send(kernel, MARK, struct.pack("<IiQ", LARGE, BLOCK_BYTES, 1))
    end(kernel)
    kernel.relaunch(base_sequence=9, epoch=2, gate_open=True, timeout_s=DEADLINE_S)
    assert mark(kernel, LARGE, 2 * BLOCK_BYTES, 1) == {"large": (1, 2), "small": (0,)}


@pytest.mark.parametrize("collect", [True, False])
def test_a_swap_that_the_kernel_did_not_live_to_see(kernel: ResidentKernel, collect: bool) -> None:
    """Completed is as good as swapped; uncollected, the next launch swaps at its first boundary."""
    send(kernel, MARK, struct.pack("<IiQ", LARGE, BLOCK_BYTES, 1))
    end(kernel)
    kernel.request_dirty_swap()
    kernel.await_dirty_swap(DEADLINE_S)
    if collect:
        assert kernel.collect_dirty() == {"large": (1,), "small": (0,)}
    kernel.relaunch(base_sequence=9, epoch=2, gate_open=True, timeout_s=DEADLINE_S)
    if not collect:
        kernel.await_dirty_swap(DEADLINE_S)
        assert kernel.collect_dirty() == {"large": (1,), "small": (0,)}
    launched = {"small": (0,)} if collect else {}
    assert mark(kernel, LARGE, 2 * BLOCK_BYTES, 1) == {"large": (2,), **launched}


def test_a_held_kernel_swaps(kernel: ResidentKernel) -> None:
    """It waits at a boundary, which is where bitmaps are swapped."""
    send(kernel, MARK, struct.pack("<IiQ", LARGE, 0, 1))
    hold(kernel)
    assert swapped(kernel) == {"large": (0,)}
    assert swapped(kernel) == {}
    assert kernel.state is KernelState.HELD


def test_rounds_are_made_in_order(kernel: ResidentKernel) -> None:
    """What was asked for is collected before anything is asked for again."""
    with pytest.raises(KernelStateError, match="request and await"):
        kernel.collect_dirty()
    kernel.request_dirty_swap()
    with pytest.raises(KernelStateError, match="collected"):
        kernel.request_dirty_swap()
    kernel.await_dirty_swap(DEADLINE_S)
    kernel.collect_dirty()
    with pytest.raises(KernelStateError, match="request and await"):
        kernel.collect_dirty()


def test_a_kernel_that_reaches_no_boundary_does_not_swap(device: HostDevice) -> None:
    """The wait ends at its deadline, and says what to look for."""
    kernel = resident(device, "trouble", track_dirty=True)
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    spin = 3
    kernel.post([Posting(1, spin)])
    while kernel.taken_sequence < 1:
        kernel.command(Command.RUN)
    kernel.request_dirty_swap()
    with pytest.raises(KernelStalledError, match="boundary"):
        kernel.await_dirty_swap(0.05)
    with pytest.raises(KernelStateError, match="request and await"):
        kernel.collect_dirty()
    kernel.close()


def test_marks_are_off_unless_asked_for(device: HostDevice) -> None:
    """The kernel marks all the same, and nothing is written anywhere."""
    kernel = resident(device, "marker", grid=(2, 1, 1), block=(96, 1, 1))
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    send(kernel, WRITE, struct.pack("<II", 0, 1))
    for call in (kernel.request_dirty_swap, kernel.collect_dirty):
        with pytest.raises(UsageError, match="track_dirty=True"):
            call()
    kernel.close()


def test_a_deterministic_device_swaps_as_it_is_moved() -> None:
    """Its kernels go on in the waiting thread."""
    device = HostDevice("host:0", deterministic_seed=5)
    kernel = resident(device, "marker", grid=(3, 1, 1), track_dirty=True)
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    assert mark(kernel, LARGE, 40 * BLOCK_BYTES, 1) == {"large": (40,), "small": (0,)}
    kernel.close()
    device.close()


def test_bits_are_told_apart_at_the_borders_of_regions() -> None:
    """Each region's first and last block; a region of no bytes has none."""
    sizes = {"a": 3 * BLOCK_BYTES, "empty": 0, "b": 1, "c": 62 * BLOCK_BYTES + 1}
    regions = {name: DeviceGlobal(name, size, 1 << 20) for name, size in sizes.items()}
    table = DirtyTable(regions)
    places = (("a", 0, 0), ("a", 2, 2), ("b", 0, 3), ("c", 0, 4), ("c", 62, 66))
    for region, block, bit in places:
        bitmap = (1 << bit).to_bytes(table.bitmap(0)[1], "little")
        assert table.blocks(bitmap) == {region: (block,)}
    assert table.bitmap(1) == (4 * 24 + 16, 16)
    assert len(table.ranges()) == 4 * 24
