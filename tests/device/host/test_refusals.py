"""What the host device does not have is refused at load, by name and line."""

from __future__ import annotations

import pytest

from ringflow.device.host.translate import translate
from ringflow.errors import EntryPointError, PtxSyntaxError, UnsupportedPtxError
from tests.device.host.programs import HEAD, cuda

REGISTERS = """
    .reg .b64 %d, %e; .reg .b32 %r, %s, %t; .reg .f32 %f, %g; .reg .b16 %h; .reg .pred %p;
"""


def kernel(line: str) -> str:
    """Return a module whose line 8 is ``line``."""
    return f"{HEAD}.visible .entry k(.param .u64 a)\n{{{REGISTERS}\n{line}\nret;\n}}\n"


REFUSED = [
    ("add.rna.f32 %f, %f, %g;", "add.rna.f32", ".rna"),
    ("add.rz.f16 %h, %h, %h;", "add.rz.f16", ".rz"),
    ("mul.rn.ftz.f64 %d, %d, %e;", "mul.rn.ftz.f64", ".ftz"),
    ("fma.rn.relu.f16 %h, %h, %h, %h;", "fma.rn.relu.f16", ".relu"),
    ("div.rn.approx.f32 %f, %f, %g;", "div.rn.approx.f32", "rounding"),
    ("cvt.f32.s32 %f, %r;", "cvt.f32.s32", "names no rounding"),
    ("cvt.f32.f64 %f, %d;", "cvt.f32.f64", "names no rounding"),
    ("cvt.rni.f32.f64 %f, %d;", "cvt.rni.f32.f64", "another format"),
    ("cvt.rn.bf16.f32 %h, %f;", "cvt.rn.bf16.f32", ""),
    ("cvt.rz.s32.f32 %r, %f;", "cvt.rz.s32.f32", "names no rounding to an integer"),
    ("add.sat.u32 %r, %r, %s;", "add.sat.u32", ".sat"),
    ("mul.u32 %r, %r, %s;", "mul.u32", "half"),
    ("and.f32 %f, %f, %g;", "and.f32", ""),
    ("min.xorsign.abs.f32 %f, %f, %g;", "min.xorsign.abs.f32", ".abs"),
    ("add.f16x2 %r, %r, %s;", "add.f16x2", "f16x2"),
    ("dp4a.u32.u8 %r, %r, %s, %t;", "dp4a.u32.u8", ""),
    ("bar.arrive 0;", "bar.arrive", "number of threads"),
    ("bar.sync 16;", "bar.sync", "0..15"),
    ("match.none.sync.b32 %r, %r, %s;", "match.none.sync.b32", ""),
    ("match.any.sync.b32 %r|%p, %r, %s;", "match.any.sync.b32", "predicate"),
    ("barrier.cluster.arrive;", "barrier.cluster.arrive", ""),
    ("elect.sync %r|%p, %s;", "elect.sync", ""),
    ("redux.sync.min.f32 %f, %f, %s;", "redux.sync.min.f32", ""),
    ("st.acquire.gpu.b32 [%d], %r;", "st.acquire.gpu.b32", ".acquire"),
    ("ld.release.gpu.b32 %r, [%d];", "ld.release.gpu.b32", ".release"),
    ("vote.all.pred %p, %p;", "vote.all.pred", ".sync"),
    ("cp.async.ca.shared.global [%r], [%d], 16;", "cp.async.ca.shared.global", ""),
    ("tex.2d.v4.f32.f32 {%f,%f,%f,%f}, [%d, {%f,%g}];", "tex.2d.v4.f32.f32", ""),
    ("atom.global.add.noftz.f16 %h, [%d], %h;", "atom.global.add.noftz.f16", ""),
    ("red.global.max.f32 [%d], %f;", "red.global.max.f32", ""),
    ("ld.global.L2::cache_hint.b32 %r, [%d], %e;", "ld.global.L2::cache_hint.b32", "cache_hint"),
    ("fence.proxy.alias;", "fence.proxy.alias", ""),
    ("mov.u32 %r, %clusterid.x;", "%clusterid.x", "special register"),
    ("shl.b32 %r, %s;", "shl.b32", "operands"),
    ("frobnicate.u32 %r, %s;", "frobnicate.u32", ""),
    ("call (_), nowhere, ();", "nowhere", ""),
]


@pytest.mark.parametrize(("line", "operation", "detail"), REFUSED)
def test_unsupported_operations_are_named(line: str, operation: str, detail: str) -> None:
    """Never run wrong: a rounding, a width, a variant that is not there."""
    with pytest.raises((UnsupportedPtxError, PtxSyntaxError)) as caught:
        translate(kernel(line))
    assert isinstance(caught.value, PtxSyntaxError | UnsupportedPtxError)
    assert caught.value.line == 8
    assert operation in str(caught.value)
    assert detail in str(caught.value)


