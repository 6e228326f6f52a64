"""Messages on their way into a ring, and the slots that they are encoded in.

- A slot carries the payload; bulk lies in the arena, the slot says where.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from ringflow.device.abi import SLOT_HEADER_BYTES, bulk_handle
from ringflow.device.bulk import Bulk
from ringflow.errors import LimitExceededError
from ringflow.spec import KernelSpec

_HEADER: Final = struct.Struct("<QIIQII")
assert _HEADER.size == SLOT_HEADER_BYTES


@attrs.frozen
class Posting:
    """A message on its way into the ring.

    Attributes:
        bulk: what lies beside the slot: an array, or a payload that no slot carries.
    """

    sequence: int
    type: int
    payload: bytes = b""
    correlation: int = 0
    bulk: Bulk | None = None


def check_bulk_size(spec: KernelSpec, size_bytes: int) -> None:
    """Raise ``LimitExceededError`` if a message's bulk can never have room."""
    if size_bytes > spec.bulk_bytes:
        raise LimitExceededError(
            "the array's or payload's size in bytes",
            size_bytes,
            spec.bulk_bytes,
            "raise the spec's bulk_bytes, or send it in parts",
        )


def no_place(sequence: int) -> int:
    """For messages that have no bulk."""
    raise AssertionError(f"message {sequence} has bulk, but no arena")


def encode_slots(
    spec: KernelSpec, postings: Sequence[Posting], *, place: Callable[[int], int] = no_place
) -> bytearray:
    """Return the ring slots of messages, for ``ResidentKernel.post_slots``.

    Args:
        place: returns the offset in bytes of a message's bulk in the arena.
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
        bulk_size = handle = 0
        if posting.bulk is not None:
            bulk_size, handle = posting.bulk.size_bytes, bulk_handle(place(posting.sequence))
        header = pack(posting.sequence, posting.type, size, posting.correlation, bulk_size, handle)
        slots.append((header + payload).ljust(slot_bytes, b"\0"))
    return bytearray().join(slots)
