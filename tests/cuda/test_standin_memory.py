"""The stand-in's memory: each device's own, bounds and owners, pinned memory, peers and pools."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from cuda.bindings import driver

from tests.cuda.raw import READ_WRITE, Gpu, Pointer, Word, ask, code_of, gpu
from tests.cuda.standin import Hazard, Standin, plug

pytestmark = pytest.mark.usefixtures("plain_environment")


@contextmanager
def two() -> Iterator[tuple[Gpu, Gpu]]:
    """Two devices; the first one's context is current."""
    with gpu(0) as first:
        second = Gpu(1)
        ask("cuCtxPopCurrent")
        yield first, second
        ask("cuCtxPushCurrent", second.context)
        second.close()


def put(one: Gpu, address: int, value: int = 6) -> int:
    """Have a device's kernel store a word; return what its stream answers then."""
    assert not one.launch("put", (address, Pointer), (value, Word), threads=1)
    return code_of("cuStreamSynchronize", one.stream)


def test_new_memory_holds_garbage(gpus: Standin) -> None:
    """A GPU does not clear memory: who needs zeros writes them."""
    with gpu() as one:
        assert any(one.read(one.memory, 16))
        again = int(ask("cuMemHostAlloc", 64, 0))
        assert any(np.ctypeslib.as_array((Word * 16).from_address(again)))
        ask("cuMemFreeHost", again)


def test_a_device_has_so_much_memory_and_takes_it_back(gpus: Standin) -> None:
    """2 past the end; what was freed can be had again."""
    with gpu() as one:
        free, total = ask("cuMemGetInfo")
        assert (total, free) == (256 << 20, total - 4096)
        assert code_of("cuMemAlloc", free + 1) == 2
        most = ask("cuMemAlloc", free)
        assert code_of("cuMemAlloc", 1) == 2
        ask("cuMemFree", most)
        assert ask("cuMemGetInfo")[0] == free
        assert code_of("cuMemFree", most) == 1
        assert code_of("cuMemcpyDtoHAsync", one.pinned, most, 4, one.stream) == 1


@pytest.mark.parametrize("offset", [4093, 4096, -4])
def test_copies_stay_within_one_piece_of_memory(gpus: Standin, offset: int) -> None:
    """A range that leaves it is refused, on either side."""
    with gpu() as one:
        at = one.memory + offset
        assert code_of("cuMemcpyHtoDAsync", at, one.pinned, 4, one.stream) == 1
        assert code_of("cuMemcpyDtoHAsync", one.pinned, at, 4, one.stream) == 1
        assert code_of("cuMemsetD32Async", at, 0, 1, one.stream) == 1
        if offset == 4093:
            target = one.pinned + offset
            assert code_of("cuMemcpyDtoHAsync", target, one.memory, 4, one.stream) == 1


def test_pointers_say_whose_memory_they_are_of(gpus: Standin) -> None:
    """By attributes, as arrays of other libraries are looked at."""
    names = driver.CUpointer_attribute
    with two() as (first, second):
        ordinal = names.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        kind = names.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
        assert ask("cuPointerGetAttribute", ordinal, second.memory + 8) == 1
        assert int(ask("cuPointerGetAttribute", kind, first.memory)) == 2
        assert int(ask("cuPointerGetAttribute", kind, first.pinned)) == 1
        assert code_of("cuPointerGetAttribute", kind, 4096) == 1
        base, size = ask("cuMemGetAddressRange", second.memory + 8)
        assert (int(base), size) == (second.memory, 4096)


def test_a_kernel_reaches_its_own_memory_and_what_is_pinned(gpus: Standin) -> None:
    """Pinned memory of another device's context too."""
    with two() as (first, second):
        assert put(first, first.memory) == 0
        assert put(first, second.pinned + 4) == 0
        assert (first.read(first.memory), second.words[1]) == ([6], 6)


@pytest.mark.parametrize("where", ["past the end", "peer", "pageable", "freed"])
def test_a_kernel_that_leaves_its_memory_kills_its_context(gpus: Standin, where: str) -> None:
    """700, at every later call; the other device lives on."""
    pageable = np.zeros(4, dtype=np.uint32)
    with gpu(1) as second:
        first = Gpu(0)
        freed = int(ask("cuMemAlloc", 64))
        ask("cuMemFree", freed)
        address = {
            "past the end": first.memory + 4096,
            "peer": second.memory,
            "pageable": pageable.ctypes.data,
            "freed": freed,
        }[where]
        assert put(first, address) == 700
        assert "store of 4 bytes" in gpus.details[0]
        assert code_of("cuMemAlloc", 4) == 700
        assert code_of("cuStreamQuery", first.stream) == 700
        first.release()
        assert put(second, second.memory) == 0
        with gpu(0) as anew:
            assert put(anew, anew.memory) == 0


