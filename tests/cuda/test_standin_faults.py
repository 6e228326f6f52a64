"""Faults by script, lost devices, leaks and the trace of the stand-in."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from cuda.bindings import driver

from tests.cuda.raw import PRINTING, Gpu, Word, ask, code_of, cubin, gpu, load
from tests.cuda.standin import Fault, FaultKind, Standin, plug

pytestmark = pytest.mark.usefixtures("plain_environment")


def test_the_nth_call_of_a_name_errs(gpus: Standin) -> None:
    """Only that one, and only on the device that was named."""
    with gpu() as one:
        gpus.arm(Fault("cuMemAlloc", nth=2, code=2), Fault("cuMemAlloc", code=2, ordinal=1))
        first = ask("cuMemAlloc", 64)
        assert code_of("cuMemAlloc", 64) == 2
        third = ask("cuMemAlloc", 64)
        assert gpus.unused_faults == 1
        for address in (first, third):
            ask("cuMemFree", address)
        assert code_of("cuStreamQuery", one.stream) == 0


@pytest.mark.parametrize("code", [700, 719])
def test_a_sticky_error_kills_the_context_with_its_kernels(gpus: Standin, code: int) -> None:
    """Every later call answers it, until the context was given back; other devices live."""
    with gpu(1) as second:
        second.spin()
        one = Gpu(0)
        one.spin()
        gpus.arm(Fault("cuMemcpyHtoDAsync", code=code))
        assert code_of("cuMemcpyHtoDAsync", one.memory, one.pinned, 4, one.copies) == code
        assert code_of("cuStreamQuery", one.stream) == code
        assert code_of("cuMemAlloc", 64) == code
        one.release()
        assert (gpus.live(0), gpus.live(1)) == (0, 1)
        with gpu(0):
            pass
        second.stop()


def test_a_lost_device_ends_its_kernels(gpus: Standin) -> None:
    """``kill`` needs no call of the library, as a GPU that falls off the bus."""
    one = Gpu(0)
    one.spin()
    gpus.kill(0, 719)
    assert code_of("cuStreamSynchronize", one.stream) == 719
    one.release()


def test_a_stalled_call_waits_for_its_release(gpus: Standin) -> None:
    """It then does what it should; the others go on meanwhile."""
    with gpu() as one:
        gpus.arm(Fault("cuMemGetInfo", kind=FaultKind.STALL))
        answers: list[int] = []

        def call() -> None:
            ask("cuCtxSetCurrent", one.context)
            answers.append(code_of("cuMemGetInfo"))

        thread = threading.Thread(target=call)
        thread.start()
        while not gpus.calls("cuMemGetInfo"):
            pass
        one.write(one.memory, 1)
        assert not answers
        gpus.release()
        thread.join()
        assert answers == [0]


def test_stalled_work_stays_in_its_queue(gpus: Standin) -> None:
    """The call returns, the copy doesn't happen before it is released."""
    with gpu() as one:
        one.write(one.memory, 1)
        gpus.arm(Fault("cuMemcpyDtoHAsync", kind=FaultKind.STALL_WORK))
        ask("cuMemcpyDtoHAsync", one.pinned + 8, one.memory, 4, one.stream)
        gpus.settle()
        assert (one.words[2], code_of("cuStreamQuery", one.stream)) == (0, 600)
        gpus.release()
        ask("cuStreamSynchronize", one.stream)
        assert one.words[2] == 1


def test_work_that_is_stalled_for_ever_is_a_problem() -> None:
    """Code that waits for it without a deadline fails its test; it doesn't hang."""
    with plug(1, wait_deadline_s=0.1, check=False) as standin:
        one = Gpu(0)
        standin.arm(Fault("cuMemcpyDtoHAsync", kind=FaultKind.STALL_WORK))
        ask("cuMemcpyDtoHAsync", one.pinned + 8, one.memory, 4, one.stream)
        while (code := code_of("cuStreamQuery", one.stream)) == 600:
            pass
        assert code == 702
        one.release()
    assert any("cuda:0 stalled" in problem for problem in standin.problems)


def test_a_corrupted_copy_differs_in_a_bit(gpus: Standin) -> None:
    """What only a digest finds: every call says that all went well."""
    with gpu() as one:
        one.write(one.memory, 0, 0)
        gpus.arm(Fault("cuMemcpyDtoHAsync", kind=FaultKind.CORRUPT))
        assert one.read(one.memory, 2) == [0, 0x40]
        assert one.read(one.memory, 2) == [0, 0]


