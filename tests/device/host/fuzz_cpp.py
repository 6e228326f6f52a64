"""The fuzz's operations once more, in C++, for g++ where it is installed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.device.host.fuzz import FuzzProgram
from tests.device.host.operations import BITS

PRELUDE = r"""
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
typedef uint32_t u32; typedef uint64_t u64; typedef int32_t s32; typedef int64_t s64;
template <class T, class F> T bits_of(F x) { T t; memcpy(&t, &x, sizeof t); return t; }
template <class U> U low_bits(u32 n) { return n < 8 * sizeof(U) ? (U(1) << n) - 1 : ~U(0); }
template <class U> U left(U a, u32 n) { return n < 8 * sizeof(U) ? a << n : 0; }
template <class U> U right(U a, u32 n) { return n < 8 * sizeof(U) ? a >> n : 0; }
template <class S> S arithmetic(S a, u32 n) {
    return a >> (n < 8 * sizeof(S) ? n : 8 * sizeof(S) - 1);
}
static u32 length(u64 a) { return a ? 64 - __builtin_clzll(a) : 0; }
template <class T, class F> T whole(F x) {
    if (x != x) return 0;
    if (x >= std::ldexp(F(1), std::numeric_limits<T>::digits)) return std::numeric_limits<T>::max();
    if (x < F(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
    return T(x);
}
template <class F, class U> F least(F a, F b) {
    if (a != a) return b;
    if (b != b) return a;
    if (a == b) return bits_of<F>(U(bits_of<U>(a) | bits_of<U>(b)));
    return a < b ? a : b;
}
template <class F, class U> F most(F a, F b) { return -least<F, U>(-a, -b); }
#define INTEGER(n, U, S)                                                                          \
    static U op_add##n(U a, U b) { return a + b; }                                                \
    static U op_sub##n(U a, U b) { return a - b; }                                                \
    static U op_mul##n(U a, U b) { return a * b; }                                                \
    static U op_mad##n(U a, U b, U c) { return a * b + c; }                                       \
    static U op_divu##n(U a, U b) { return b ? a / b : ~U(0); }                                   \
    static U op_remu##n(U a, U b) { return b ? a % b : a; }                                       \
    static U op_divs##n(U a, U b) { return !b ? ~U(0) : !~b ? 0 - a : U(S(a) / S(b)); }           \
    static U op_rems##n(U a, U b) { return !b ? a : !~b ? 0 : U(S(a) % S(b)); }                   \
    static U op_mins##n(U a, U b) { return S(a) < S(b) ? a : b; }                                 \
    static U op_maxu##n(U a, U b) { return a > b ? a : b; }                                       \
    static U op_abs##n(U a) { return S(a) < 0 ? 0 - a : a; }                                      \
    static U op_neg##n(U a) { return 0 - a; }                                                     \
    static U op_and##n(U a, U b) { return a & b; }                                                \
    static U op_or##n(U a, U b) { return a | b; }                                                 \
    static U op_xor##n(U a, U b) { return a ^ b; }                                                \
    static U op_not##n(U a) { return ~a; }                                                        \
    static U op_cnot##n(U a) { return !a; }                                                       \
    static U op_shl##n(U a, u32 b) { return left(a, b); }                                         \
    static U op_shr##n(U a, u32 b) { return right(a, b); }                                        \
    static U op_sar##n(U a, u32 b) { return arithmetic(S(a), b); }                                \
    static u32 op_popc##n(U a) { return __builtin_popcountll(a); }                                \
    static u32 op_clz##n(U a) { return n - length(a); }                                           \
    static u32 op_bfindu##n(U a) { return length(a) - 1; }                                        \
    static u32 op_bfinds##n(U a) { return length(U(S(a) < 0 ? ~a : a)) - 1; }                     \
    static U op_bfeu##n(U a, u32 b, u32 c) { return right(a, b & 255) & low_bits<U>(c & 255); }   \
    static U op_bfi##n(U a, U b, u32 c, u32 d) {                                                  \
        U field = left(low_bits<U>(d & 255), c & 255);                                            \
        return (left(a, c & 255) & field) | (b & ~field);                                         \
    }                                                                                             \
    static U op_brev##n(U a) {                                                                    \
        U r = 0;                                                                                  \
        for (int i = 0; i < n; ++i) r |= (a >> i & 1) << (n - 1 - i);                             \
        return r;                                                                                 \
    }                                                                                             \
    static bool op_setlts##n(U a, U b) { return S(a) < S(b); }                                    \
    static bool op_setges##n(U a, U b) { return S(a) >= S(b); }                                   \
    static bool op_seteqs##n(U a, U b) { return a == b; }                                         \
    static bool op_sethi##n(U a, U b) { return a > b; }                                           \
    static U op_sel##n(U a, U b, bool p) { return p ? a : b; }                                    \
    static U op_slct##n(U a, U b, u32 c) { return s32(c) >= 0 ? a : b; }
