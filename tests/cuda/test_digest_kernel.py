"""The digest kernel, run on the host device: the same digests as those of the storage, exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ringflow.device.api import LaunchStatus
from ringflow.device.compiler.api import CompileTarget, compile_source
from ringflow.device.cuda.digests import DIGEST_ENTRY_POINT, digest_source
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

Digest = Callable[[int, int, int], bytes]


@pytest.fixture(scope="module")
def digest() -> Iterator[Digest]:
    """Give (offset, size, grid) -> the kernel's digests of that piece of ``DATA``."""
    device = open_device("host:0", memory_limit_bytes=4 << 20)
    code = device.load(
        compile_source(
            digest_source(), entry_point=DIGEST_ENTRY_POINT, target=device.target, cache=None
        )
    )
    data = device.allocate(len(DATA), label="data")
    device.copy_in(data, DATA)
    digests = device.allocate(16 * 8, label="digests")

    def run(offset_bytes: int, size_bytes: int, grid: int) -> bytes:
        device.copy_in(digests, b"\xee" * digests.size_bytes)
        numbers = (data.address + offset_bytes, size_bytes, digests.address)
        launch = device.launch(
            code,
            DIGEST_ENTRY_POINT,
            grid=(grid, 1, 1),
            block=(256, 1, 1),
            parameters=tuple(number.to_bytes(8, "little") for number in numbers),
        )
        assert launch.wait(DEADLINE_S) is LaunchStatus.COMPLETED, launch.detail
        made = bytes(device.copy_out(digests))
        end = 16 * block_count(size_bytes)
        assert set(made[end:]) == {0xEE}, "it wrote past its digests"
        return made[:end]

    yield run
    device.unload(code)
    device.close()


@pytest.mark.parametrize("offset_bytes", [0, 8, 1])
def test_every_length_at_every_alignment(digest: Digest, offset_bytes: int) -> None:
    """Each path of XXH3, its edges, and several blocks by fewer thread blocks."""
    wrong = [
        length
        for length in LENGTHS
        if length + offset_bytes <= len(DATA)
        and digest(offset_bytes, length, 2)
        != block_digests(DATA[offset_bytes : offset_bytes + length])
    ]
    assert not wrong


@pytest.mark.parametrize("grid", [1, 3, 5, 9])
def test_any_grid_gives_all_digests(digest: Digest, grid: int) -> None:
    """One thread block walks over all, and those without work do nothing."""
    assert digest(0, len(DATA), grid) == block_digests(DATA)


def test_digest_of_nothing() -> None:
    """Zero bytes have a digest too, as XXH3 says."""
    device = open_device("host:0", memory_limit_bytes=1 << 20)
    source = digest_source() + EMPTY
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


def test_nvrtc_takes_the_source() -> None:
    """It is compiled for a GPU as any kernel is, without a word from the compiler."""
    code = compile_source(
        digest_source(), entry_point=DIGEST_ENTRY_POINT, target=CompileTarget("sm_90"), cache=None
    )
    assert code.log == ""
