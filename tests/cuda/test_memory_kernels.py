"""The kernels for a GPU's memory, run on the host device: digests as the storage's, and copies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ringflow.device.api import LaunchStatus
from ringflow.device.compiler.api import CompileTarget, compile_source
from ringflow.device.cuda.memory_kernels import (
    COPY_ENTRY_POINT,
    DIGEST_ENTRY_POINT,
    THREADS,
    memory_source,
)
from ringflow.device.registry import open_device
from ringflow.storage.blocks import BLOCK_BYTES, block_count, block_digests

DEADLINE_S = 30.0
DATA = np.random.default_rng(11).bytes(5 * BLOCK_BYTES)
# Every path of XXH3 and its edges, whole KiB and stripes, and blocks beside a short last one.
LENGTHS = (
    *range(260),
    *(edge + by for edge in (512, 1024, 4096, 16384) for by in (-65, -64, -1, 0, 1, 63, 64, 65)),
    *(BLOCK_BYTES + by for by in (-1024, -64, -1, 0, 1, 3, 16, 17, 128, 129, 240, 241, 1025)),
    3 * BLOCK_BYTES + 100,
    5 * BLOCK_BYTES - 1,
)
# The kernel has no empty blocks, so the digest of nothing gets a kernel of its own.
EMPTY = """
extern "C" __global__ void digest_of_nothing(uint64_t* digest) {
    const digest128 empty = digest_up_to_240(nullptr, 0);
    digest[0] = swap64(empty.high);
    digest[1] = swap64(empty.low);
}
"""


class Bench:
    """The kernels on a host device, with ``DATA`` in its memory and room for what they write."""

    def __init__(self) -> None:
        self.device = open_device("host:0", memory_limit_bytes=4 << 20)
        self.code = self.device.load(
            compile_source(
                memory_source(),
                entry_point=DIGEST_ENTRY_POINT,
                target=self.device.target,
                cache=None,
            )
        )
        self.data = self.device.allocate(len(DATA), label="data")
        self.device.copy_in(self.data, DATA)
        self.made = self.device.allocate(len(DATA), label="made")

    def run(self, entry_point: str, *arguments: int, grid: int) -> None:
        """Run a kernel on arguments of 8 bytes, what it writes to filled with a pattern before."""
        self.device.copy_in(self.made, b"\xee" * self.made.size_bytes)
        launch = self.device.launch(
            self.code,
            entry_point,
            grid=(grid, 1, 1),
            block=(THREADS, 1, 1),
            parameters=tuple(argument.to_bytes(8, "little") for argument in arguments),
        )
        assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED, launch.detail

    def digest(self, offset_bytes: int, size_bytes: int, grid: int) -> bytes:
        """Return the digests of a piece of ``DATA``; nothing beside them was written."""
        at = self.data.address + offset_bytes
        self.run(DIGEST_ENTRY_POINT, at, size_bytes, self.made.address, grid=grid)
        end = 16 * block_count(size_bytes)
        made = bytes(self.device.copy_out(self.made, size_bytes=end + 1024))
        assert set(made[end:]) == {0xEE}, "it wrote past its digests"
        return made[:end]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.device.close()


@pytest.mark.parametrize("offset_bytes", [0, 8, 1])
def test_every_length_at_every_alignment(bench: Bench, offset_bytes: int) -> None:
    """Each path of XXH3, its edges, and several blocks by fewer thread blocks."""
    wrong = [
        length
        for length in LENGTHS
        if length + offset_bytes <= len(DATA)
        and bench.digest(offset_bytes, length, 2)
        != block_digests(DATA[offset_bytes : offset_bytes + length])
    ]
    assert not wrong


@pytest.mark.parametrize("grid", [1, 3, 5, 9])
def test_any_grid_gives_all_digests(bench: Bench, grid: int) -> None:
    """One thread block walks over all, and those without work do nothing."""
    assert bench.digest(0, len(DATA), grid) == block_digests(DATA)


def test_digest_of_nothing() -> None:
    """Zero bytes have a digest too, as XXH3 says."""
    device = open_device("host:0", memory_limit_bytes=1 << 20)
    source = memory_source() + EMPTY
    code = device.load(
        compile_source(source, entry_point="digest_of_nothing", target=device.target, cache=None)
    )
    target = device.allocate(16, label="digest")
    launch = device.launch(
        code,
        "digest_of_nothing",
        grid=(1, 1, 1),
        block=(1, 1, 1),
        parameters=(target.address.to_bytes(8, "little"),),
    )
    assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    assert bytes(device.copy_out(target)).hex() == "99aa06d3014798d86001c324468d497f"
    device.close()


@pytest.mark.parametrize(("from_offset", "to_offset"), [(0, 0), (16, 32), (8, 0), (1, 3)])
def test_copy_moves_its_bytes_and_no_other(bench: Bench, from_offset: int, to_offset: int) -> None:
    """Wide where both ends allow it, byte by byte where not; a ragged end in any case."""
    for size_bytes, grid in ((1, 1), (15, 2), (16, 1), (4097, 1), (200_001, 3)):
        source, target = bench.data.address + from_offset, bench.made.address + to_offset
        bench.run(COPY_ENTRY_POINT, source, target, size_bytes, grid=grid)
        made = bytes(bench.device.copy_out(bench.made))
        end = to_offset + size_bytes
        assert made[to_offset:end] == DATA[from_offset : from_offset + size_bytes]
        assert set(made[:to_offset] + made[end:]) == {0xEE}


def test_nvrtc_takes_the_source() -> None:
    """It is compiled for a GPU as any kernel is, without a word from the compiler."""
    code = compile_source(
        memory_source(), entry_point=DIGEST_ENTRY_POINT, target=CompileTarget("sm_90"), cache=None
    )
    assert code.log == ""
