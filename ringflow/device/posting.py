"""Messages on their way into a ring, and the slots that they are encoded in."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import attrs

from ringflow.device.abi import SLOT_HEADER_BYTES
from ringflow.errors import LimitExceededError
from ringflow.spec import KernelSpec

_HEADER: Final = struct.Struct("<QIIQII")
assert _HEADER.size == SLOT_HEADER_BYTES


@attrs.frozen
class Posting:
    """A message on its way into the ring."""

    sequence: int
    type: int
    payload: bytes = b""
    correlation: int = 0


def encode_slots(spec: KernelSpec, postings: Sequence[Posting]) -> bytearray:
    """Return the ring slots of messages, for ``ResidentKernel.post_slots``.

    Raises:
        LimitExceededError: a payload is larger than the spec's slots carry.
    """
    slot_bytes, size_max = spec.slot_bytes, spec.payload_bytes_max
    pack, slots = _HEADER.pack, []
    for posting in postings:
        payload = posting.payload
        size = len(payload)
        if size > size_max:
            raise LimitExceededError("payload bytes", size, size_max, "raise the spec's slot_bytes")
        header = pack(posting.sequence, posting.type, size, posting.correlation, 0, 0)
        slots.append((header + payload).ljust(slot_bytes, b"\0"))
    return bytearray().join(slots)
