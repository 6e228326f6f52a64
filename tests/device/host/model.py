"""What single PTX instructions mean, on Python's integers and exact fractions.

Floats are words; results are exact before one rounding, so every rounding mode is modelled.
"""

from __future__ import annotations

import math
from fractions import Fraction

MODES = ("rn", "rz", "rm", "rp")
_PRECISION = {16: 11, 32: 24, 64: 53}
_EXPONENT_MAX = {16: 15, 32: 127, 64: 1023}


def mask(bits: int) -> int:
    return (1 << bits) - 1


def signed(value: int, bits: int) -> int:
    value &= mask(bits)
    return value - (1 << bits) if value >> (bits - 1) else value


def clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def sign_of(word: int, bits: int) -> int:
    return word >> (bits - 1) & 1


def magnitude(word: int, bits: int) -> int:
    return word & mask(bits - 1)


def infinity(bits: int, negative: bool) -> int:
    exponent = bits - _PRECISION[bits]
    return mask(exponent) << (_PRECISION[bits] - 1) | negative << (bits - 1)


def nan(bits: int) -> int:
    return infinity(bits, False) | 1 << (_PRECISION[bits] - 2)


def is_nan(word: int, bits: int) -> bool:
    return magnitude(word, bits) > infinity(bits, False)


def is_infinite(word: int, bits: int) -> bool:
    return magnitude(word, bits) == infinity(bits, False)


def is_subnormal(word: int, bits: int) -> bool:
    return 0 < magnitude(word, bits) < 1 << (_PRECISION[bits] - 1)


def flush(word: int, bits: int) -> int:
    return word & 1 << (bits - 1) if is_subnormal(word, bits) else word & mask(bits)


def value_of(word: int, bits: int) -> Fraction:
    """Return a finite float's value."""
    p = _PRECISION[bits]
    size = magnitude(word, bits)
    exponent, fraction = size >> (p - 1), size & mask(p - 1)
    smallest = 1 - _EXPONENT_MAX[bits] - (p - 1)
    if exponent:
        fraction |= 1 << (p - 1)
        smallest += exponent - 1
    value = Fraction(fraction) * Fraction(2) ** smallest
    return -value if sign_of(word, bits) else value


def encode(value: Fraction, bits: int, mode: str, *, zero_sign: int = 0) -> int:
    """Return the float nearest to ``value`` in the direction of ``mode``."""
    if value == 0:
        return zero_sign << (bits - 1)
    p, emax = _PRECISION[bits], _EXPONENT_MAX[bits]
    negative = value < 0
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    exponent = max(exponent, 1 - emax)
    ulp = Fraction(2) ** (exponent - p + 1)
    count = math.floor(size / ulp)
    rest = size / ulp - count
    half = Fraction(1, 2)
    if mode == "rn":
        count += rest > half or (rest == half and count & 1 == 1)
    elif mode != "rz":
        count += rest > 0 and negative == (mode == "rm")
    if count >> p:
        count, exponent = count >> 1, exponent + 1
    sign = negative << (bits - 1)
    if exponent > emax:
        away = mode == "rn" or (mode != "rz" and negative == (mode == "rm"))
        return infinity(bits, negative) - (not away)
    if count >> (p - 1) == 0:
        return count | sign
    return (exponent + emax) << (p - 1) | (count & mask(p - 1)) | sign


def fma(a: int, b: int, c: int, bits: int, mode: str) -> int:
    """Return a * b + c, rounded once."""
    if any(is_nan(x, bits) for x in (a, b, c)):
        return nan(bits)
    sign = sign_of(a, bits) ^ sign_of(b, bits)
    if is_infinite(a, bits) or is_infinite(b, bits):
        if not magnitude(a, bits) or not magnitude(b, bits):
            return nan(bits)
        if is_infinite(c, bits) and sign_of(c, bits) != sign:
            return nan(bits)
        return infinity(bits, bool(sign))
    if is_infinite(c, bits):
        return c
    product = value_of(a, bits) * value_of(b, bits)
    total = product + value_of(c, bits)
    other = sign_of(c, bits)
    zero_sign = sign if sign == other else int(mode == "rm")
    return encode(total, bits, mode, zero_sign=zero_sign)


