"""The driver's hazards in the stand-in: what waits for the kernels of its context blocks for real.

A call that only the waiting thread could end is a deadlock, which the stand-in finds by a deadline.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from cuda.bindings import driver

from tests.cuda.raw import PRINTING, READ_WRITE, Gpu, Pointer, Word, ask, code_of, cubin, gpu, load
from tests.cuda.standin import ALL_HAZARDS, Hazard, Standin, plug

pytestmark = pytest.mark.usefixtures("plain_environment")

DEADLOCK = "cuda:0, which live on: a deadlock"
STACK = driver.CUlimit.CU_LIMIT_STACK_SIZE


class Stage:
    """A device with things made before the kernel runs, for calls that come while it does."""

    def __init__(self) -> None:
        self.one = Gpu(0)
        self.spare = ask("cuMemAlloc", 64)
        self.spare_pinned = ask("cuMemHostAlloc", 64, 0)
        self.spare_library = load(cubin())
        self.printing = load(cubin(PRINTING, "tell"))
        self.tell = ask("cuKernelGetFunction", ask("cuLibraryGetKernel", self.printing, b"tell"))
        ask("cuFuncLoad", self.tell)
        ask("cuFuncLoad", self.one.function("deep"))
        self.peer = ask("cuDevicePrimaryCtxRetain", 1)
        self.pool = ask("cuDeviceGetDefaultMemPool", 0)

    def set_pool_access(self) -> int:
        access = driver.CUmemAccessDesc()
        access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        access.location.id, access.flags = 1, READ_WRITE
        return code_of("cuMemPoolSetAccess", self.pool, [access], 1)

    def copy_pageable(self) -> int:
        words = np.zeros(4, dtype=np.uint32)
        target = (self.one.memory + 64, words.ctypes.data, 16)
        return code_of("cuMemcpyHtoDAsync", *target, self.one.copies)

    def print(self) -> int:
        shape = (self.tell, 1, 1, 1, 1, 1, 1, 0, self.one.copies)
        return code_of("cuLaunchKernel", *shape, ((1,), (Word,)), 0)

    def cooperate(self) -> int:
        arguments = ((self.one.memory + 64, Pointer), (1, Word))
        return self.one.launch("put", *arguments, stream=self.one.copies, cooperative=True)

    def grow_locals(self) -> int:
        arguments = ((self.one.memory + 64, Pointer), (1, Word))
        return self.one.launch("deep", *arguments, stream=self.one.copies)


CALLS: dict[str, tuple[Hazard, Callable[[Stage], int]]] = {
    "cuMemFree": (Hazard.FREE, lambda stage: code_of("cuMemFree", stage.spare)),
    "cuMemHostAlloc": (Hazard.FREE, lambda stage: code_of("cuMemHostAlloc", 64, 0)),
    "cuMemFreeHost": (Hazard.FREE, lambda stage: code_of("cuMemFreeHost", stage.spare_pinned)),
    "cuLibraryUnload": (
        Hazard.UNLOAD,
        lambda stage: code_of("cuLibraryUnload", stage.spare_library),
    ),
    "cuLibraryLoadData": (
        Hazard.LOAD,
        lambda stage: code_of("cuLibraryLoadData", cubin(), [], [], 0, [], [], 0),
    ),
    "cuCtxSetLimit": (Hazard.LIMITS, lambda stage: code_of("cuCtxSetLimit", STACK, 4096)),
    "cuCtxEnablePeerAccess": (
        Hazard.LIMITS,
        lambda stage: code_of("cuCtxEnablePeerAccess", stage.peer, 0),
    ),
    "cuMemPoolSetAccess": (Hazard.LIMITS, Stage.set_pool_access),
    "cuMemcpyHtoDAsync": (Hazard.PAGEABLE, Stage.copy_pageable),
    "cuLaunchKernel (first to print)": (Hazard.LIMITS, Stage.print),
    "cuLaunchKernel (more local memory)": (Hazard.LIMITS, Stage.grow_locals),
    "cuLaunchCooperativeKernel (the first)": (Hazard.LIMITS, Stage.cooperate),
    "cuMemAlloc": (Hazard.ALLOCATE, lambda stage: code_of("cuMemAlloc", 64)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_waits_for_the_kernels_of_its_context(name: str) -> None:
    """With the kernel alive it never returns; with its hazard out it does, and is only noted."""
    hazard, make = CALLS[name]
    call = name.split()[0]
    with plug(2, deadline_s=0.1, hazards=ALL_HAZARDS | Hazard.ALLOCATE, check=False) as standin:
        stage = Stage()
        stage.one.spin()
        assert make(stage) == 702
        assert f"{call} waits for the kernels on {DEADLOCK}" in standin.problems
        assert code_of("cuMemAlloc", 64) == 702  # the deadlock has cost the context
    with plug(2, deadline_s=0.1, hazards=Hazard(255) & ~hazard, check=False) as standin:
        stage = Stage()
        stage.one.spin()
        assert make(stage) == 0
        assert not any("deadlock" in text for text in standin.problems)
        stage.one.stop()


def test_synchronising_what_a_kernel_is_in_is_a_deadlock() -> None:
    """The context, its stream, and the legacy stream if the kernel's stream is a blocking one."""
    for name, blocking in (
        ("cuCtxSynchronize", False),
        ("cuStreamSynchronize", False),
        ("cuMemcpyHtoD", True),
    ):
        with plug(1, deadline_s=0.1, wait_deadline_s=0.1, check=False) as standin:
            one = Gpu(0)
            one.spin(stream=ask("cuStreamCreate", 0) if blocking else one.stream)
            arguments: dict[str, tuple[object, ...]] = {
                "cuStreamSynchronize": (one.stream,),
                "cuMemcpyHtoD": (one.memory, one.pinned, 4),
            }
            assert code_of(name, *arguments.get(name, ())) == 702
            assert any(text.startswith(name) and "deadlock" in text for text in standin.problems)


