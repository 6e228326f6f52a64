"""The traps that a translator of PTX falls into, one test each."""

from __future__ import annotations

import gc
import itertools
import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest

from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.host import cta, jit, runtime
from ringflow.device.host.bounds import Range
from ringflow.device.host.ptx.parser import parse
from ringflow.device.host.runner import open_grid
from ringflow.device.host.translate import emit_module, translate
from ringflow.errors import KernelTrappedError, UnsupportedPtxError
from tests.device.host.lanes import Row, program_of, results_of
from tests.device.host.programs import HEAD, call, cuda, parameters, plain, run, start

HOST_FOLDER = Path(runtime.__file__).parent.parent


def llvm_text(ptx: str) -> str:
    """Return the LLVM IR of a module before LLVM improves it."""
    return emit_module(parse(ptx), frozenset(), True)[1]


def improved(text: str) -> str:
    """Return LLVM IR after LLVM's passes."""
    machine = jit.target_machine()
    module = llvm.parse_assembly(text)
    module.triple = llvm.get_default_triple()
    module.data_layout = str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = True
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return str(module)


def test_pitfall_01_results_of_calls_change() -> None:
    """Only a kernel's own parameters never change; a call's buffers are used again and again."""
    source = """
        struct Five { int v[5]; };
        __device__ __noinline__ Five next(Five x, int by) {
            Five y;
            for (int i = 0; i < 5; ++i) y.v[i] = x.v[(i + 1) % 5] + by * i;
            return y;
        }
        extern "C" __global__ void k(int* out) {
            Five x = {{1, 2, 3, 4, (int)threadIdx.x}};
            x = next(x, 10);
            x = next(x, 100);
            for (int i = 0; i < 5; ++i) out[threadIdx.x * 5 + i] = x.v[i];
        }
    """
    out = np.zeros((8, 5), np.int32)
    run(cuda(source), "k", 1, 8, out)
    for thread, row in enumerate(out):
        x = [1, 2, 3, 4, thread]
        for by in (10, 100):
            x = [x[(i + 1) % 5] + by * i for i in range(5)]
        assert row.tolist() == x


def test_pitfall_02_private_memory_in_vector_loops() -> None:
    """Threads that run abreast have arrays and spills of their own."""
    source = """
        extern "C" __global__ void k(int* out, int n) {
            int own[4];
            for (int i = 0; i < 4; ++i) own[i] = threadIdx.x * (i + n);
            __syncthreads();
            own[(threadIdx.x + n) & 3] = -1;
            __syncthreads();
            out[threadIdx.x] = own[0] + 10 * own[1] + 100 * own[2] + 1000 * own[3];
        }
    """
    out = np.zeros(64, np.int32)
    run(cuda(source), "k", 1, 64, out, 3)
    for thread in range(64):
        own = [thread * (i + 3) for i in range(4)]
        own[(thread + 3) & 3] = -1
        assert out[thread] == own[0] + 10 * own[1] + 100 * own[2] + 1000 * own[3]


def test_pitfall_03_addresses_are_pointers() -> None:
    """Addresses are offsets from an opaque null pointer: LLVM sees the stride and vectorises."""
    source = """
        extern "C" __global__ void k(float* y, const float* x, int n) {
            int i = blockIdx.x * blockDim.x + threadIdx.x;
            if (i < n) y[i] = x[i] * 2.5f + y[i];
        }
    """
    ptx, _ = compile_to_ptx(source, name="test.cu")
    text = llvm_text(ptx)
    assert "inttoptr" not in text
    assert "getelementptr i8, ptr %zero" in text
    vectors = re.findall(r"fmul <(?:vscale x )?\d+ x float>", improved(text))
    assert vectors


