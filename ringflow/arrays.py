"""Arrays of whatever library: in host memory as numpy arrays, in a GPU's as what a driver can copy.

- Nothing is copied here, and no driver is asked: a GPU's array is an address and a stream.
- A GPU's array is taken in the caller's thread, since its library knows the present stream by it.
- An array of a GPU is C-contiguous, or refused.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import attrs

from ringflow.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from ringflow.dlpack import Taken, Tensor
    from ringflow.files import Buffer

LEGACY_STREAM: Final = 1
"""The default stream, by the name that all three protocols have for it."""
_NO_STREAM: Final = 0
_UNSYNCHRONISED: Final = -1


class SupportsDLPack(Protocol):
    """An array of a library that speaks DLPack."""

    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __dlpack__(self) -> object: ...


class SupportsCudaArray(Protocol):
    """An array in a GPU's memory, of a library that speaks ``__cuda_array_interface__``."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


class SupportsArray(Protocol):
    """What numpy can make an array of."""

    def __array__(self) -> np.ndarray[Any, Any]: ...


if TYPE_CHECKING:
    ArrayLike = Buffer | np.ndarray[Any, Any] | SupportsDLPack | SupportsCudaArray | SupportsArray


@final
@attrs.frozen(eq=False, kw_only=True)
class DeviceArray:
    """Another library's array in a GPU's memory: C-contiguous, and kept alive by this value.

    Attributes:
        dtype: by numpy's name where it has one.
        address: of the first element, as kernels and the driver see it.
        stream: the handle of the stream that must have come here before the array is read;
            0 where there is nothing to wait for.
        library: whose it is, for messages.
    """

    dtype: str
    element_bytes: int
    shape: tuple[int, ...]
    address: int
    stream: int
    library: str
    _owner: object = attrs.field(repr=False)

    @property
    def size_bytes(self) -> int:
        size = self.element_bytes
        for n in self.shape:
            size *= n
        return size


def taken(given: Any) -> np.ndarray[Any, Any] | DeviceArray:
    """Return an array of any library without copying it.

    It may have ``__cuda_array_interface__``, ``__dlpack__``, ``__array_interface__``,
    ``__array__`` or the buffer protocol.
    Raises:
        UsageError: it is none, its library does not give it, or its memory is of no use here.
    """
    import numpy as np

    if isinstance(given, DeviceArray):
        return given
    if isinstance(given, np.ndarray):
        return _with_bytes(given, given)
    interface = _cuda_interface(given)
    if interface is not None and "stream" in interface:
        return _from_interface(given, interface, interface["stream"])
    if hasattr(given, "__dlpack_device__"):
        return _from_dlpack(given, LEGACY_STREAM)
    if interface is not None:
        return _from_interface(given, interface, None)
    return _from_host(given)


def on_stream(array: Any, stream: Any) -> DeviceArray:
    """Say on which stream a GPU's array becomes ready, where its library doesn't say so itself.

    Args:
        array: with ``__cuda_array_interface__`` or ``__dlpack__``, in a GPU's memory.
        stream: with ``__cuda_stream__``, or a handle as a number; it must live until the array
            was sent or its kernel was launched.
    Raises:
        UsageError: the array is not in a GPU's memory, or the stream is none.
    """
    handle = _handle(stream)
    interface = _cuda_interface(array)
    if interface is not None:
        return _from_interface(array, interface, handle)
    if hasattr(array, "__dlpack_device__"):
        found = _from_dlpack(array, _UNSYNCHRONISED)
        if isinstance(found, DeviceArray):
            return attrs.evolve(found, stream=handle, owner=found)
    raise UsageError(
        f"{_name(array)} is not in a GPU's memory, where streams are; pass it without one"
    )


def _handle(stream: Any) -> int:
    if hasattr(stream, "__cuda_stream__"):
        told = stream.__cuda_stream__
        version, handle = told() if callable(told) else told
        if version != 0:
            raise UsageError(
                f"{_name(stream)} speaks version {version} of __cuda_stream__, 0 is understood; "
                "pass its handle as a number"
            )
        return int(handle) or LEGACY_STREAM
    if isinstance(stream, int) and stream > 0:
        return stream
    raise UsageError(
        f"{stream!r} is no stream; pass an object with __cuda_stream__, or a stream's handle "
        "(1 is the default stream, 2 the thread's own)"
    )


def _name(given: object) -> str:
    kind = type(given)
    return f"{kind.__module__.split('.')[0]}.{kind.__qualname__}"


def _from_host(given: Any) -> np.ndarray[Any, Any]:
    import numpy as np

    if isinstance(given, str):
        raise UsageError("text has no bytes before it is encoded; pass text.encode()")
    if isinstance(given, bytes):  # numpy takes them for a text
        return np.frombuffer(given, np.uint8)
    try:
        array = np.asarray(given)
    except Exception as error:  # whatever another library's conversion raises
        raise UsageError(f"{_name(given)} is no array: {error}; pass one") from error
    return _with_bytes(given, array)


