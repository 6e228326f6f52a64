"""Integer instructions for the fuzz: arithmetic, shifts, bit fields, permutations, conversions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.device.host.operations import BITS, Array, define, signed, unsigned, width


def left(x: Array, by: Array) -> Array:
    n = width(x)
    return np.where(by < n, x << (by % n).astype(x.dtype), 0).astype(x.dtype)


def right(x: Array, by: Array) -> Array:
    n = width(x)
    return np.where(by < n, x >> (by % n).astype(x.dtype), 0).astype(x.dtype)


def right_signed(x: Array, by: Array) -> Array:
    return unsigned(signed(x) >> np.minimum(by, width(x) - 1).astype(signed(x).dtype))


def bit_length(x: Array) -> Array:
    count = np.zeros(x.shape, np.uint32)
    for bit in range(width(x)):
        count = np.where(x >> x.dtype.type(bit) & x.dtype.type(1), np.uint32(bit + 1), count)
    return count


def ones(x: Array) -> Array:
    one = x.dtype.type(1)
    return sum(((x >> x.dtype.type(n) & one).astype(np.uint32) for n in range(width(x))),
               np.zeros(x.shape, np.uint32))  # fmt: skip


def reverse(x: Array) -> Array:
    one, n = x.dtype.type(1), width(x)
    result = np.zeros_like(x)
    for bit in range(n):
        result |= (x >> x.dtype.type(bit) & one) << x.dtype.type(n - 1 - bit)
    return result


def quotient(a: Array, b: Array) -> Array:
    """Signed division as unsigned words: x / 0 is all ones."""
    zero = b == 0
    x, y = signed(a), signed(b)
    size = unsigned(np.where(x < 0, -x, x)) // unsigned(np.where(zero, 1, np.where(y < 0, -y, y)))
    result = np.where((x < 0) != (y < 0), 0 - size, size)
    return np.where(zero, ~a.dtype.type(0), result).astype(a.dtype)


def high_product(a: Array, b: Array) -> Array:
    """The upper half of an unsigned product of 64-bit words."""
    m, h = np.uint64(0xFFFFFFFF), np.uint64(32)
    al, ah, bl, bh = a & m, a >> h, b & m, b >> h
    middle = (al * bl >> h) + (ah * bl & m) + (al * bh & m)
    high: Array = ah * bh + (ah * bl >> h) + (al * bh >> h) + (middle >> h)
    return high


def mask_of(x: Array, length: Array) -> Array:
    return ~left(np.full_like(x, ~x.dtype.type(0)), length)


def extract(a: Array, b: Array, c: Array) -> Array:
    return right(a, b & 255) & mask_of(a, c & 255)


def extract_signed(a: Array, b: Array, c: Array) -> Array:
    position, length = b & 255, c & 255
    n = width(a)
    value = right_signed(a, position) & mask_of(a, length)
    top = np.minimum(position + length - 1, n - 1)
    negative = right(a, top) & a.dtype.type(1)
    filled = np.where(negative, value | ~mask_of(a, length), value)
    return np.where(length == 0, 0, filled).astype(a.dtype)


def insert(a: Array, b: Array, c: Array, d: Array) -> Array:
    field = left(mask_of(a, d & 255), c & 255)
    return left(a, c & 255) & field | b & ~field


def permute(a: Array, b: Array, c: Array) -> Array:
    both = b.astype(np.uint64) << np.uint64(32) | a
    result = np.zeros_like(a)
    for index in range(4):
        selector = c >> np.uint32(4 * index) & np.uint32(15)
        byte = (both >> (selector & 7).astype(np.uint64) * np.uint64(8)).astype(np.uint32) & 255
        sign = np.where(byte & 128, np.uint32(255), np.uint32(0))
        result |= np.where(selector & 8, sign, byte).astype(np.uint32) << np.uint32(8 * index)
    return result


def lookup(table: int) -> Callable[[Array, Array, Array], Array]:
    def value(a: Array, b: Array, c: Array) -> Array:
        result = np.zeros_like(a)
        for row in range(8):
            if table >> row & 1:
                picks = [x if row >> (2 - i) & 1 else ~x for i, x in enumerate((a, b, c))]
                result |= picks[0] & picks[1] & picks[2]
        return result

    return value


def pick(a: Array, b: Array, p: Array) -> Array:
    chosen: Array = np.where(p, a, b)
    return chosen


def saturated(total: Array) -> Array:
    return np.clip(total, -(1 << 31), (1 << 31) - 1).astype(np.int32).view(np.uint32)


def long(x: Array) -> Array:
    return signed(x).astype(np.int64)


def _integers(kind: str) -> None:
    """Operations that 32 and 64 bits have alike."""
    n = BITS[kind]
    two, three = kind * 3, kind * 4
    define(f"add{n}", two, f"add.u{n} {{0}}, {{1}}, {{2}}", lambda a, b: a + b)
    define(f"sub{n}", two, f"sub.s{n} {{0}}, {{1}}, {{2}}", lambda a, b: a - b)
    define(f"mul{n}", two, f"mul.lo.s{n} {{0}}, {{1}}, {{2}}", lambda a, b: a * b)
    define(f"mad{n}", three, f"mad.lo.u{n} {{0}}, {{1}}, {{2}}, {{3}}", lambda a, b, c: a * b + c)
    define(
        f"divu{n}",
        two,
        f"div.u{n} {{0}}, {{1}}, {{2}}",
        lambda a, b: np.where(b == 0, ~a.dtype.type(0), a // np.maximum(b, 1)).astype(a.dtype),
    )
    define(f"divs{n}", two, f"div.s{n} {{0}}, {{1}}, {{2}}", quotient)
    define(
        f"remu{n}",
        two,
        f"rem.u{n} {{0}}, {{1}}, {{2}}",
        lambda a, b: np.where(b == 0, a, a % np.maximum(b, 1)).astype(a.dtype),
    )
    define(
        f"rems{n}",
        two,
        f"rem.s{n} {{0}}, {{1}}, {{2}}",
        lambda a, b: np.where(b == 0, a, a - b * quotient(a, b)).astype(a.dtype),
    )
    define(
        f"mins{n}",
        two,
        f"min.s{n} {{0}}, {{1}}, {{2}}",
        lambda a, b: unsigned(np.minimum(signed(a), signed(b))),
    )
    define(f"maxu{n}", two, f"max.u{n} {{0}}, {{1}}, {{2}}", np.maximum)
    define(
        f"abs{n}", kind * 2, f"abs.s{n} {{0}}, {{1}}", lambda a: np.where(signed(a) < 0, 0 - a, a)
    )
    define(f"neg{n}", kind * 2, f"neg.s{n} {{0}}, {{1}}", lambda a: 0 - a)
    define(f"and{n}", two, f"and.b{n} {{0}}, {{1}}, {{2}}", lambda a, b: a & b)
    define(f"or{n}", two, f"or.b{n} {{0}}, {{1}}, {{2}}", lambda a, b: a | b)
    define(f"xor{n}", two, f"xor.b{n} {{0}}, {{1}}, {{2}}", lambda a, b: a ^ b)
    define(f"not{n}", kind * 2, f"not.b{n} {{0}}, {{1}}", lambda a: ~a)
    define(f"cnot{n}", kind * 2, f"cnot.b{n} {{0}}, {{1}}", lambda a: (a == 0).astype(a.dtype))
    define(f"shl{n}", kind * 2 + "r", f"shl.b{n} {{0}}, {{1}}, {{2}}", left)
    define(f"shr{n}", kind * 2 + "r", f"shr.u{n} {{0}}, {{1}}, {{2}}", right)
    define(f"sar{n}", kind * 2 + "r", f"shr.s{n} {{0}}, {{1}}, {{2}}", right_signed)
    for by in (3, n - 1, n + 7):
        define(
            f"shl{n}by{by}",
            kind * 2,
            f"shl.b{n} {{0}}, {{1}}, {by}",
            lambda a, by=by: left(a, np.full(a.shape, by, np.uint32)),
        )
    define(f"popc{n}", "r" + kind, f"popc.b{n} {{0}}, {{1}}", ones)
    define(f"clz{n}", "r" + kind, f"clz.b{n} {{0}}, {{1}}", lambda a: np.uint32(n) - bit_length(a))
    define(f"brev{n}", kind * 2, f"brev.b{n} {{0}}, {{1}}", reverse)
    define(
        f"bfindu{n}", "r" + kind, f"bfind.u{n} {{0}}, {{1}}", lambda a: bit_length(a) - np.uint32(1)
    )
    define(
        f"bfinds{n}",
        "r" + kind,
        f"bfind.s{n} {{0}}, {{1}}",
        lambda a: bit_length(np.where(signed(a) < 0, ~a, a)) - np.uint32(1),
    )
    define(f"bfeu{n}", kind * 2 + "rr", f"bfe.u{n} {{0}}, {{1}}, {{2}}, {{3}}", extract)
    define(f"bfes{n}", kind * 2 + "rr", f"bfe.s{n} {{0}}, {{1}}, {{2}}, {{3}}", extract_signed)
    define(f"bfi{n}", kind * 3 + "rr", f"bfi.b{n} {{0}}, {{1}}, {{2}}, {{3}}, {{4}}", insert)
    for how, f in (("lt", np.less), ("ge", np.greater_equal), ("eq", np.equal)):
        define(
            f"set{how}s{n}",
            "p" + kind * 2,
            f"setp.{how}.s{n} {{0}}, {{1}}, {{2}}",
            lambda a, b, f=f: f(signed(a), signed(b)),
        )
    define(f"sethi{n}", "p" + kind * 2, f"setp.hi.u{n} {{0}}, {{1}}, {{2}}", np.greater)
    define(
        f"sel{n}",
        kind * 3 + "p",
        f"selp.b{n} {{0}}, {{1}}, {{2}}, {{3}}",
        pick,
    )
    define(f"slct{n}", kind * 3 + "r", f"slct.b{n}.s32 {{0}}, {{1}}, {{2}}, {{3}}",
           lambda a, b, c: pick(a, b, signed(c) >= 0))  # fmt: skip


_integers("r")
_integers("d")
define(
    "mulhiu",
    "rrr",
    "mul.hi.u32 {0}, {1}, {2}",
    lambda a, b: (a.astype(np.uint64) * b >> np.uint64(32)).astype(np.uint32),
)
define(
    "mulhis",
    "rrr",
    "mul.hi.s32 {0}, {1}, {2}",
    lambda a, b: (long(a) * long(b) >> 32).astype(np.int32).view(np.uint32),
)
define("mulhiu64", "ddd", "mul.hi.u64 {0}, {1}, {2}", high_product)
define("wideu", "drr", "mul.wide.u32 {0}, {1}, {2}", lambda a, b: a.astype(np.uint64) * b)
define("wides", "drr", "mul.wide.s32 {0}, {1}, {2}", lambda a, b: unsigned(long(a) * long(b)))
define(
    "madwide",
    "drrd",
    "mad.wide.u32 {0}, {1}, {2}, {3}",
    lambda a, b, c: a.astype(np.uint64) * b + c,
)
define("adds", "rrr", "add.sat.s32 {0}, {1}, {2}", lambda a, b: saturated(long(a) + long(b)))
define("subs", "rrr", "sub.sat.s32 {0}, {1}, {2}", lambda a, b: saturated(long(a) - long(b)))
define(
    "sad",
    "rrrr",
    "sad.s32 {0}, {1}, {2}, {3}",
    lambda a, b, c: np.abs(long(a) - long(b)).astype(np.uint32) + c,
)
define("prmt", "rrrr", "prmt.b32 {0}, {1}, {2}, {3}", permute)
for _table in (0xCA, 0x96, 0xE8, 0x1B):
    define(f"lop{_table}", "rrrr", f"lop3.b32 {{0}}, {{1}}, {{2}}, {{3}}, {_table}", lookup(_table))
define(
    "shflw",
    "rrrr",
    "shf.l.wrap.b32 {0}, {1}, {2}, {3}",
    lambda a, b, c: (
        (b.astype(np.uint64) << np.uint64(32) | a) << (c & 31).astype(np.uint64) >> np.uint64(32)
    ).astype(np.uint32),
)
define(
    "shfrc",
    "rrrr",
    "shf.r.clamp.b32 {0}, {1}, {2}, {3}",
    lambda a, b, c: (
        (b.astype(np.uint64) << np.uint64(32) | a) >> np.minimum(c, 32).astype(np.uint64)
    ).astype(np.uint32),
)
define(
    "carry",
    "drrr",
    "{{ .reg .b32 l, h; add.cc.u32 l, {1}, {2}; addc.u32 h, {3}, 0; mov.b64 {0}, {{l, h}}; }}",
    lambda a, b, c: a.astype(np.uint64) + b + (c.astype(np.uint64) << np.uint64(32)),
)
define("narrow", "rd", "cvt.u32.u64 {0}, {1}", lambda a: a.astype(np.uint32))
define(
    "upper",
    "rd",
    "{{ .reg .b32 l; mov.b64 {{l, {0}}}, {1}; }}",
    lambda a: (a >> np.uint64(32)).astype(np.uint32),
)
define("extend", "dr", "cvt.s64.s32 {0}, {1}", lambda a: unsigned(long(a)))
define(
    "pack",
    "drr",
    "mov.b64 {0}, {{{1}, {2}}}",
    lambda a, b: b.astype(np.uint64) << np.uint64(32) | a,
)
define(
    "byte",
    "rr",
    "cvt.s32.s8 {0}, {1}",
    lambda a: a.astype(np.int8).astype(np.int32).view(np.uint32),
)
define("half", "rr", "cvt.u32.u16 {0}, {1}", lambda a: a & np.uint32(0xFFFF))
define(
    "sat8",
    "rr",
    "cvt.sat.s8.s32 {0}, {1}",
    lambda a: np.clip(signed(a), -128, 127).astype(np.int32).view(np.uint32),
)
define(
    "sat32",
    "rd",
    "cvt.sat.u32.s64 {0}, {1}",
    lambda a: np.clip(signed(a), 0, 0xFFFFFFFF).astype(np.uint32),
)
define("both", "ppp", "and.pred {0}, {1}, {2}", lambda a, b: a & b)
define("differ", "ppp", "xor.pred {0}, {1}, {2}", lambda a, b: a ^ b)
define("never", "pp", "not.pred {0}, {1}", lambda a: ~a)
define("guarded", "rrrp", "mov.b32 {0}, {1}; @!{3} add.u32 {0}, {0}, {2}",
       lambda a, b, p: np.where(p, a, a + b))  # fmt: skip
