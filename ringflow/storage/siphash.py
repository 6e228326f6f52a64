"""SipHash-1-3 with a zero key, as Rust's ``DefaultHasher``: the ids of named chunks.

Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012), with one round a word
and three at the end.
"""

from __future__ import annotations

from typing import Final

_MASK: Final = (1 << 64) - 1
_V0, _V1 = 0x736F6D6570736575, 0x646F72616E646F6D
_V2, _V3 = 0x6C7967656E657261, 0x7465646279746573


def _rotate(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (64 - bits))) & _MASK


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & _MASK
    v1 = _rotate(v1, 13) ^ v0
    v0 = _rotate(v0, 32)
    v2 = (v2 + v3) & _MASK
    v3 = _rotate(v3, 16) ^ v2
    v0 = (v0 + v3) & _MASK
    v3 = _rotate(v3, 21) ^ v0
    v2 = (v2 + v1) & _MASK
    v1 = _rotate(v1, 17) ^ v2
    return v0, v1, _rotate(v2, 32), v3


def siphash13(data: bytes) -> int:
    """Return the 64-bit SipHash-1-3 of ``data`` under the zero key."""
    v0, v1, v2, v3 = _V0, _V1, _V2, _V3
    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) & 0xFF])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ word)
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


def chunk_id_of(name: str) -> int:
    """Return the chunk id of a region's name: its hash as Rust hashes a ``str``."""
    return siphash13(name.encode() + b"\xff")
