"""Slots made by numpy are those made one by one."""

from __future__ import annotations

import numpy as np
import pytest

from ringflow.device.posting import Posting, encode_slots
from ringflow.device.slots import encode_array
from ringflow.errors import LimitExceededError
from tests.device.kernels import spec

PAIR = np.dtype([("count", "<u4"), ("value", "<f8")])


@pytest.mark.parametrize("dtype", [np.dtype("u1"), np.dtype("<u8"), PAIR, np.dtype("V96")])
@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_array_is_encoded_as_its_items(dtype: np.dtype[np.void], count: int) -> None:
    """Header and payload, up to the largest; strided arrays too."""
    data = np.random.default_rng(count).integers(0, 256, 2 * count * dtype.itemsize, np.uint8)
    messages = data.view(dtype)[::2]
    postings = [
        Posting(41 + i, 7, item.tobytes(), correlation=(1 << 40) + i)
        for i, item in enumerate(messages)
    ]
    encoded = encode_array(spec("echo"), messages, type=7, first_sequence=41, correlation=1 << 40)
    assert encoded == encode_slots(spec("echo"), postings)


def test_items_too_large_are_refused() -> None:
    """The error says what to raise."""
    with pytest.raises(LimitExceededError, match="slot_bytes"):
        encode_array(spec("echo"), np.zeros(3, "V97"), type=1, first_sequence=1)