INTEGER(32, u32, s32)
INTEGER(64, u64, s64)
static u32 op_mulhiu(u32 a, u32 b) { return u64(a) * b >> 32; }
static u32 op_mulhis(u32 a, u32 b) { return s64(s32(a)) * s32(b) >> 32; }
static u64 op_mulhiu64(u64 a, u64 b) { return (unsigned __int128)a * b >> 64; }
static u64 op_wideu(u32 a, u32 b) { return u64(a) * b; }
static u64 op_wides(u32 a, u32 b) { return s64(s32(a)) * s32(b); }
static u64 op_madwide(u32 a, u32 b, u64 c) { return u64(a) * b + c; }
static u64 op_carry(u32 a, u32 b, u32 c) { return u64(a) + b + (u64(c) << 32); }
static u32 op_narrow(u64 a) { return a; }
static u32 op_upper(u64 a) { return a >> 32; }
static u64 op_extend(u32 a) { return s64(s32(a)); }
static u64 op_pack(u32 a, u32 b) { return u64(b) << 32 | a; }
static u32 op_byte(u32 a) { return s32(int8_t(a)); }
static bool op_both(bool a, bool b) { return a && b; }
static bool op_never(bool a) { return !a; }
static u32 op_guarded(u32 a, u32 b, bool p) { return p ? a : a + b; }
#define FLOATING(n, F, U, mine, other)                                                            \
    static F op_addf##n(F a, F b) { return a + b; }                                               \
    static F op_subf##n(F a, F b) { return a - b; }                                               \
    static F op_mulf##n(F a, F b) { return a * b; }                                               \
    static F op_divf##n(F a, F b) { return a / b; }                                               \
    static F op_sqrtf##n(F a) { return std::sqrt(a); }                                            \
    static F op_rcpf##n(F a) { return F(1) / a; }                                                 \
    static F op_minf##n(F a, F b) { return least<F, U>(a, b); }                                   \
    static F op_maxf##n(F a, F b) { return most<F, U>(a, b); }                                    \
    static F op_negf##n(F a) { return -a; }                                                       \
    static F op_absf##n(F a) { return std::fabs(a); }                                             \
    static F op_signf##n(F a, F b) { return std::copysign(b, a == a ? a : F(0)); }                \
    static F op_rnif##n(F a) { return std::nearbyint(a); }                                        \
    static F op_rzif##n(F a) { return std::trunc(a); }                                            \
    static F op_rmif##n(F a) { return std::floor(a); }                                            \
    static F op_rpif##n(F a) { return std::ceil(a); }                                             \
    static u32 op_rnis32f##n(F a) { return whole<s32>(std::nearbyint(a)); }                       \
    static u32 op_rziu32f##n(F a) { return whole<u32>(std::trunc(a)); }                           \
    static u64 op_rmis64f##n(F a) { return whole<s64>(std::floor(a)); }                           \
    static u64 op_rpiu64f##n(F a) { return whole<u64>(std::ceil(a)); }                            \
    static F op_fromu32f##n(u32 a) { return a; }                                                  \
    static F op_froms32f##n(u32 a) { return s32(a); }                                             \
    static F op_fromu64f##n(u64 a) { return a; }                                                  \
    static F op_froms64f##n(u64 a) { return s64(a); }                                             \
    static bool op_setltf##n(F a, F b) { return a < b; }                                          \
    static bool op_setltuf##n(F a, F b) { return !(a >= b); }                                     \
    static bool op_setgeuf##n(F a, F b) { return !(a < b); }                                      \
    static F op_self##n(F a, F b, bool p) { return p ? a : b; }                                   \
    static F op_float##n(U a) { return bits_of<F>(a); }                                           \
    static U op_bits##n(F a) {                                                                    \
        return a == a ? bits_of<U>(a) : n == 32 ? U(0x7FC00000) : U(0x7FF8000000000000);          \
    }
FLOATING(32, float, u32, r, d)
FLOATING(64, double, u64, d, r)
static float op_fmaf(float a, float b, float c) { return std::fma(a, b, c); }
static double op_double(float a) { return a; }
static float op_singlern(double a) { return a; }
"""
_MACRO_NAMES = re.compile(r"op_(\w+?)##n\(")
_PLAIN_NAMES = re.compile(r"op_(\w+)\(")
_TYPES = {"r": "u32", "d": "u64", "f": "float", "g": "double", "p": "bool"}


def names() -> list[str]:
    """Return the operations that the prelude has."""
    both = [name + width for name in _MACRO_NAMES.findall(PRELUDE) for width in ("32", "64")]
    return both + _PLAIN_NAMES.findall(PRELUDE)


def build(program: FuzzProgram, folder: Path) -> Path:
    """Compile ``extern "C" void k(const u64* in, u64* out, u64 n)`` and return the library."""
    count = len(program.inputs)
    lines = [
        f"{_TYPES[kind]} v{v} = bits_of<{_TYPES[kind]}>(u{BITS[kind]}(in[{v} * n + i]));"
        for v, kind in enumerate(program.inputs)
    ]
    for number, step in enumerate(program.steps):
        value = count + number
        kind = step.operation.kinds[0]
        arguments = ", ".join(f"v{source}" for source in step.sources)
        lines.append(f"{_TYPES[kind]} v{value} = op_{step.operation.name}({arguments});")
        word = f"bits_of<u{BITS[kind]}>(v{value})" if kind != "p" else f"v{value}"
        lines.append(f"out[{number} * n + i] = {word};")
    body = "\n".join(lines)
    source = folder / "fuzz.cpp"
    source.write_text(
        f'{PRELUDE}extern "C" void k(const u64* in, u64* out, u64 n) {{\n'
        f"for (u64 i = 0; i < n; ++i) {{\n{body}\n}}\n}}\n"
    )
    library = folder / "fuzz.so"
    flags = ["-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC"]
    subprocess.run(["g++", *flags, "-o", str(library), str(source)], check=True)
    return library
