"""printf, failed assertions, and the log that they go to."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
import pytest

from ringflow.code_source import KernelCodeSource
from ringflow.device.abi import Command
from ringflow.device.api import LaunchStatus
from ringflow.device.compiler.api import HOST, CompiledCode, compile_source
from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.host import cta
from ringflow.device.host.device import HostDevice
from ringflow.device.host.log import HEAD_BYTES, SLOT_BYTES, SLOTS, words
from ringflow.device.host.runner import Grid
from ringflow.device.host.translate import translate
from ringflow.device.posting import Posting
from ringflow.device.resident import ResidentKernel
from ringflow.errors import EntryPointError, KernelTrappedError
from ringflow.spec import KernelSpec
from tests.device.host.programs import HEAD, Array, cuda, start

DEADLINE_S = 20.0

SOURCE = r"""
#define KERNEL extern "C" __global__ void
KERNEL hello(const char* name, int n) {
    if (threadIdx.x < n)
        printf("%s: thread %d of %u, %5.2f|%-4x|%c|%%\n", name, (int)threadIdx.x - 1, blockDim.x,
               threadIdx.x * 1.5f, threadIdx.x + 10, 'a' + threadIdx.x);
}
KERNEL kinds(int* out) {
    long long big = -5000000000ll;
    out[0] = printf("%lld %llu %hhd %+d %05d %#x %*d %.*f %e %g\n", big, ~0ull, 300, 7, -42, 255,
                    6, 12, 3, 2.0 / 3, 12345.678, 1e-10);
    out[1] = printf("nothing\n");
}
KERNEL floods(int n) {
    for (int i = 0; i < n; ++i) printf("%d\n", i);
}
KERNEL lengthy(const char* text) { printf("[%s]\n", text); }
KERNEL barriers(int* out) {
    printf("before %d\n", (int)threadIdx.x);
    __syncthreads();
    printf("after %d\n", (int)threadIdx.x);
    out[threadIdx.x] = 1;
}
__device__ __noinline__ void shout(int x) { printf("shout %d\n", x); }
KERNEL through_a_function() { shout(threadIdx.x + 5); }
KERNEL quiet(int* out) { out[threadIdx.x] = 1; }
"""


def finished(entry: str, block: int, *values: Array | int) -> Grid:
    grid = start(cuda(SOURCE), entry, 1, block, *values)
    while not grid.done:
        grid.round(64)
    return grid


def text_of(entry: str, block: int, *values: Array | int) -> str:
    log = finished(entry, block, *values).log
    assert log is not None
    return log.text()


def test_conversions_are_those_of_c() -> None:
    """Texts, integers, floats and characters, with widths and precisions."""
    name = np.frombuffer(b"kernel\0", np.uint8).copy()
    expected = [
        f"kernel: thread {t - 1} of 4, {t * 1.5:5.2f}|{t + 10:<4x}|{chr(97 + t)}|%\n"
        for t in range(3)
    ]
    assert text_of("hello", 4, name, 3) == "".join(expected)


def test_wide_and_starred_arguments() -> None:
    """64-bit integers, widths and precisions given as arguments; printf counts its arguments."""
    out = np.zeros(2, np.int32)
    expected = (
        f"-5000000000 {2**64 - 1} 44 +7 -0042 0xff     12 0.667 {12345.678:e} 1e-10\nnothing\n"
    )
    assert text_of("kinds", 1, out) == expected
    assert out.tolist() == [12, 0]


def test_messages_name_their_thread() -> None:
    """Each message tells block and thread; a barrier orders those before it and after it."""
    out = np.zeros(40, np.int32)
    log = finished("barriers", 40, out).log
    assert log is not None
    messages, lost = log.messages()
    assert lost == 0
    assert [m.text for m in messages[:40]] == [f"before {t}\n" for t in range(40)]
    assert {m.text for m in messages[40:]} == {f"after {t}\n" for t in range(40)}
    assert all(m.block == (0, 0, 0) and m.text.endswith(f" {m.thread}\n") for m in messages)


def test_a_log_is_bounded_and_keeps_the_newest() -> None:
    """A flood overwrites the oldest messages, and is counted."""
    log = finished("floods", 1, 1000).log
    assert log is not None
    messages, lost = log.messages()
    assert [m.text for m in messages] == [f"{i}\n" for i in range(1000 - SLOTS, 1000)]
    assert lost == 1000 - SLOTS
    assert log.text().startswith(f"[{lost} messages lost]\n")


def test_a_text_that_is_too_long_is_cut() -> None:
    """A message has room for one slot; what is cut off is marked."""
    text = np.frombuffer(b"x" * 2000 + b"\0", np.uint8).copy()
    printed = text_of("lengthy", 1, text)
    assert printed.startswith("[" + "x" * 400)
    assert printed.endswith("x]\n...\n")
    assert len(printed) < 500


def test_functions_may_print() -> None:
    """They run inlined in the kernel that calls them."""
    assert text_of("through_a_function", 2) == "shout 5\nshout 6\n"


def test_kernels_that_never_print_have_no_log() -> None:
    """No memory is taken for one."""
    program = cuda('extern "C" __global__ void quiet(int* out) { out[threadIdx.x] = 1; }')
    assert not program.prints
    assert start(program, "quiet", 1, 1, np.zeros(1, np.int32)).log is None


def test_a_message_of_a_busy_slot_is_lost_and_nobody_waits() -> None:
    """A thread that finds its slot being written goes on."""
    grid = start(cuda(SOURCE), "floods", 1, 1, 5)
    assert grid.log is not None
    stamp = ctypes.c_uint64.from_address(grid.log.address + HEAD_BYTES + 2 * SLOT_BYTES)
    stamp.value = 1  # odd: being written
    while not grid.done:
        grid.round(64)
    messages, lost = grid.log.messages()
    assert [m.text for m in messages] == ["0\n", "1\n", "3\n", "4\n"]
    assert lost == 1


ASSERTION = f"""{HEAD}
.extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d,
    .param .b64 e);