def _with_bytes(given: Any, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype.hasobject:
        raise UsageError(f"{_name(given)} of dtype {array.dtype} has no bytes; pass numbers")
    return array


# __cuda_array_interface__, version 3: numba's documentation of it


def _cuda_interface(given: Any) -> dict[str, Any] | None:
    try:
        interface = getattr(given, "__cuda_array_interface__", None)
    except Exception as error:  # PyTorch: a tensor that requires gradients
        raise UsageError(f"{_name(given)} does not give its memory: {error}") from error
    if interface is not None and not {"shape", "typestr", "data"} <= interface.keys():
        raise UsageError(
            f"the __cuda_array_interface__ of {_name(given)} lacks shape, typestr or data; pass "
            "an array that has them"
        )
    return interface


def _from_interface(given: Any, interface: dict[str, Any], stream: int | None) -> DeviceArray:
    if interface.get("mask") is not None:
        raise UsageError(f"{_name(given)} has a mask, which is not taken along; pass plain numbers")
    if stream == 0:
        raise UsageError(
            f"{_name(given)} names stream 0, which could be one of two; pass it through "
            "ringflow.on_stream with stream 1 for the default stream"
        )
    dtype = _dtype(given, str(interface["typestr"]))
    shape = tuple(int(n) for n in interface["shape"])
    strides = interface.get("strides")
    _check_contiguous(given, shape, strides, dtype.itemsize)
    return DeviceArray(
        dtype=str(dtype),
        element_bytes=dtype.itemsize,
        shape=shape,
        address=int(interface["data"][0] or 0),
        stream=_NO_STREAM if stream is None else int(stream),
        library=_name(given),
        owner=given,
    )


def _dtype(given: Any, typestr: str) -> np.dtype[Any]:
    import numpy as np

    try:
        dtype = np.dtype(typestr)
    except (TypeError, ValueError):
        dtype = np.dtype(object)
    if dtype.hasobject or not dtype.itemsize:
        raise UsageError(
            f"{_name(given)} has the type {typestr!r}, which has no bytes; use another"
        )
    return dtype


def _check_contiguous(given: Any, shape: tuple[int, ...], strides: Any, unit: int) -> None:
    """Raise unless the strides, in bytes if ``unit`` is an element's, are those of C order."""
    if strides is None or 0 in shape:
        return
    step = unit
    for n, stride in zip(reversed(shape), reversed(tuple(strides)), strict=True):
        if n != 1 and stride != step:
            raise UsageError(
                f"{_name(given)} of shape {shape} is not contiguous in C order; pass a copy that "
                "is: ascontiguousarray(...) in CuPy, .contiguous() in PyTorch"
            )
        step *= n


# DLPack


def _from_dlpack(given: Any, stream: int) -> np.ndarray[Any, Any] | DeviceArray:
    from ringflow.dlpack import DeviceType, take

    try:
        kind = int(given.__dlpack_device__()[0])
        is_gpu = kind in (DeviceType.CUDA, DeviceType.CUDA_MANAGED)
        if not is_gpu and kind not in (DeviceType.CPU, DeviceType.CUDA_HOST):
            raise UsageError(
                f"{_name(given)} lies in memory of another kind (DLPack's number {kind}); copy it "
                "to the host first"
            )
        found = take(_capsule(given, stream if is_gpu else None))
    except UsageError:
        raise
    except Exception as error:  # whatever its library raises
        raise UsageError(f"{_name(given)} does not give its memory: {error}") from error
    return _device_array(given, found, stream) if is_gpu else _host_array(found)


def _capsule(given: Any, stream: int | None) -> object:
    options = {} if stream is None else {"stream": stream}
    try:
        return given.__dlpack__(max_version=(1, 0), **options)
    except TypeError:  # its library is of before DLPack 1.0
        return given.__dlpack__(**options)


def _device_array(given: Any, found: Taken, stream: int) -> DeviceArray:
    tensor = found.tensor
    try:
        _check_contiguous(given, tensor.shape, tensor.strides, 1)
    except UsageError:
        found.release()
        raise
    made = DeviceArray(
        dtype=tensor.dtype,
        element_bytes=tensor.element_bytes,
        shape=tensor.shape,
        address=tensor.address,
        stream=max(stream, _NO_STREAM),
        library=_name(given),
        owner=given,
    )
    weakref.finalize(made, found.release).atexit = False
    return made


def _host_array(found: Taken) -> np.ndarray[Any, Any]:
    """Return host memory as an array that gives the tensor back with its last view."""
    import numpy as np

    tensor = found.tensor
    try:
        dtype = np.dtype(tensor.dtype)
    except TypeError:  # bfloat16 and the like: numbers without a name, but bytes
        dtype = np.dtype(f"V{tensor.element_bytes}")
    if 0 in tensor.shape:
        found.release()
        return np.empty(tensor.shape, dtype)
    first, size_bytes, strides = _extent(tensor)
    memory = (ctypes.c_uint8 * size_bytes).from_address(first)
    weakref.finalize(memory, found.release).atexit = False
    array: np.ndarray[Any, Any] = np.ndarray(
        tensor.shape, dtype, memoryview(memory).cast("B"), tensor.address - first, strides
    )
    array.flags.writeable = not tensor.read_only
    return array


def _extent(tensor: Tensor) -> tuple[int, int, tuple[int, ...] | None]:
    """Return where a tensor's bytes begin, how many there are, and its strides in bytes."""
    size_bytes = tensor.element_bytes
    if tensor.strides is None:
        for n in tensor.shape:
            size_bytes *= n
        return tensor.address, size_bytes, None
    strides = tuple(stride * tensor.element_bytes for stride in tensor.strides)
    spans = [(n - 1) * stride for n, stride in zip(tensor.shape, strides, strict=True)]
    before = sum(span for span in spans if span < 0)
    after = sum(span for span in spans if span > 0)
    return tensor.address + before, size_bytes + after - before, strides