def test_peer_access_is_given_once(gpus: Standin) -> None:
    """From then on kernels reach the peer's memory; a repetition is 704, which is no error."""
    with two() as (first, second):
        assert code_of("cuCtxEnablePeerAccess", first.context, 0) == 201
        ask("cuCtxEnablePeerAccess", second.context, 0)
        assert code_of("cuCtxEnablePeerAccess", second.context, 0) == 704
        assert put(first, second.memory) == 0
        assert first.read(second.memory) == [6]
        ask("cuCtxDisablePeerAccess", second.context)
        assert code_of("cuCtxDisablePeerAccess", second.context) == 705


def test_peer_access_needs_a_link() -> None:
    """217 without one, in the one direction or both; and nobody says that there is one."""
    attribute = driver.CUdevice_P2PAttribute.CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED
    with plug(2, peer_access=[(1, 0)]), two() as (_, second):
        assert code_of("cuCtxEnablePeerAccess", second.context, 0) == 217
        found = [ask("cuDeviceCanAccessPeer", *pair) for pair in ((0, 1), (1, 0))]
        assert found == [0, 1]
        assert [ask("cuDeviceGetP2PAttribute", attribute, *pair) for pair in ((0, 1), (1, 0))] == [
            *(0, 1)
        ]


@pytest.mark.parametrize("gpus", [{"peer_access": True}, {"peer_access": False}], indirect=True)
def test_peer_copies_need_no_access_but_the_right_owners(gpus: Standin) -> None:
    """Without a link they go through the host; a wrong context is found."""
    with two() as (first, second):
        first.write(first.memory, 11, 12)
        pair = (second.context, first.context)
        to, source = second.memory + 8, first.memory
        ask("cuMemcpyPeerAsync", to, pair[0], source, pair[1], 8, first.stream)
        ask("cuStreamSynchronize", first.stream)
        assert first.read(to, 2) == [11, 12]
        assert code_of("cuMemcpyPeerAsync", to, pair[1], source, pair[0], 8, first.stream) == 1
        assert "was told that memory of cuda:1 is cuda:0's" in gpus.forget_problems()[0]
        past = second.memory + 4092
        assert code_of("cuMemcpyPeerAsync", past, pair[0], source, pair[1], 8, first.stream) == 1


def pool_on(ordinal: int) -> Any:
    properties = driver.CUmemPoolProps()
    properties.allocType = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    properties.location.id = ordinal
    return ask("cuMemPoolCreate", properties)


@pytest.mark.parametrize(("on_pool", "code"), [(False, 700), (True, 0)])
def test_pool_memory_goes_by_its_pools_access(gpus: Standin, on_pool: bool, code: int) -> None:
    """``cuCtxEnablePeerAccess`` does nothing for it, ``cuMemPoolSetAccess`` does."""
    with gpu(1) as second:
        pool = pool_on(1)
        memory = int(ask("cuMemAllocFromPoolAsync", 64, pool, second.stream))
        first = Gpu(0)
        ask("cuCtxEnablePeerAccess", second.context, 0)
        if on_pool:
            access = driver.CUmemAccessDesc()
            access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
            access.location.id, access.flags = 0, READ_WRITE
            ask("cuMemPoolSetAccess", pool, [access], 1)
        assert put(first, memory) == code
        first.release() if code else first.close()
        ask("cuMemFreeAsync", memory, second.stream)
        ask("cuStreamSynchronize", second.stream)
        ask("cuMemPoolDestroy", pool)


@pytest.mark.parametrize("freed", [False, True])
def test_what_a_running_kernel_may_touch_follows_the_calls(gpus: Standin, freed: bool) -> None:
    """Memory that came after its launch is its too, freed memory no longer; the calls are let
    through for once, with their hazard out."""
    gpus.allow("cuMemAlloc", "cuMemFree")
    gpus.set_hazards(Hazard(0))
    one = Gpu(0)
    assert not one.launch("late", (one.pinned + 8, Pointer), (6, Word), threads=1)
    while not gpus.live(0):
        pass
    late = int(ask("cuMemAlloc", 64))
    if freed:
        ask("cuMemFree", late)
    words = np.ctypeslib.as_array(one.words).view(np.uint64)
    words[1] = late
    assert code_of("cuStreamSynchronize", one.stream) == (700 if freed else 0)
    if freed:
        one.release()
    else:
        assert one.read(late) == [6]
        ask("cuMemFree", late)
        one.close()