def test_a_trap_is_a_launch_failure_that_says_where(gpus: Standin) -> None:
    """719, and in words what the kernel did."""
    one = Gpu(0)
    one.launch("stray")
    assert code_of("cuStreamSynchronize", one.stream) == 719
    assert "trap in kernel 'stray'" in gpus.details[0]
    one.release()


def test_prints_come_when_the_kernel_has_ended(gpus: Standin) -> None:
    """As far as the kernel's log keeps them."""
    with gpu() as one:
        library = load(cubin(PRINTING, "tell"))
        function = ask("cuKernelGetFunction", ask("cuLibraryGetKernel", library, b"tell"))
        shape = (function, 1, 1, 1, 2, 1, 1, 0, one.stream)
        ask("cuLaunchKernel", *shape, ((5,), (Word,)), 0)
        ask("cuStreamSynchronize", one.stream)
        assert gpus.printed == "value 5\nvalue 5\n"
        ask("cuLibraryUnload", library)


LEAKS: dict[str, Callable[[Gpu], object]] = {
    "device memory": lambda one: ask("cuMemAlloc", 64),
    "pinned memory": lambda one: ask("cuMemHostAlloc", 64, 0),
    "stream": lambda one: ask("cuStreamCreate", 1),
    "event": lambda one: ask("cuEventCreate", 0),
    "library": lambda one: load(cubin()),
    "module": lambda one: ask("cuModuleLoadData", cubin()),
    "primary context is retained": lambda one: ask("cuDevicePrimaryCtxRetain", 0),
}


@pytest.mark.parametrize("what", LEAKS)
@pytest.mark.parametrize("closes", [True, False])
def test_what_is_not_given_back_is_a_leak(what: str, closes: bool) -> None:
    """Whether its context is destroyed or not; without it there is none."""
    with plug(1, check=False) as standin:
        one = Gpu(0)
        LEAKS[what](one)
        if closes:
            one.close()
    leaks = [text for text in standin.problems if "leak" in text]
    assert any(what in text for text in leaks)
    assert not closes or len(leaks) == 1
    with plug(1, check=False) as standin, gpu(0):
        pass
    assert standin.problems == []


def test_a_kernel_that_lives_at_the_end_is_a_problem_and_is_stopped() -> None:
    """No test leaves a kernel behind for the next one."""
    with plug(1, check=False) as standin:
        Gpu(0).spin()
    assert "1 kernels still live on cuda:0" in standin.problems


def test_problems_fail_the_test_at_the_end_of_the_plugging() -> None:
    """By an error that lists them; the next plugging starts afresh."""

    def leave_retained() -> None:
        with plug(1):
            ask("cuInit", 0)
            ask("cuDevicePrimaryCtxRetain", 0)

    with pytest.raises(AssertionError, match="primary context is retained 1 times"):
        leave_retained()
    with plug(1):
        pass


def test_the_trace_says_who_called_what_and_what_came_back(gpus: Standin) -> None:
    """In the order of the calls, with the context's device and its kernels."""
    with gpu() as one:
        one.spin()
        assert code_of("cuStreamQuery", one.stream) == 600
        found = gpus.calls("cuLaunchKernel", "cuStreamQuery")
        assert [(call.name, call.ordinal, call.code) for call in found] == [
            ("cuLaunchKernel", 0, 0),
            ("cuStreamQuery", 0, 600),
        ]
        assert found[1].thread == threading.get_ident()
        assert found[0].at_ns <= found[1].at_ns
        one.stop()


def test_a_long_trace_keeps_its_newest_calls() -> None:
    """The first of them are gone, none is there twice."""
    with plug(1) as standin:
        ask("cuInit", 0)
        for _ in range(70_000):
            driver.cuDeviceGetCount()
        ask("cuDeviceGet", 0)
        assert len(standin.trace) == 65_536
        assert standin.trace[-1].name == "cuDeviceGet"
        assert not standin.calls("cuInit")


def test_calls_without_a_context_or_with_a_stale_handle_err(gpus: Standin) -> None:
    """201 and 400: what a use after close would give."""
    with gpu() as one:
        event = ask("cuEventCreate", 0)
        ask("cuEventDestroy", event)
        assert code_of("cuEventQuery", event) == 400
        assert code_of("cuEventRecord", one.stream, one.stream) == 400
        ask("cuCtxPopCurrent")
        assert code_of("cuMemAlloc", 64) == 201
        ask("cuCtxPushCurrent", one.context)
    assert code_of("cuCtxPushCurrent", one.context) == 201
    assert code_of("cuCtxPopCurrent") == 201
