"""The messages' header: the layout that Python packs is the one that kernels read."""

from __future__ import annotations

import struct

import pytest

from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.compiler.headers import MESSAGES_HEADER, messages_header, shipped_headers
from ringflow.device.compiler.nvrtc import compile_to_cubin
from ringflow.errors import CompileError, SpecError
from ringflow.messages import (
    MessageField,
    MessageLayout,
    Scalar,
    f32,
    f64,
    i8,
    i16,
    i32,
    i64,
    layout_from,
    layout_of,
    message,
    pack,
    u8,
    u16,
    u32,
    u64,
)


@message(7)
class Everything:
    a: u8
    b: i64
    c: i16
    d: f32
    e: u16
    f: f64
    g: i8
    h: u32
    i: i32
    j: u64


@message(0xFFFE0000)
class Nothing: ...


SOURCE = f"""#include <{MESSAGES_HEADER}>
static_assert(Everything::id == 7 && Nothing::id == 0xFFFE0000u);
extern "C" __global__ void read(const Everything* m, double* sum) {{
  *sum = m->a + m->b + m->c + m->d + m->e + m->f + m->g + m->h + m->i + m->j;
}}
"""


def _header(*layouts: MessageLayout) -> dict[str, str]:
    return {MESSAGES_HEADER: messages_header(layouts)}


def test_both_front_ends_agree_with_pythons_layout() -> None:
    """Sizes and offsets of all scalars, with padding between and after, hold under both."""
    headers = _header(layout_of(Everything), layout_of(Nothing))
    compile_to_ptx(SOURCE, headers=headers)
    compile_to_cubin(SOURCE, architecture="sm_80", headers=headers)
    _, payload = pack(Everything(1, 2, 3, 4.0, 5, 6.0, 7, 8, 9, 10))
    assert len(payload) == layout_of(Everything).size_bytes
    assert struct.unpack_from("<q", payload, 8) == (2,)


@pytest.mark.parametrize("offset_bytes", [0, 4, 16])
def test_a_wrong_offset_does_not_compile(offset_bytes: int) -> None:
    """Should Python's rule ever differ from the compiler's, both compilers say so."""
    wrong = MessageLayout(
        1, "M", (MessageField("a", "B", 0), MessageField("b", "Q", offset_bytes)), 16
    )
    with pytest.raises(CompileError, match="b lies wrong"):
        compile_to_ptx(f"#include <{MESSAGES_HEADER}>\n", headers=_header(wrong))
    with pytest.raises(CompileError, match="b lies wrong"):
        compile_to_cubin(
            f"#include <{MESSAGES_HEADER}>\n", architecture="sm_80", headers=_header(wrong)
        )


def test_a_wrong_size_does_not_compile() -> None:
    """The padding at the end counts too."""
    wrong = MessageLayout(1, "M", (MessageField("a", "Q", 0), MessageField("b", "B", 8)), 9)
    with pytest.raises(CompileError, match="its size is wrong"):
        compile_to_ptx(f"#include <{MESSAGES_HEADER}>\n", headers=_header(wrong))


U32 = Scalar("unsigned int", "I", 4)


@pytest.mark.parametrize(
    ("name", "field"),
    [("class", "a"), ("M", "double"), ("M", "id"), ("M", "M"), ("Größe", "a"), ("M", "__x")],
)
def test_names_that_cuda_cannot_have_are_refused(name: str, field: str) -> None:
    """Python takes these names, C++ doesn't: refused where they are declared, not in a log."""
    with pytest.raises(SpecError, match="choose another"):
        messages_header([layout_from(1, name, [(field, U32)])])


def test_no_messages_are_an_empty_header() -> None:
    """A kernel of raw bytes may still include it."""
    compile_to_ptx(f"#include <{MESSAGES_HEADER}>\n", headers=_header())


@pytest.mark.parametrize("name", sorted(n for n in shipped_headers() if n != "ringflow.cuh"))
def test_each_standard_header_stands_alone_under_both(name: str) -> None:
    """Each compiles as the only include, and twice in a row."""
    source = f"#include <{name}>\n#include <{name}>\n"
    compile_to_ptx(source)
    compile_to_cubin(source, architecture="sm_80")


def test_standard_names_mean_the_same_under_both() -> None:
    """Sizes of the integer types, and the constants bit for bit."""
    source = """
#include <cstddef>
#include <cstdint>
#include <cassert>
#include <float.h>
#include <math.h>
static_assert(sizeof(int8_t) == 1 && sizeof(uint16_t) == 2 && sizeof(std::int32_t) == 4);
static_assert(sizeof(uint64_t) == 8 && sizeof(uintptr_t) == sizeof(void*) && uint32_t(-1) > 0);
static_assert(INT64_MIN < 0 && INT64_MAX == -(INT64_MIN + 1) && UINT64_MAX == ~uint64_t(0));
static_assert(INT32_MIN == -INT32_MAX - 1 && UINT32_MAX == 0xffffffffu && INT8_MIN == -128);
struct S { char c; double d; };
static_assert(offsetof(S, d) == 8 && sizeof(std::size_t) == 8 && sizeof(std::ptrdiff_t) == 8);
static_assert(INFINITY > FLT_MAX && HUGE_VAL > DBL_MAX && NAN != NAN && 1.0f + FLT_EPSILON > 1.0f);
static_assert(__builtin_bit_cast(unsigned, FLT_MAX) == 0x7f7fffffu);
static_assert(__builtin_bit_cast(unsigned, FLT_MIN) == 0x00800000u);
static_assert(__builtin_bit_cast(uint64_t, DBL_MAX) == 0x7fefffffffffffffull);
static_assert(__builtin_bit_cast(uint64_t, DBL_MIN) == 0x0010000000000000ull);
static_assert(__builtin_bit_cast(uint64_t, M_PI) == 0x400921fb54442d18ull);
extern "C" __global__ void k(uint64_t* p) { assert(p[0] > 1); atomicAdd(p, uint64_t(1)); }
"""
    compile_to_ptx(source)
    compile_to_cubin(source, architecture="sm_80")
