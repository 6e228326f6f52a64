"""Ids of operations, checkpoints and kernels' runs, all from one source that can be seeded.

- An id is given when a thing is asked for, never when it completes.
- Ids of unseeded sources are globally unique: 80 random bits.
"""

from __future__ import annotations

import os
import random
from typing import Final, final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_LENGTH: Final = 16


@final
class Ids:
    """Makes ids such as ``mig-5v3kx0t2m8q1zr7c``.

    Args:
        seed: the same seed gives the same ids in the same order; None takes one from the system.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(
            int.from_bytes(os.urandom(32), "little") if seed is None else seed
        )

    def new(self, prefix: str) -> str:
        """Return a new id that starts with ``prefix`` and a hyphen."""
        bits = self._random.getrandbits(5 * _LENGTH)
        return f"{prefix}-" + "".join(
            _ALPHABET[bits >> shift & 31] for shift in range(0, 5 * _LENGTH, 5)
        )