def test_unknown_externs_are_refused() -> None:
    """malloc of the C library has another ABI than a device's: it must not be bound by name."""
    text = f"""{HEAD}
.extern .func (.param .b64 result) malloc(.param .b64 size);
.visible .func f() {{
    {{ .param .b64 p; .param .b64 r;
    st.param.b64 [p], 8;
    call (r), malloc, (p);
    }}
    ret;
}}
"""
    with pytest.raises(UnsupportedPtxError, match="malloc") as caught:
        translate(text)
    assert caught.value.line == 9


def test_given_externs_are_called() -> None:
    """An address given at load is bound to the declared name."""
    import ctypes

    seen: list[int] = []

    def note(value: int) -> int:
        seen.append(value)
        return value + 1

    ring = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)(note)

    text = f"""{HEAD}
.extern .func (.param .b64 result) ring(.param .b64 value);
.visible .func (.param .b64 out) f(.param .b64 in) {{
    .reg .b64 %a;
    ld.param.b64 %a, [in];
    {{ .param .b64 p; .param .b64 r;
    st.param.b64 [p], %a;
    call (r), ring, (p);
    ld.param.b64 %a, [r];
    }}
    st.param.b64 [out], %a;
    ret;
}}
"""
    address = ctypes.cast(ring, ctypes.c_void_p).value
    assert address is not None
    program = translate(text, externs={"ring": address})
    function = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)(program.function("f"))
    assert function(41) == 42
    assert seen == [41]


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("add.u32 %r, %r, %nothing;", "%nothing"),
        ("bra nowhere;", "nowhere"),
        ("ld.global.b32 %r, [%d;", "]"),
        ("mov.u32 %r, 12ab;", "12ab"),
        ("mov.u32 %r, $gone;", "$gone"),
        ("@%z add.u32 %r, %r, 1;", "%z"),
    ],
)
def test_malformed_text_is_a_syntax_error(line: str, detail: str) -> None:
    """Damaged PTX names the line, and runs nothing."""
    with pytest.raises((PtxSyntaxError, UnsupportedPtxError)) as caught:
        translate(kernel(line))
    assert isinstance(caught.value, PtxSyntaxError | UnsupportedPtxError)
    assert detail in str(caught.value) or caught.value.line >= 8


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_truncated_text_never_crashes(cut: int) -> None:
    """Every prefix is refused or translated, never anything else."""
    text = kernel("add.u32 %r, %r, 1; @%p bra out; mad.lo.s32 %r, %s, 3, %t;\nout:")
    try:
        translate(text[:cut])
    except (PtxSyntaxError, UnsupportedPtxError):
        return
    assert ".entry" not in text[:cut] or cut > len(text) - 3


def test_missing_entries_and_functions_teach_what_there_is() -> None:
    """The error lists the names."""
    program = cuda('extern "C" __global__ void here(int* x) { x[0] = 1; }')
    with pytest.raises(EntryPointError, match="here"):
        program.step_function("there")
    with pytest.raises(EntryPointError, match="no function"):
        program.function("there")


def test_functions_that_need_a_kernel_are_not_callable() -> None:
    """A function that reads the thread index exists inlined only, and says why."""
    program = cuda(
        """
        extern "C" __device__ __noinline__ int mine(int x) { return x + threadIdx.x; }
        extern "C" __global__ void k(int* x) { x[threadIdx.x] = mine(3); }
        """
    )
    with pytest.raises(EntryPointError, match=r"%tid\.x"):
        program.function("mine")


def test_recursion_that_suspends_is_refused() -> None:
    """It would need a stack that outlives the suspension."""
    source = """
        extern "C" __device__ __noinline__ int deep(int x) {
            if (x == 0) return 0;
            __syncthreads();
            return deep(x - 1) * 3 + deep(x - 2);
        }
        extern "C" __global__ void k(int* x) { x[threadIdx.x] = deep(3); }
    """
    with pytest.raises(UnsupportedPtxError, match="recursion"):
        cuda(source)


@pytest.mark.parametrize("store", ["table[0](1)", "((function*)x)[1] = mine, 0"])
def test_addresses_of_functions_that_are_inlined_are_refused(store: str) -> None:
    """Such a function has no code of its own that a pointer could name."""
    source = f"""
        typedef int (*function)(int);
        __device__ __noinline__ int mine(int x) {{ return x + threadIdx.x; }}
        __device__ function table[1] = {{mine}};
        extern "C" __global__ void k(int* x) {{ x[0] = ({store}); }}
    """
    with pytest.raises(UnsupportedPtxError, match="mine"):
        cuda(source)