def test_a_waiting_call_holds_its_context_and_ends_with_the_kernel(gpus: Standin) -> None:
    """Another thread's copy waits with it, though its stream is free."""
    gpus.allow("cuMemFree")
    with gpu() as one:
        spare = ask("cuMemAlloc", 64)
        one.spin()
        ended: list[str] = []

        def free() -> None:
            ask("cuCtxSetCurrent", one.context)
            ask("cuMemFree", spare)
            ended.append("free")

        def copy() -> None:
            ask("cuCtxSetCurrent", one.context)
            ask("cuMemcpyHtoDAsync", one.memory + 64, one.pinned + 64, 4, one.copies)
            ended.append("copy")

        threads = [threading.Thread(target=free)]
        threads[0].start()
        while not any(call.code == -1 for call in gpus.calls("cuMemFree")):
            pass
        threads.append(threading.Thread(target=copy))
        threads[1].start()
        threads[1].join(0.05)
        assert not ended
        one.words[0] = 1
        for thread in threads:
            thread.join()
        assert sorted(ended) == ["copy", "free"]


def test_calls_beside_a_kernel_are_held_to_a_list(gpus: Standin) -> None:
    """What is not on it is a problem even where nothing blocks, unless a test allows it."""
    with gpu() as one:
        one.spin()
        ask("cuMemGetInfo")
        extra = [ask("cuMemAlloc", 64)]
        assert gpus.forget_problems() == ["cuMemAlloc was called while a kernel lives on cuda:0"]
        gpus.allow("cuMemAlloc")
        extra.append(ask("cuMemAlloc", 64))
        assert gpus.problems == []
        assert [call.live for call in gpus.calls("cuMemAlloc")] == [0, 1, 1]
        one.stop()
        for each in extra:
            ask("cuMemFree", each)


def test_a_kernel_of_one_context_keeps_no_call_of_another(gpus: Standin) -> None:
    """All that waits for kernels waits for those of its own context."""
    with gpu(1) as second:
        second.spin()
        with gpu(0):
            ask("cuCtxSynchronize")
        second.stop()


def test_a_library_that_is_loaded_eagerly_waits_for_the_kernels_of_each_context() -> None:
    """It goes into all of them at once; a module, or lazy loading, into the current one only."""
    for eager, call, code in (
        (True, "cuLibraryLoadData", 702),
        (False, "cuLibraryLoadData", 0),
        (True, "cuModuleLoadData", 0),
    ):
        with plug(2, deadline_s=0.1, eager=eager, check=False) as standin:
            second, _ = Gpu(1), Gpu(0)
            ask("cuCtxPushCurrent", second.context)
            second.spin()
            ask("cuCtxPopCurrent")
            options: list[object] = [[], [], 0, [], [], 0] if "Library" in call else []
            assert (code_of(call, cubin(), *options), standin.live(0)) == (code, 0)
