"""Which variables of a module are state, and which hold addresses."""

from __future__ import annotations

import pytest

from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.host.ptx.parser import parse
from ringflow.device.host.ptx.state import ModuleState, state_of
from tests.device.host.programs import HEAD, cuda

ENTRY = 'extern "C" __global__ void entry(unsigned long long* memory, unsigned i) {'
TABLE = ".global .align 4 .u32 table[4] = {1, 2, 3, 4};\n.global .align 4 .u32 count;\n"


def state_of_cuda(source: str) -> ModuleState:
    ptx, _ = compile_to_ptx(source, name="test.cu")
    return state_of(parse(ptx))


def state_of_ptx(body: str, *, before: str = "") -> tuple[str, ...]:
    """Return the written variables of a module with ``table``, ``count`` and one kernel."""
    entry = (
        ".visible .entry entry(.param .u64 memory)\n{\n.reg .b64 %rd<9>;\n.reg .b32 %r<9>;\n"
        ".reg .pred %p<3>;\n.local .align 8 .b8 depot[16];\n"
    )
    return state_of(parse(f"{HEAD}{TABLE}{before}{entry}{body}\nret;\n}}\n")).written


@pytest.mark.parametrize(
    ("declaration", "statement", "written"),
    [
        ("__device__ unsigned x = 3;", "memory[0] = x;", ()),
        ("__device__ unsigned x = 3;", "x = i;", ("x",)),
        ("__device__ unsigned x;", "atomicAdd(&x, i);", ("x",)),
        ("__device__ unsigned x[9];", "memory[0] = x[i % 9];", ()),
        ("__device__ unsigned x[9];", "x[i % 9] = 1;", ("x",)),
        ("__device__ unsigned x[9], y[9];", "(i ? x : y)[i % 9] = 1;", ("x", "y")),
        ("__device__ unsigned x[9], y[9];", "x[i % 9] = y[i % 9];", ("x",)),
        ("__device__ unsigned x, y;", "memory[0] = &x < &y; x += y;", ("x",)),
        ("__device__ unsigned x, *p = &x;", "*p = 1;", ("x",)),
        ("__device__ unsigned x, *p = &x;", "memory[0] = *p;", ()),
        ("__device__ unsigned x;", 'printf("%s %u", i ? "a" : "b", x);', ()),
        ("__device__ unsigned x;", "memory[1] = (unsigned long long)&x;", ()),
        (
            "__device__ unsigned x;",
            "memory[1] = (unsigned long long)&x; *(unsigned*)memory[i] = 1;",
            ("x",),
        ),
        (
            "__device__ unsigned x; __device__ unsigned long long own[4];",
            "(i ? memory : own)[1] = (unsigned long long)&x; *(unsigned*)memory[i] = 1;",
            ("x", "own"),
        ),
        ("__device__ float x;", "float s; sincosf(i, &s, &x); memory[0] = s;", ("x",)),
    ],
)
def test_only_what_the_code_may_write_is_state(
    declaration: str, statement: str, written: tuple[str, ...]
) -> None:
    """Reading, comparing, printing and storing an address somewhere are no writes."""
    assert state_of_cuda(f"{declaration}\n{ENTRY} {statement} }}").written == written


def test_writes_are_found_through_functions() -> None:
    """An address that is handed to a function, or comes from one, is followed."""
    functions = """
        __device__ unsigned x[4], y[4], z[4];
        __device__ __noinline__ unsigned read(const unsigned* p, unsigned i) { return p[i]; }
        __device__ __noinline__ void write(unsigned* p, unsigned i) { p[i] += i; }
        __device__ __noinline__ unsigned* choose(unsigned i) { return i > 7 ? z : z + 1; }
    """
    body = "memory[0] = read(x, i); write(y, i); *choose(i) = 1; }"
    assert state_of_cuda(functions + ENTRY + body).written == ("y", "z")


def test_a_write_through_a_table_of_functions_is_found() -> None:
    """Which one is called is unknown: any that takes as many arguments may be."""
    functions = """
        __device__ unsigned x[4], y[4];
        __device__ __noinline__ void first(unsigned* p) { p[0] = 1; }
        __device__ __noinline__ void second(unsigned* p) { p[1] = 2; }
        __device__ void (*table[2])(unsigned*) = {first, second};
    """
    state = state_of_cuda(functions + ENTRY + "table[i & 1](x); memory[0] = y[i & 3]; }")
    assert state.written == ("x",)