.global .align 1 .b8 message[6] = {{120, 32, 60, 32, 51, 0}};
.global .align 1 .b8 file[5] = {{97, 46, 99, 117, 0}};
.global .align 1 .b8 name[2] = {{107, 0}};
.visible .entry k(.param .u64 out) {{
    .reg .b32 %t; .reg .b64 %d; .reg .pred %p;
    mov.u32 %t, %tid.x;
    setp.lt.u32 %p, %t, 3;
    @%p bra fine;
    {{ .param .b64 a; .param .b64 b; .param .b32 c; .param .b64 d; .param .b64 e;
    mov.u64 %d, message; st.param.b64 [a], %d;
    mov.u64 %d, file; st.param.b64 [b], %d;
    st.param.b32 [c], 17;
    mov.u64 %d, name; st.param.b64 [d], %d;
    st.param.b64 [e], 1;
    call.uni __assertfail, (a, b, c, d, e);
    }}
fine:
    ret;
}}
"""


def test_a_failed_assertion_says_what_failed() -> None:
    """The trap names the thread, the log names condition, file, line and function."""
    grid = start(translate(ASSERTION), "k", 1, 8, np.zeros(1, np.uint64))
    with pytest.raises(KernelTrappedError, match="assertion in thread 3"):
        grid.round(64)
    assert grid.log is not None
    messages, _ = grid.log.messages()
    assert messages[0].text == "a.cu:17: k: assertion 'x < 3' failed\n"
    assert messages[0].thread == 3


def test_printing_is_an_effect_in_a_poll_loop() -> None:
    """A poller that prints is not idle."""
    flag = np.zeros(1, np.int32)
    program = cuda(
        r"""
        extern "C" __global__ void k(volatile int* flag) { while (*flag == 0) printf("."); }
        """
    )
    grid = start(program, "k", 1, 1, flag)
    grid.round(4)
    assert grid.status == [cta.PROGRESS]
    flag[0] = 1
    grid.round(64)
    assert grid.done


def test_printf_outside_of_kernels_is_not_callable() -> None:
    """Only a kernel has a log."""
    with pytest.raises(EntryPointError, match="prints"):
        cuda(SOURCE).function("_Z5shouti")


def test_damaged_messages_give_what_can_be_read() -> None:
    """A format without its arguments ends where they are missing."""
    assert words(b"a %d b\0" + struct.pack("<Q", 5)) == "a 5 b"
    assert words(b"a %d b %s\0" + struct.pack("<Q", 5) + b"text") == "a 5 b "
    assert words(b"no end") == ""
    assert words(b"%d%") == ""
    assert words(b"%p %n %k\0" + struct.pack("<QQQ", 255, 1, 2)) == "0xff 0x1 0x2"


def test_a_launch_has_its_log() -> None:
    """What a launch on a device printed can be read while it runs, and after."""
    device = HostDevice("host:7", memory_limit_bytes=1 << 20)
    ptx, _ = compile_to_ptx(SOURCE, name="test.cu")
    code = device.load(
        CompiledCode(
            format="ptx", target="host", code=ptx.encode(), entry_point="floods", source_digest="0"
        )
    )
    launch = device.launch(
        code, "floods", grid=(2, 1, 1), block=(1, 1, 1), parameters=(struct.pack("<i", 3),)
    )
    assert launch.wait(10.0) is LaunchStatus.COMPLETED
    assert sorted(launch.log.splitlines()) == ["0", "0", "1", "1", "2", "2"]
    device.close()


TALKING = r"""
#include <ringflow.cuh>
extern "C" __global__ void talking(ringflow::control* control) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        unsigned x = m.as<unsigned>();
        if (self.leader()) printf("got %u\n", x);
        assert(x < 3 || threadIdx.x != 1);
    }
}
"""


def test_a_persistent_kernel_has_its_log() -> None:
    """It can be read while the kernel runs; a failed assertion says its condition there."""
    device = HostDevice("host:7", memory_limit_bytes=1 << 24)
    compiled = compile_source(TALKING, entry_point="talking", target=HOST, cache=None)
    spec = KernelSpec(
        kernel_id="talking",
        kernel_type="talking",
        code=KernelCodeSource.from_cuda(TALKING, "talking"),
        block=(32, 1, 1),
    )
    kernel = ResidentKernel(
        device, device.load(compiled), spec, grid=(1, 1, 1), base_sequence=0, epoch=1
    )
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    kernel.post([Posting(n, 1, struct.pack("<I", n)) for n in (1, 2)])
    while kernel.done_sequence < 2:
        kernel.await_generation(kernel.command(Command.RUN), DEADLINE_S)
    assert kernel.log == "got 1\ngot 2\n"
    kernel.post([Posting(3, 1, struct.pack("<I", 3))])
    assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.TRAPPED
    assert "thread (1, 0, 0)" in kernel.detail
    got, failed = kernel.log.splitlines()[2:]
    assert got == "got 3"
    assert failed.startswith("kernel.cu:9: ")
    assert "'x < 3 || threadIdx.x != 1' failed" in failed
    kernel.close()
    device.close()
