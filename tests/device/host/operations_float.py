"""Float instructions and conversions for the fuzz."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tests.device.host.operations import BITS, TYPES, Array, define, signed, unsigned
from tests.device.host.operations_integer import pick


def flush(x: Array) -> Array:
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, np.copysign(x.dtype.type(0), x), x)


def extreme(a: Array, b: Array, *, least: bool) -> Array:
    zeros = unsigned(a) | unsigned(b) if least else unsigned(a) & unsigned(b)
    chosen = (np.fmin if least else np.fmax)(a, b)
    return np.where(a == b, zeros.view(a.dtype), chosen).astype(a.dtype)


def fused(a: Array, b: Array, c: Array) -> Array:
    """f32 a * b + c, rounded once: the sum in f64 keeps in its last bit what it lost."""
    product, addend = a.astype(np.float64) * b, c.astype(np.float64)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    word = total.view(np.int64)
    away = (error > 0) == (total > 0)
    odd = np.where(word & 1, word, np.where(away, word + 1, word - 1)).view(np.float64)
    return np.where((error != 0) & np.isfinite(error), odd, total).astype(np.float32)


def narrow(x: Array, mode: str) -> Array:
    """f64 to f32."""
    near = x.astype(np.float32)
    back = near.astype(np.float64)
    infinite = near.dtype.type(np.inf)
    if mode == "rz":
        return np.where(np.abs(back) > np.abs(x), np.nextafter(near, near.dtype.type(0)), near)
    if mode == "rm":
        return np.where(back > x, np.nextafter(near, -infinite), near)
    if mode == "rp":
        return np.where(back < x, np.nextafter(near, infinite), near)
    return near


def to_integer(x: Array, low: int, high: int, kind: type[np.generic]) -> Array:
    """Saturate whole floats; NaN gives 0."""
    x = x.astype(np.float64)
    inside = (x >= low) & (x < high)
    result = np.where(inside, x, 0.0)
    number = result.astype(np.uint64 if low == 0 else np.int64)
    number = np.where(x >= high, number.dtype.type(high), number)
    return np.where(x < low, number.dtype.type(low), number).astype(kind)


def canonical(x: Array) -> Array:
    quiet = np.uint32(0x7FC00000) if x.dtype == np.float32 else np.uint64(0x7FF8000000000000)
    return np.where(np.isnan(x), quiet, unsigned(x))


_ROUND: Mapping[str, Callable[[Array], Array]] = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}


def _floats(kind: str) -> None:
    """Operations that f32 and f64 have alike."""
    n = BITS[kind]
    two = kind * 3
    f: Callable[..., Array]
    bits, unit = ("r", "b32") if kind == "f" else ("d", "b64")
    for name, f in (
        ("add", np.add),
        ("sub", np.subtract),
        ("mul", np.multiply),
        ("div", np.divide),
    ):
        define(f"{name}f{n}", two, f"{name}.rn.f{n} {{0}}, {{1}}, {{2}}", f)
    define(f"sqrtf{n}", kind * 2, f"sqrt.rn.f{n} {{0}}, {{1}}", np.sqrt)
    define(f"rcpf{n}", kind * 2, f"rcp.rn.f{n} {{0}}, {{1}}", lambda a: a.dtype.type(1) / a)
    define(f"minf{n}", two, f"min.f{n} {{0}}, {{1}}, {{2}}", lambda a, b: extreme(a, b, least=True))
    define(
        f"maxf{n}", two, f"max.f{n} {{0}}, {{1}}, {{2}}", lambda a, b: extreme(a, b, least=False)
    )
    if kind == "f":
        for name, f in (("min", np.minimum), ("max", np.maximum)):
            define(
                f"{name}nan",
                two,
                f"{name}.NaN.f32 {{0}}, {{1}}, {{2}}",
                lambda a, b, f=f, n=name: np.where(
                    np.isnan(a) | np.isnan(b), np.float32(np.nan), extreme(a, b, least=n == "min")
                ),
            )
    define(f"negf{n}", kind * 2, f"neg.f{n} {{0}}, {{1}}", np.negative)
    define(f"absf{n}", kind * 2, f"abs.f{n} {{0}}, {{1}}", np.abs)
    # A NaN's sign is nobody's: it counts as +.
    define(
        f"signf{n}",
        two,
        f"{{{{ .reg .pred q; .reg .{unit} s; testp.notanumber.f{n} q, {{1}}; "
        f"selp.{unit} s, 0, {{1}}, q; copysign.f{n} {{0}}, s, {{2}}; }}}}",
        lambda a, b: np.copysign(b, np.where(np.isnan(a), 0, a)),
    )
    for mode, f in _ROUND.items():
        define(f"{mode}f{n}", kind * 2, f"cvt.{mode}.f{n}.f{n} {{0}}, {{1}}", f)
        for sign, to in (("s", 32), ("u", 32), ("s", 64), ("u", 64)):
            low, high = (
                (-(1 << (to - 1)), (1 << (to - 1)) - 1) if sign == "s" else (0, (1 << to) - 1)
            )
            target = "r" if to == 32 else "d"
            define(
                f"{mode}{sign}{to}f{n}",
                target + kind,
                f"cvt.{mode}.{sign}{to}.f{n} {{0}}, {{1}}",
                lambda a, f=f, low=low, high=high, t=TYPES[target]: to_integer(f(a), low, high, t),
            )
    for sign, of, mine in (("u", 32, "r"), ("s", 32, "r"), ("u", 64, "d"), ("s", 64, "d")):
        define(
            f"from{sign}{of}f{n}",
            kind + mine,
            f"cvt.rn.f{n}.{sign}{of} {{0}}, {{1}}",
            lambda a, s=sign: (signed(a) if s == "s" else a).astype(TYPES[kind]),
        )
    for how, f in (("lt", np.less), ("ge", np.greater_equal), ("eq", np.equal), ("gt", np.greater)):
        define(f"set{how}f{n}", "p" + kind * 2, f"setp.{how}.f{n} {{0}}, {{1}}, {{2}}", f)
        define(
            f"set{how}uf{n}",
            "p" + kind * 2,
            f"setp.{how}u.f{n} {{0}}, {{1}}, {{2}}",
            lambda a, b, f=f: f(a, b) | np.isnan(a) | np.isnan(b),
        )
    define(
        f"self{n}",
        kind * 3 + "p",
        f"selp.f{n} {{0}}, {{1}}, {{2}}, {{3}}",
        pick,
    )
    quiet = "0x7FC00000" if kind == "f" else "0x7FF8000000000000"
    define(
        f"bits{n}",
        bits + kind,
        f"{{{{ .reg .pred q; testp.notanumber.f{n} q, {{1}}; "
        f"selp.{unit} {{0}}, {quiet}, {{1}}, q; }}}}",
        canonical,
    )
    define(f"float{n}", kind + bits, f"mov.{unit} {{0}}, {{1}}", lambda a: a.view(TYPES[kind]))


_floats("f")
_floats("g")
define("fmaf", "ffff", "fma.rn.f32 {0}, {1}, {2}, {3}", fused)
define("addftz", "fff", "add.rn.ftz.f32 {0}, {1}, {2}", lambda a, b: flush(flush(a) + flush(b)))
define("mulftz", "fff", "mul.ftz.f32 {0}, {1}, {2}", lambda a, b: flush(flush(a) * flush(b)))
define(
    "addsat",
    "fff",
    "add.sat.f32 {0}, {1}, {2}",
    lambda a, b: np.where(a + b > 0, np.minimum(a + b, np.float32(1)), np.float32(0)),
)
define("double", "gf", "cvt.f64.f32 {0}, {1}", lambda a: a.astype(np.float64))
define(
    "halves",
    "ff",
    "{{ .reg .b16 h; cvt.rn.f16.f32 h, {1}; cvt.f32.f16 {0}, h; }}",
    lambda a: a.astype(np.float16).astype(np.float32),
)
define(
    "halved",
    "fg",
    "{{ .reg .b16 h; cvt.rn.f16.f64 h, {1}; cvt.f32.f16 {0}, h; }}",
    lambda a: a.astype(np.float16).astype(np.float32),
)
for _mode in ("rn", "rz", "rm", "rp"):
    define(
        f"single{_mode}",
        "fg",
        f"cvt.{_mode}.f32.f64 {{0}}, {{1}}",
        lambda a, mode=_mode: narrow(a, mode),
    )
    define(
        f"unsigned{_mode}",
        "fr",
        f"cvt.{_mode}.f32.u32 {{0}}, {{1}}",
        lambda a, mode=_mode: narrow(a.astype(np.float64), mode),
    )