@pytest.mark.parametrize(
    ("body", "written"),
    [
        ("ld.global.u32 %r1, [table+4];", ()),
        ("st.global.u32 [count], 1;", ("count",)),
        ("red.global.add.u32 [table+8], 1;", ("table",)),
        ("mov.u64 %rd1, table; add.u64 %rd2, %rd1, 4; st.u32 [%rd2], 1;", ("table",)),
        # through both halves of a register
        (
            "mov.u64 %rd1, table; mov.b64 {%r1, %r2}, %rd1; mov.b64 %rd2, {%r1, %r2}; "
            "st.u32 [%rd2], 1;",
            ("table",),
        ),
        # through local memory, by a register and by name
        (
            "mov.u64 %rd1, table; st.local.u64 [depot+8], %rd1; mov.u64 %rd2, depot; "
            "ld.local.u64 %rd3, [%rd2+8]; st.u32 [%rd3], 1;",
            ("table",),
        ),
        ("mov.u64 %rd1, table; st.local.u64 [depot+8], %rd1;", ()),
        # through memory that the kernel was given
        (
            "ld.param.u64 %rd1, [memory]; mov.u64 %rd2, count; st.global.u64 [%rd1], %rd2; "
            "ld.global.u64 %rd3, [%rd1]; st.global.u32 [%rd3], 1;",
            ("count",),
        ),
        # the store comes before what makes it reach the table
        ("top: st.u32 [%rd2], 1; mov.u64 %rd2, table; bra top;", ("table",)),
        ("mov.u64 %rd1, table; prefetch.global.L1 [%rd1];", ()),
    ],
)
def test_addresses_are_followed_through_registers_and_memory(
    body: str, written: tuple[str, ...]
) -> None:
    """Wherever they go, a write through them is found; what is not written stays constant."""
    assert state_of_ptx(body.replace("; ", ";\n")) == written


def test_an_unknown_function_may_write_to_all_that_it_is_given() -> None:
    """Also to what the memory that it is given leads to."""
    before = (
        ".global .u64 link = table;\n.extern .func unknown(.param .b64 p);\n"
        ".extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 v);\n"
    )
    call = (
        "mov.u64 %rd1, link;\n{\n.param .b64 p0;\n.param .b64 p1;\n.param .b32 r0;\n"
        "st.param.b64 [p0], %rd1;\nst.param.b64 [p1], %rd1;\n"
    )
    assert state_of_ptx(f"{call}call unknown, (p0);\n}}", before=before) == ("table", "link")
    assert state_of_ptx(f"{call}call (r0), vprintf, (p0, p1);\n}}", before=before) == ()


@pytest.mark.parametrize(
    ("declaration", "statement", "addresses"),
    [
        ("__device__ unsigned x, *p = &x;", "*p = 1;", {}),
        ("__device__ unsigned x[9], *p = x;", "++p; *p = 1;", {"p": ("x",)}),
        ("__device__ unsigned x, *p;", "p = &x;", {"p": ("x",)}),
        ("__device__ unsigned x; struct s { int n; unsigned* p; }; __device__ s y = {1, &x};",
         "y.n = i;", {"y": ("x",)}),
        ("__device__ unsigned long long x;", "x += memory[i];", {}),
        ("__device__ unsigned long long* p;", "p = memory + i;", {}),
    ],
)  # fmt: skip
def test_a_variable_with_an_address_is_told(
    declaration: str, statement: str, addresses: dict[str, tuple[str, ...]]
) -> None:
    """What it points to is not the same memory anywhere else; a constant may have one."""
    assert state_of_cuda(f"{declaration}\n{ENTRY} {statement} }}").addresses == addresses


def test_a_program_lists_what_can_be_carried() -> None:
    """Shared variables and constants are no state; one with an address is named as the reason."""
    program = cuda(
        "__device__ unsigned count, *place; __constant__ unsigned fixed[4];\n"
        f"{ENTRY} __shared__ unsigned shared; shared = i; __syncthreads();\n"
        "  place = &count; atomicAdd(&count, shared + fixed[i & 3]); }"
    )
    assert {name for name, one in program.globals.items() if one.state} == {"count"}
    assert program.unlisted == (
        "variable 'place' holds the address of count, which is another one elsewhere"
    )