@pytest.mark.parametrize("threads", [1, 16, 17, 32, 64, 100, 256, 512, 1000, 1024])
def test_pitfall_04_units_do_not_alias(threads: int) -> None:
    """Long units lie an odd number of cache lines apart: no two share their cache sets."""
    stride = cta.unit_stride_bytes(threads)
    assert stride >= 4 * threads
    assert stride % 64 == 0
    if stride > 64 * cta.UNPADDED_LINES:
        assert len({unit * stride // 64 % 64 for unit in range(64)}) == 64


def test_pitfall_05_names_and_scopes() -> None:
    """.local is not .loc; inner scopes shadow registers; parameters of calls are declared again."""
    text = f"""{HEAD}
.file 1 "a.cu"
.visible .func (.param .b32 func_retval0) twice(.param .b32 twice_param_0)
{{
    .reg .b32 %r<3>;
    .loc 1 2 3
    ld.param.b32 %r1, [twice_param_0];
    shl.b32 %r2, %r1, 1;
    st.param.b32 [func_retval0], %r2;
    ret;
}}
.visible .func run(.param .b64 out, .param .b64 a, .param .b64 b, .param .b64 c)
{{
    .local .align 8 .b8 space[16];
    .reg .b32 %r<4>;
    .reg .b64 %rd<4>;
    .loc 1 5 0
    ld.param.b64 %rd1, [out];
    ld.param.b32 %r1, [a];
    mov.b64 %rd2, space;
    st.local.b32 [%rd2+8], %r1;
    {{
        .reg .b32 %r1;
        .reg .b32 %loc;
        mov.b32 %r1, 77;
        {{ .reg .b32 %r1; mov.b32 %r1, 5; mov.b32 %loc, %r1; }}
        st.b32 [%rd1], %r1;
        st.b32 [%rd1+8], %loc;
    }}
    {{
        .param .b32 param0;
        .param .b32 retval0;
        st.param.b32 [param0], %r1;
        call.uni (retval0), twice, (param0);
        ld.param.b32 %r2, [retval0];
    }}
    {{
        .param .b32 param0;
        .param .b32 retval0;
        st.param.b32 [param0], %r2;
        call.uni (retval0), twice, (param0);
        ld.param.b32 %r3, [retval0];
    }}
    st.b32 [%rd1+16], %r3;
    ld.local.b32 %r1, [%rd2+8];
    st.b32 [%rd1+24], %r1;
    ret;
}}
"""
    assert call(translate(text), 4, 21, 0, 0) == [77, 5, 84, 21]


def test_pitfall_06_widths_of_memory_and_registers() -> None:
    """Narrow stores truncate, narrow loads extend to the register, immediates may be floats."""
    program = plain(
        """
        st.u64 [%out], -1; st.u8 [%out], %a;
        ld.s8 %d, [%out]; st.u64 [%out+8], %d;
        ld.u8 %d, [%out]; st.u64 [%out+16], %d;
        ld.s16 %w, [%out]; st.u32 [%out+24], %w;
        st.f32 [%out+32], 0f40490FDB;
        st.f64 [%out+40], 0d400921FB54442D18;
        st.f32 [%out+48], 1.5;
        st.v2.f32 [%out+56], {1.5, -2.0};
        """
    )
    got = call(program, 8, 0x1234567890ABCD80, 0, 0)
    assert got == [
        0xFFFFFFFFFFFFFF80,
        0xFFFFFFFFFFFFFF80,
        0x80,
        0xFFFFFF80,
        0x40490FDB,
        0x400921FB54442D18,
        0x3FC00000,
        0xC00000003FC00000,
    ]


def test_pitfall_07_untyped_registers() -> None:
    """A dialect that types everything .b32 and .b64 computes the same."""
    body = """
        mov.b64 {%x, _}, %ia; cvt.rn.f32.s32 %f, %x; fma.rn.f32 %f, %f, 0f3F000000, 0f40000000;
        sqrt.rn.f32 %f, %f; cvt.f64.f32 %g, %f; add.f64 %g, %g, 0d3FF0000000000000;
        cvt.rzi.s32.f64 %y, %g; min.s32 %y, %y, 1000; abs.s32 %y, %y; cvt.s64.s32 %d, %y
    """
    typed = ".reg .f32 %f; .reg .f64 %g; .reg .s32 %x, %y;"
    untyped = ".reg .b32 %f, %x, %y; .reg .b64 %g;"
    a = np.arange(2000, dtype=np.uint64)
    zero = np.zeros_like(a)
    results = [
        results_of(program_of([Row(body, "%d")], registers=registers), 1, a, zero, zero)
        for registers in (typed, untyped)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    half = np.sqrt(a.astype(np.float32) * np.float32(0.5) + np.float32(2))
    expected = np.minimum((half.astype(np.float64) + 1).astype(np.int64), 1000)
    np.testing.assert_array_equal(results[0][0].astype(np.int64), expected)


def test_pitfall_08_shifts_clamp() -> None:
    """And the other places where C or LLVM say nothing, or something else."""
    rows = [
        ("shl.b32 %w, %wa, 32; st.u32 [%out], %w;", 0),
        ("shr.s32 %w, %wa, 99; st.u32 [%out], %w;", 0xFFFFFFFF),
        ("div.u32 %w, %wa, 0; st.u32 [%out], %w;", 0xFFFFFFFF),
        ("div.s32 %w, 0x80000000, -1; st.u32 [%out], %w;", 0x80000000),
        ("cvt.rzi.s32.f32 %w, 0f7FC00000; st.u32 [%out], %w;", 0),
        ("cvt.rzi.u32.f32 %w, 0fC0000000; st.u32 [%out], %w;", 0),
        ("cvt.rzi.s32.f32 %w, 0f7F800000; st.u32 [%out], %w;", 0x7FFFFFFF),
        ("min.f32 %w, 0f7FC00000, 0f3F800000; st.u32 [%out], %w;", 0x3F800000),
        (
            "setp.ltu.f32 %p, 0f7FC00000, 0f00000000; selp.b32 %w, 1, 0, %p; st.u32 [%out], %w;",
            1,
        ),
        ("bfind.u32 %w, 0; st.u32 [%out], %w;", 0xFFFFFFFF),
        ("shf.l.wrap.b32 %w, %wa, 1, 33; st.u32 [%out], %w;", 3),
        ("prmt.b32 %w, %wa, 0, 0xBBBB; st.u32 [%out], %w;", 0xFFFFFFFF),
    ]
    for text, expected in rows:
        assert call(plain(text), 1, 0x80000000, 0, 0) == [expected], text


def test_pitfall_09_carry_chains() -> None:
    """The carry lives between instructions and is changed by .cc forms only."""
    program = plain(
        """
        add.cc.u32 %wa, %wa, 1;
        mul.lo.u32 %w, %wb, 3;
        add.u32 %w, %w, -1;
        addc.cc.u32 %wb, %wb, 0;
        addc.u32 %wc, 0, 0;
        st.u32 [%out], %wa; st.u32 [%out+8], %wb; st.u32 [%out+16], %wc;
        """
    )
    assert call(program, 3, 0xFFFFFFFF, 0xFFFFFFFF, 0) == [0, 0, 1]
    assert call(program, 3, 0xFFFFFFFE, 0xFFFFFFFF, 0) == [0xFFFFFFFF, 0xFFFFFFFF, 0]


def test_pitfall_10_roundings_are_honoured() -> None:
    """None is taken for .rn in silence; the thread's own mode is as it was afterwards."""
    tiny = 0x33000000  # 2^-25
    texts = [f"add.{mode}.f32 %w, %wa, %wb; st.u32 [%out+{8 * i}], %w;" for i, mode in
             enumerate(("rn", "rz", "rm", "rp", "rn"))]  # fmt: skip
    got = call(plain(" ".join(texts)), 5, 0x3F800000, tiny, 0)
    assert got == [0x3F800000, 0x3F800000, 0x3F800000, 0x3F800001, 0x3F800000]
    got = call(plain("add.ftz.f32 %w, %wa, %wb; st.u32 [%out], %w;"), 1, 0x007FFFFF, 0x80000000, 0)
    assert got == [0]
    with pytest.raises(UnsupportedPtxError, match=r"add\.rna\.f32"):
        plain("add.rna.f32 %w, %wa, %wb;")


def test_pitfall_11_shared_addresses_are_offsets() -> None:
    """A shared address fits 32 bits; its generic address leads to the same cell."""
    text = f"""{HEAD}
.visible .entry k(.param .u64 out)
{{
    .shared .align 8 .b8 pad[24];
    .shared .align 8 .b8 cell[512];
    .reg .b64 %out, %g, %s; .reg .b32 %t, %a, %v; .reg .pred %p;
    ld.param.u64 %out, [out];
    mov.u32 %t, %tid.x;
    mov.u32 %a, cell;
    mad.lo.u32 %a, %t, 8, %a;
    st.shared.u32 [%a], %t;
    cvt.u64.u32 %s, %a;
    cvta.shared.u64 %g, %s;
    ld.u32 %v, [%g];
    add.u32 %v, %v, 1000;
    st.u32 [%g+4], %v;
    ld.shared.u32 %v, [%a+4];
    mad.wide.u32 %out, %t, 8, %out;
    st.global.u32 [%out], %v;
    cvta.to.shared.u64 %g, %g;
    cvt.u32.u64 %v, %g;
    setp.eq.u32 %p, %v, %a;
    selp.u32 %v, 1, 0, %p;
    st.global.u32 [%out+4], %v;
    ret;
}}
"""
    out = np.zeros((64, 2), np.uint32)
    run(translate(text), "k", 1, 64, out)
    assert out.tolist() == [[1000 + t, 1] for t in range(64)]


def test_pitfall_12_fences_and_volatile() -> None:
    """gl and sys fences are sequentially consistent, cta's is not; volatile is an atomic access."""

    def emitted(line: str) -> str:
        return llvm_text(
            f"{HEAD}.visible .func f(.param .b64 a)\n{{ .reg .b64 %d; .reg .b32 %r;\n"
            f"ld.param.b64 %d, [a]; {line} ret; }}\n"
        )

    assert "fence seq_cst" in emitted("membar.gl;")
    assert "fence seq_cst" in emitted("membar.sys;")
    assert "fence seq_cst" in emitted("fence.sc.gpu;")
    assert "fence acq_rel" in emitted("membar.cta;")
    assert "fence acq_rel" in emitted("fence.acq_rel.sys;")
    assert "load atomic i32, ptr" in emitted("ld.volatile.global.u32 %r, [%d];")
    assert " monotonic, align 4" in emitted("st.volatile.global.u32 [%d], %r;")
    assert " acquire, align 4" in emitted("ld.acquire.gpu.u32 %r, [%d];")
    assert " release, align 4" in emitted("st.release.sys.u32 [%d], %r;")
    assert " acq_rel" in emitted("atom.acq_rel.gpu.add.u32 %r, [%d], 1;")


def test_pitfall_13_unknown_externs_are_refused() -> None:
    """A device's malloc is not the C library's, whatever its name."""
    for name in ("malloc", "free", "memcpy", "strlen", "cudaDeviceSynchronize"):
        text = (
            f"{HEAD}.extern .func (.param .b64 r) {name}(.param .b64 a);\n"
            ".visible .func f() {\n{ .param .b64 a; .param .b64 r;\nst.param.b64 [a], 8;\n"
            f"call (r), {name}, (a);\n}} ret; }}\n"
        )
        with pytest.raises(UnsupportedPtxError, match=name) as caught:
            translate(text)
        assert caught.value.line == 8


def test_pitfall_14_the_runtime_is_not_unrolled() -> None:
    """Loops over lanes, unrolled, made the runtime take seconds to compile."""
    lanes = re.compile(r"\s*for \(u32 (lane|other|turn) = 0")
    found = 0
    for path in HOST_FOLDER.glob("runtime/*.cu"):
        lines = path.read_text("utf-8").splitlines()
        for before, line in itertools.pairwise(lines):
            if lanes.match(line):
                found += 1
                assert "#pragma unroll 1" in before, f"{path.name}: {line}"
    assert found > 5
    assert (HOST_FOLDER / "runtime/cta.ptx").read_text("utf-8").count("\n") < 4000


def test_pitfall_15_endless_loops_and_stray_pointers_end() -> None:
    """A loop that never polls gives way; memcheck names a stray address."""
    source = """
        extern "C" __global__ void spin(int* out) {
            for (;;) asm volatile("" ::: "memory");
        }
        extern "C" __global__ void stray(int* out) { out[6] = 1; }
    """
    out = np.zeros(4, np.int32)
    grid = start(cuda(source), "spin", 1, 2, out)
    for _ in range(3):
        grid.round(64)
        assert grid.status == [cta.PREEMPTED]
    ptx, _ = compile_to_ptx(source, name="test.cu")
    program = translate(ptx, memcheck=True)
    allowed = Range(out.ctypes.data, out.nbytes, "out")
    packed = parameters(program, "stray", out)
    grid = open_grid(program, "stray", (1, 1, 1), (2, 1, 1), packed, ranges=(allowed,))
    with pytest.raises(
        KernelTrappedError, match=r"store of 4 bytes.*: 8 bytes past the end of 'out'"
    ):
        grid.round(64)


def test_pitfall_16_workers_end_before_the_interpreter() -> None:
    """A process may end while a kernel runs for ever; code lives as long as its launches."""
    script = """
import numpy as np, struct
from ringflow.device.compiler.api import CompiledCode
from ringflow.device.host.device import HostDevice
text = '''.version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 out)
{ .reg .b64 %d; .reg .b32 %r; ld.param.u64 %d, [out];
again: ld.volatile.global.u32 %r, [%d]; add.u32 %r, %r, 1; st.volatile.global.u32 [%d], %r;
bra again; }
'''
device = HostDevice("host:0", memory_limit_bytes=1 << 20)
cell = device.allocate(4096, label="cell")
code = device.load(CompiledCode(format="ptx", target="host", code=text.encode(), entry_point="k",
                                source_digest="0"))
device.launch(code, "k", grid=(1, 1, 1), block=(1, 1, 1),
              parameters=(struct.pack("<Q", cell.address),))
view = device.view(cell)
while not any(view[:4]):
    pass
print("running")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "running\n"), done.stderr
    out = np.zeros(8, np.int32)
    grid = start(
        cuda('extern "C" __global__ void k(int* o) { o[threadIdx.x] = 7; }'), "k", 1, 8, out
    )
    cuda.cache_clear()
    gc.collect()
    grid.round(64)
    assert (out == 7).all()


def test_pitfall_17_activemask_waits_for_the_whole_warp() -> None:
    """It is answered when no lane can run: lanes that took another way have come by then."""
    source = """
        extern "C" __global__ void k(unsigned* out, int* trips) {
            int n = 0;
            for (int i = 0; i < trips[threadIdx.x]; ++i) n += i;
            unsigned mask = 0;
            if (threadIdx.x % 3 != 0) mask = __activemask();
            out[threadIdx.x] = mask;
        }
    """
    out = np.zeros(64, np.uint32)
    trips = np.arange(64, dtype=np.int32)[::-1].copy() * 5
    run(cuda(source), "k", 1, 64, out, trips)
    for warp in (0, 1):
        lanes = [t for t in range(32) if (warp * 32 + t) % 3]
        mask = sum(1 << lane for lane in lanes)
        for lane in range(32):
            assert out[warp * 32 + lane] == (mask if lane in lanes else 0)
