"""memcheck: wrong accesses and misused collectives end their kernel and name their place."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pytest

from ringflow.device.api import Allocation, LaunchStatus
from ringflow.device.compiler.api import code_from_ptx, compile_source
from ringflow.device.host.device import HostDevice
from ringflow.device.host.launch import HostLaunch
from ringflow.device.host.ptx.positions import positions_of
from ringflow.device.registry import open_device
from ringflow.errors import UsageError
from tests.device.host.programs import HEAD
from tests.device.kernels import resident

DEADLINE_S = 20.0
THREADS = 32
BEFORE = """
__device__ __noinline__ void put(float* p, int i, float v) { p[i] = v; }
__device__ int counter;
extern "C" __global__ void k(float* a, float* b, int n) {
    extern __shared__ float tile[];
    int i = threadIdx.x;
    float v = i;
    tile[i] = v;
    __syncthreads();
"""
AFTER = "\n}\n"
LINE = BEFORE.count("\n") + 1


@pytest.fixture(scope="module")
def device() -> Iterator[HostDevice]:
    made = HostDevice("host:0", memory_limit_bytes=64 << 20, memcheck=True)
    yield made
    made.close()


@pytest.fixture
def memory(device: HostDevice) -> Iterator[tuple[Allocation, Allocation]]:
    """Two pieces of 32 floats."""
    pieces = device.allocate(4 * THREADS, label="wave/a"), device.allocate(128, label="wave/b")
    yield pieces
    for piece in pieces:
        device.free(piece)


def pointer(memory: Allocation) -> bytes:
    return struct.pack("<Q", memory.address)


def run(
    device: HostDevice,
    body: str,
    memory: tuple[Allocation, Allocation],
    *,
    only: tuple[Allocation, ...] | None = None,
    threads: int = THREADS,
) -> HostLaunch:
    """Run ``body`` in one block; ``n`` is 4."""
    compiled = compile_source(
        BEFORE + body + AFTER, entry_point="k", target=device.target, name="wave.cu", cache=None
    )
    launch = device.launch(
        device.load(compiled),
        "k",
        grid=(1, 1, 1),
        block=(threads, 1, 1),
        parameters=(pointer(memory[0]), pointer(memory[1]), struct.pack("<i", 4)),
        dynamic_shared_bytes=4 * threads,
        memory=only,
    )
    launch.wait(DEADLINE_S)
    return launch


WRONG_ACCESSES = {
    "store past the end": (
        "a[i + n] = v;",
        f"store of 4 bytes .*, thread (28, 0, 0), wave.cu:{LINE}: 0 bytes past the end of "
        "'wave/a' (128 bytes)",
    ),
    "store far past the end": ("a[i + 10000] = v;", ": 39872 bytes past the end of 'wave/a'"),
    "load before the start": (
        "a[i] = b[i - n];",
        f"load of 4 bytes .*, thread (0, 0, 0), wave.cu:{LINE}: 16 bytes before 'wave/b'",
    ),
    "in a called function": (
        "put(a, i + n, v);",
        "store of 4 bytes .*, thread (28, 0, 0), wave.cu:2: 0 bytes past the end of 'wave/a'",
    ),
    "atomic": (
        "atomicAdd(a + i + n, 1.0f);",
        f"atomic of 4 bytes .*, inlined at wave.cu:{LINE}: 0 bytes past the end of 'wave/a'",
    ),
    "double": (
        "((double*)a)[i] = v;",
        f"store of 8 bytes .*, thread (16, 0, 0), wave.cu:{LINE}: 0 bytes past the end of 'wave/a'",
    ),
    "vector": (
        "((float4*)a)[i % 8 + 8 * (i == 9)] = make_float4(v, v, v, v);",
        f"store of 16 bytes .*, thread (9, 0, 0), wave.cu:{LINE}: 16 bytes past",
    ),
    "misaligned": (
        "#pragma unroll 1\nfor (int j = 0; j <= n; ++j) *(float*)((char*)a + j / 4 * 2) = v;",
        f"store of 4 bytes .*, wave.cu:{LINE + 1}: the address is no multiple of 4",
    ),
    "null pointer": (
        "a = (float*)(unsigned long long)(n - 4); a[i + 1] = v;",
        "store of 4 bytes at 0x4 .*: a null pointer",
    ),
    "module variable": (
        "(&counter)[n * i] = 1;",
        "store of 4 bytes .*, thread (1, 0, 0), .* 12 bytes past the end of 'counter' (4 bytes)",
    ),
    "shared memory": (
        "tile[i + n] = v; __syncthreads(); a[i] = tile[i];",
        f"store of 4 bytes of shared memory .*, thread (28, 0, 0), wave.cu:{LINE}: "
        "0 bytes past the end of 'shared memory' (128 bytes)",
    ),
    "shared memory by a generic pointer": (
        "float* p = n ? tile : a; p[i - n] = v; a[i] = p[i];",
        "store of 4 bytes .*, thread (0, 0, 0), .*: 16 bytes before 'shared memory'",
    ),
    "local memory": (
        "float l[8]; for (int j = 0; j < 8; ++j) l[j] = v + j;\n"
        "for (int j = 0; j < n; ++j) l[(i + j) % 9] += 1;\na[i] = l[i % 8];",
        f"load of 4 bytes of local memory .*, thread (5, 0, 0), wave.cu:{LINE + 1}: 0 bytes past",
    ),
    "memory of nobody": (
        "*(float*)0x123456789000 = v;",
        "store of 4 bytes at 0x123456789000 in kernel 'k', block (0, 0, 0), thread (0, 0, 0)",
    ),
}


@pytest.mark.parametrize("name", WRONG_ACCESSES)
def test_wrong_access_is_told_with_its_place(
    device: HostDevice, memory: tuple[Allocation, Allocation], name: str
) -> None:
    """Kernel, block, thread, kind, size, address, nearest memory and line of the source."""
    body, wanted = WRONG_ACCESSES[name]
    launch = run(device, body, memory)
    assert launch.status is LaunchStatus.TRAPPED
    assert "in kernel 'k', block (0, 0, 0)" in launch.detail
    rest = launch.detail
    for piece in wanted.split(".*"):
        assert piece in rest, launch.detail
        rest = rest.partition(piece)[2]


MISUSES = {
    "early exit": (
        "if (i < 16) return; __syncthreads(); a[i] = v;",
        "early exit .*: thread (16, 0, 0) waits at a barrier or warp collective, wave.cu:LINE, "
        "which thread (0, 0, 0) has left the kernel without",
    ),
    "early exit before a shuffle": (
        "if (i != 8) a[i] = __shfl_down_sync(~0u, v, 1);",
        "early exit .* inlined at wave.cu:LINE, which thread (8, 0, 0) has left",
    ),
    "barriers in branches": (
        "if (i < 16) { a[i] = 1; __syncthreads(); b[i] = 1; }\n"
        "else { a[i] = 2; __syncthreads(); b[i] = 2; }",
        "divergence .*: thread (0, 0, 0) waits at .*, while thread (16, 0, 0) waits at another",
    ),
    "collectives in branches": (
        "if (i >= 8) a[i] = __shfl_down_sync(~0u, v, 1);\nelse a[i] = __shfl_xor_sync(~0u, v, 2);",
        "divergence .* while thread .* waits at another one",
    ),
    "shuffle against barrier": (
        "if (i < 16) __syncthreads(); a[i] = __shfl_down_sync(~0u, v, 1);",
        "divergence .*, inlined at wave.cu:LINE, while thread (0, 0, 0) waits at another one, "
        "wave.cu:LINE",
    ),
    "mask without oneself": (
        "a[i] = __shfl_down_sync(0xfffffff0u, v, 1);",
        "divergence .*: thread (0, 0, 0) waits at .* whose mask leaves it out",
    ),
    "barrier that waits for more": (
        'if (i < 16) asm volatile("bar.sync 1, 64;" ::: "memory"); a[i] = v;',
        "deadlock .*: thread (0, 0, 0) waits at .* for what never comes",
    ),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misused_collective_is_told_with_its_place(
    device: HostDevice, memory: tuple[Allocation, Allocation], name: str
) -> None:
    """Threads that leave, and collectives under conditions that differ between threads."""
    body, wanted = MISUSES[name]
    launch = run(device, body, memory)
    assert launch.status is LaunchStatus.TRAPPED
    rest = launch.detail
    for piece in wanted.replace("LINE", str(LINE)).split(".*"):
        assert piece in rest, launch.detail
        rest = rest.partition(piece)[2]


def test_right_accesses_and_collectives_pass(
    device: HostDevice, memory: tuple[Allocation, Allocation]
) -> None:
    """All that is allowed: the last bytes, module, shared, local memory, uniform branches."""
    body = """
    float l[8];
    for (int j = 0; j < 8; ++j) l[j] = v + j;
    for (int j = 0; j < n; ++j) l[(i + j) % 8] += 1;
    float* p = n ? tile : a;
    p[i] = l[i % 8];
    if (n == 4) __syncthreads();
    v = tile[31 - i] + __shfl_xor_sync(~0u, v, 1);
    if (i < 8) v += __shfl_down_sync(0xffu, v, 1);
    if (i < 4) ((double2*)b)[i] = make_double2(v, v);
    atomicAdd(&counter, 1);
    put(a, i, v);
    """
    launch = run(device, body, memory)
    assert (launch.status, launch.detail) == (LaunchStatus.COMPLETED, "")
    assert np.frombuffer(device.copy_out(memory[0]), np.float32).all()


def test_threads_that_leave_before_any_barrier_are_welcome(
    device: HostDevice, memory: tuple[Allocation, Allocation]
) -> None:
    """``if (i >= n) return;`` at the top of a kernel without collectives is no fault."""
    assert run(device, "if (i >= n) return; a[i] = v;", memory).status is LaunchStatus.COMPLETED


def test_kernel_with_memory_of_its_own_is_held_to_it(
    device: HostDevice, memory: tuple[Allocation, Allocation]
) -> None:
    """What a plain launch may touch, a launch with a list may not."""
    assert run(device, "b[i] = v;", memory).status is LaunchStatus.COMPLETED
    launch = run(device, "b[i] = v;", memory, only=memory[:1])
    assert launch.status is LaunchStatus.TRAPPED
    assert "the nearest" in launch.detail


def test_freed_memory_is_no_longer_allowed(device: HostDevice) -> None:
    """A plain launch may touch what is allocated when it touches it."""
    kept, freed = device.allocate(128, label="kept"), device.allocate(128, label="freed")
    device.free(freed)
    launch = run(device, "b[i] = v;", (kept, freed))
    assert launch.status is LaunchStatus.TRAPPED
    assert "'freed'" not in launch.detail
    device.free(kept)


def test_memory_freed_while_a_launch_runs_is_no_longer_allowed(device: HostDevice) -> None:
    """Code that has hit a piece a million times learns that it has gone."""
    mail, target = device.allocate(128, label="mail"), device.allocate(128, label="target")
    body = """
    if (i == 0)
        for (unsigned turn = 1;; ++turn) {
            *(volatile float*)b = turn;
            ((volatile unsigned*)a)[1] = turn;
        }
    """
    compiled = compile_source(
        BEFORE + body + AFTER, entry_point="k", target=device.target, cache=None
    )
    launch = device.launch(
        device.load(compiled),
        "k",
        grid=(1, 1, 1),
        block=(32, 1, 1),
        parameters=(pointer(mail), pointer(target), bytes(4)),
        dynamic_shared_bytes=128,
    )
    while np.frombuffer(device.copy_out(mail), np.uint32)[1] < 1_000_000:
        assert launch.status is LaunchStatus.RUNNING, launch.detail
    address = target.address
    device.free(target)
    assert launch.wait(DEADLINE_S) is LaunchStatus.TRAPPED
    assert f"store of 4 bytes at {address:#x}" in launch.detail
    device.free(mail)


def test_memory_allocated_while_a_launch_runs_is_allowed(device: HostDevice) -> None:
    """The table of a plain launch follows the device's allocations; sites notice."""
    mail = device.allocate(128, label="mail")
    body = """
    volatile unsigned long long* box = (volatile unsigned long long*)a;
    if (i == 0) {
        while (box[0] == 0) __nanosleep(100);
        *(float*)box[0] = 5.0f;
    }
    """
    compiled = compile_source(
        BEFORE + body + AFTER, entry_point="k", target=device.target, cache=None
    )
    launch = device.launch(
        device.load(compiled),
        "k",
        grid=(1, 1, 1),
        block=(32, 1, 1),
        parameters=(pointer(mail), pointer(mail), bytes(4)),
        dynamic_shared_bytes=128,
    )
    newer = device.allocate(128, label="newer")
    device.copy_in(mail, pointer(newer))
    while launch.wait(0.01) is LaunchStatus.RUNNING:
        pass
    assert (launch.status, launch.detail) == (LaunchStatus.COMPLETED, "")
    assert np.frombuffer(device.copy_out(newer), np.float32)[0] == 5.0
    device.free(mail)
    device.free(newer)


def test_store_to_a_constant_is_found(device: HostDevice) -> None:
    """Constants may be read only, whatever the PTX says."""
    text = f"""{HEAD}
.const .align 4 .u32 limit = 7;
.visible .entry k(.param .u64 out)
{{
    .reg .b64 %a, %o;
    .reg .b32 %v;
    ld.param.u64 %o, [out];
    mov.u64 %a, limit;
    cvta.const.u64 %a, %a;
    ld.u32 %v, [%a];
    st.global.u32 [%o], %v;
    st.u32 [%a], %v;
    ret;
}}
"""
    out = device.allocate(4, label="out")
    launch = device.launch(
        device.load(code_from_ptx(text, entry_point="k")),
        "k",
        grid=(1, 1, 1),
        block=(1, 1, 1),
        parameters=(pointer(out),),
    )
    assert launch.wait(DEADLINE_S) is LaunchStatus.TRAPPED
    assert launch.detail.endswith("PTX line 15: 'limit' is constant")
    assert bytes(device.copy_out(out)) == b"\7\0\0\0"
    device.free(out)


def test_neighbour_answers_after_a_violation(device: HostDevice) -> None:
    """A persistent kernel lives through another kernel's violation, and is checked itself."""
    neighbour = resident(device, "echo")
    neighbour.launch(gate_open=True, timeout_s=DEADLINE_S)
    wrong = device.allocate(4, label="small")
    launch = run(device, "a[i] = v;", (wrong, wrong))
    assert launch.status is LaunchStatus.TRAPPED
    neighbour.ping(77)
    while neighbour.echo != 77:
        assert neighbour.status is LaunchStatus.RUNNING, neighbour.detail
    neighbour.close()
    device.free(wrong)


def test_environment_turns_memcheck_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """RINGFLOW_HOST_MEMCHECK=1 is the default of devices that aren't told."""
    monkeypatch.delenv("RINGFLOW_HOST_MEMCHECK", raising=False)
    assert not open_device("host:0").target.line_info
    monkeypatch.setenv("RINGFLOW_HOST_MEMCHECK", "1")
    assert open_device("host:0").target.line_info
    assert not open_device("host:0", memcheck=False).target.line_info
    for variable in ("RINGFLOW_HOST_MEMCHECK", "RINGFLOW_HOST_POISON"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "yes")
            with pytest.raises(UsageError, match=f"{variable} is 'yes'; set it to 1 or 0"):
                open_device("host:0")
            patch.setenv(variable, "0")
            open_device("host:0").close()
    monkeypatch.delenv("RINGFLOW_HOST_MEMCHECK")
    assert open_device("host:0", memcheck=True).target.line_info


def test_positions_are_those_of_the_last_loc() -> None:
    """Before the first, after a function's end, and for line 0 nothing is known."""
    text = """.entry k()
{
\t.loc\t1 0 0
\tmov.u32 %a, 1;
\t.loc\t1 7 5    // wave.cu:7:5
\tmov.u32 %a, 2;
\tmov.u32 %a, 3;
\t.loc\t2 9 1    // b.cuh:9:1 @[ c.cuh:4:2 @[ wave.cu:8:1 ] ]
\tret;
}
\t.file\t1 "./wave.cu"
\t.file\t2 "b.cuh"
"""
    found = [positions_of(text).find(line) for line in range(1, 12)]
    assert found[:4] == ["", "", "", ""]
    assert found[4:7] == ["wave.cu:7"] * 3
    assert found[7:9] == ["b.cuh:9, inlined at wave.cu:8"] * 2
    assert found[9:] == ["", ""]