def one(bits: int) -> int:
    return _EXPONENT_MAX[bits] << (_PRECISION[bits] - 1)


def add(a: int, b: int, bits: int, mode: str) -> int:
    return fma(a, one(bits), b, bits, mode)


def subtract(a: int, b: int, bits: int, mode: str) -> int:
    return add(a, b ^ 1 << (bits - 1), bits, mode)


def multiply(a: int, b: int, bits: int, mode: str) -> int:
    sign = sign_of(a, bits) ^ sign_of(b, bits)
    return fma(a, b, sign << (bits - 1), bits, mode)


def divide(a: int, b: int, bits: int, mode: str) -> int:
    if is_nan(a, bits) or is_nan(b, bits):
        return nan(bits)
    sign = sign_of(a, bits) ^ sign_of(b, bits)
    if is_infinite(a, bits):
        return nan(bits) if is_infinite(b, bits) else infinity(bits, bool(sign))
    if is_infinite(b, bits):
        return sign << (bits - 1)
    if not magnitude(b, bits):
        return infinity(bits, bool(sign)) if magnitude(a, bits) else nan(bits)
    return encode(value_of(a, bits) / value_of(b, bits), bits, mode, zero_sign=sign)


def square_root(a: int, bits: int, mode: str) -> int:
    if is_nan(a, bits) or (sign_of(a, bits) and magnitude(a, bits)):
        return nan(bits)
    if is_infinite(a, bits) or not magnitude(a, bits):
        return a
    value = value_of(a, bits)
    shift = 400 if bits == 32 else 1400
    scaled = value * Fraction(4) ** shift
    assert scaled.denominator == 1
    root = math.isqrt(scaled.numerator)
    doubled = 2 * root + (root * root != scaled.numerator)  # a last bit for what is cut off
    return encode(Fraction(doubled) / Fraction(2) ** (shift + 1), bits, mode)


def convert(word: int, of: int, to: int, mode: str) -> int:
    """Return a float in another format."""
    if is_nan(word, of):
        return nan(to)
    sign = sign_of(word, of)
    if is_infinite(word, of):
        return infinity(to, bool(sign))
    return encode(value_of(word, of), to, mode, zero_sign=sign)


def whole(value: Fraction, mode: str) -> int:
    """Return an integer by one of rni, rzi, rmi, rpi."""
    if mode == "rni":
        return round(value)
    if mode == "rzi":
        return math.trunc(value)
    return math.floor(value) if mode == "rmi" else math.ceil(value)


def to_integer(word: int, of: int, low: int, high: int, mode: str) -> int:
    """Saturate; NaN gives 0."""
    if is_nan(word, of):
        return 0
    if is_infinite(word, of):
        return low if sign_of(word, of) else high
    return clamp(whole(value_of(word, of), mode), low, high)


def smaller(a: int, b: int, bits: int) -> int:
    """The minimum: a number wins over NaN, -0 is less than +0."""
    if is_nan(a, bits) or is_nan(b, bits):
        return (nan(bits) if is_nan(a, bits) else a) if is_nan(b, bits) else b
    return min(a, b, key=lambda word: _order(word, bits))


def larger(a: int, b: int, bits: int) -> int:
    if is_nan(a, bits) or is_nan(b, bits):
        return smaller(a, b, bits)
    return max(a, b, key=lambda word: _order(word, bits))


def _order(word: int, bits: int) -> int:
    return -magnitude(word, bits) - 1 if sign_of(word, bits) else magnitude(word, bits)


def ordered_less(a: int, b: int, bits: int) -> bool:
    return _order(a, bits) < _order(b, bits) and bool(magnitude(a, bits) | magnitude(b, bits))


def quotient(a: int, b: int) -> int:
    size = abs(a) // abs(b)
    return size if (a < 0) == (b < 0) else -size
