"""The bytes of other libraries' arrays, wherever they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ringflow.arrays import DeviceArray

if TYPE_CHECKING:
    import numpy as np


def read(array: np.ndarray[Any, Any] | DeviceArray) -> memoryview:
    """Return an array's bytes in C order: uint8[n], a copy unless they lie so in host memory.

    It may block: call it in a worker thread.
    Raises:
        DeviceError: an array in a GPU's memory can't be read.
    """
    import numpy as np

    if isinstance(array, DeviceArray):
        from ringflow.device.cuda.foreign import copy_out

        return copy_out(array)
    flat: np.ndarray[Any, Any] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat.data
