"""Arrays of other libraries in GPUs' memory, copied to the host.

- The stream that makes an array is waited for by an event, with a deadline; nothing waits for a
  whole context.
- On a GPU that is open here the device's pinned buffers and stream are used, beside whatever runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from ringflow.arrays import DeviceArray
from ringflow.device.cuda import driver
from ringflow.device.cuda.context import ends_within, made_current
from ringflow.device.cuda.device import opened_on
from ringflow.errors import DeviceError, DeviceLostError

READY_DEADLINE_S: Final = 60.0
"""For what a program has queued on its stream before it passed an array."""


def copy_out(array: DeviceArray) -> memoryview:
    """Return a copy of an array's bytes: uint8[n]; it blocks.

    Raises:
        DeviceError: the address is in no GPU's memory, its stream does not come to an end, or the
            driver refuses the copy.
        DeviceLostError: the GPU's context is lost.
    """
    if not array.size_bytes:
        return memoryview(b"")
    driver.start()
    ordinal = _ordinal_of(array)
    device = opened_on(ordinal)
    try:
        if device is None:
            with _current(ordinal):
                _await_producer(array)
                return _copied(array)
        with device.context.current():
            _await_producer(array)
        return device.staging.copy_out(array.address, array.size_bytes)
    except DeviceError as error:
        if device is None:
            raise driver.told_as_lost(error, f"cuda:{ordinal}") from error
        raise device.context.noted(error) from error


def _await_producer(array: DeviceArray) -> None:
    if array.stream:
        _await(array.stream, f"what makes the array of {array.library}, on its stream,")


def _ordinal_of(array: DeviceArray) -> int:
    """Return which GPU an address belongs to: addresses are unique in a process."""
    attribute = driver.bindings().CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    error = DeviceError("no GPU is in use here", call="cuDevicePrimaryCtxGetState")
    for ordinal in filter(_is_used, range(driver.call("cuDeviceGetCount"))):
        try:
            with _current(ordinal):
                return int(driver.call("cuPointerGetAttribute", attribute, array.address))
        except DeviceError as found:
            error = driver.told_as_lost(found, f"cuda:{ordinal}")
        if not isinstance(error, DeviceLostError):  # of all that live each would say the same
            break
    if isinstance(error, DeviceLostError):
        raise error
    raise DeviceError(
        f"the array of {array.library} at {array.address:#x} is in no GPU's memory that this "
        f"process has ({error}); pass one that was made here and not freed",
        call=error.call,
        code=error.code,
    ) from error


def _is_used(ordinal: int) -> bool:
    _, active = driver.call("cuDevicePrimaryCtxGetState", driver.call("cuDeviceGet", ordinal))
    return bool(active)


@contextlib.contextmanager
def _current(ordinal: int) -> Iterator[None]:
    """Make a GPU's primary context the thread's for the block."""
    device = driver.call("cuDeviceGet", ordinal)
    context = driver.call("cuDevicePrimaryCtxRetain", device)
    try:
        with made_current(context):
            yield
    finally:
        driver.give_back("cuDevicePrimaryCtxRelease", device)


def _copied(array: DeviceArray) -> memoryview:
    import numpy as np

    target = np.empty(array.size_bytes, np.uint8)
    flags = driver.bindings().CUstream_flags
    stream = driver.call("cuStreamCreate", flags.CU_STREAM_NON_BLOCKING)
    try:
        driver.call(
            "cuMemcpyDtoHAsync", target.ctypes.data, array.address, array.size_bytes, stream
        )
        _await(stream, "cuMemcpyDtoHAsync")
    finally:
        driver.give_back("cuStreamDestroy", stream)
    return target.data


def _await(stream: Any, what: str) -> None:
    """Block until all that is on a stream by now has ended."""
    flags = driver.bindings().CUevent_flags
    event = driver.call("cuEventCreate", flags.CU_EVENT_DISABLE_TIMING)
    try:
        driver.call("cuEventRecord", event, stream)
        if not ends_within(READY_DEADLINE_S, partial(driver.ask, "cuEventQuery", event)):
            raise DeviceError(
                f"{what} has not come to its end within {READY_DEADLINE_S:g} s; look for a "
                "kernel on it that waits for something",
                call="cuEventQuery",
                code="timeout",
            )
    finally:
        driver.give_back("cuEventDestroy", event)
