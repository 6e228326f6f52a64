"""Ring slots of many messages at once, with numpy: one pass over the words, none over messages."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ringflow.device.abi import MESSAGE_SLOT, SLOT_HEADER_BYTES
from ringflow.errors import LimitExceededError
from ringflow.spec import KernelSpec

_TYPES: Final = {4: "<u4", 8: "<u8"}


def encode_array(
    spec: KernelSpec,
    messages: np.ndarray[Any, Any],
    *,
    type: int,
    first_sequence: int,
    correlation: int = 0,
) -> bytearray:
    """Return ring slots for ``ResidentKernel.post_slots``.

    Args:
        messages: a payload an item: [n] of any dtype without objects (a structured dtype as the
            kernel's struct has it), little endian.
        type: of all the messages.
        first_sequence: of the first one; the others follow one by one.
        correlation: of the first one, likewise.
    Raises:
        LimitExceededError: a payload is larger than the spec's slots carry.
    """
    assert messages.ndim == 1, f"{messages.ndim} dimensions, where each item is a message"
    assert not messages.dtype.hasobject, "objects have no bytes of their own"
    count, size = len(messages), messages.dtype.itemsize
    if size > spec.payload_bytes_max:
        raise LimitExceededError(
            "payload bytes", size, spec.payload_bytes_max, "raise the spec's slot_bytes"
        )
    slots = bytearray(count * spec.slot_bytes)
    if count == 0:
        return slots
    numbers = np.arange(count, dtype="<u8")
    values = {
        "sequence": numbers + np.uint64(first_sequence),
        "type": type,
        "size": size,
        "correlation": numbers + np.uint64(correlation),
    }
    offsets = {word.name: word for word in MESSAGE_SLOT.words}
    table = np.frombuffer(slots, np.uint8).reshape(count, spec.slot_bytes)
    for name, value in values.items():
        word = offsets[name]
        end = word.offset_bytes + word.size_bytes
        table[:, word.offset_bytes : end].view(_TYPES[word.size_bytes])[:, 0] = value
    payloads = np.ascontiguousarray(messages).view(np.uint8).reshape(count, size)
    table[:, SLOT_HEADER_BYTES : SLOT_HEADER_BYTES + size] = payloads
    return slots
