"""DLPack: arrays that pass between libraries as capsules, with no library but numpy needed.

- Both forms are read and written: the versioned one (1.x), and the one before it.
- No Python code runs when a capsule or a taker's array goes: an error may be on its way then.
- What a capsule names stays alive until the deleter is called; it is called once.
- Nothing here touches the memory, or asks a driver: addresses are numbers.

Source: the DLPack specification 1.1 (dlpack.h) and the array API's "Data interchange mechanisms".
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, final

import attrs

from ringflow.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import CapsuleType

VERSION: Final = (1, 0)
READ_ONLY: Final = 1
_PLAIN, _VERSIONED = b"dltensor", b"dltensor_versioned"


class DeviceType(IntEnum):
    """``DLDeviceType``, as far as it is met here."""

    CPU = 1
    CUDA = 2
    CUDA_HOST = 3
    CUDA_MANAGED = 13


_KINDS: Final = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


def _python(name: str, result: Any, *arguments: Any) -> Any:
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_is_valid = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_pointer = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_set_name = _python("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_void_p)

_USED: Final = {name: ctypes.c_char_p(b"used_" + name) for name in (_PLAIN, _VERSIONED)}


def _address_of_name(name: ctypes.c_char_p) -> int:
    """Capsules keep the address of their name: these texts live as long as the process."""
    return ctypes.cast(name, ctypes.c_void_p).value or 0


@attrs.frozen(kw_only=True)
class Tensor:
    """An array as DLPack tells it.

    Attributes:
        address: of the first element; 0 is allowed where there is none.
        dtype: such as ``"float32"``, ``"bfloat16"``, ``"bool"``; with lanes ``"float32x4"``.
        element_bytes: of an element, all its lanes.
        strides: in elements; None for C order.
        device: type and ordinal.
    """

    address: int
    dtype: str
    element_bytes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    device: tuple[int, int] = (DeviceType.CPU, 0)
    read_only: bool = False


@final
class Taken:
    """A tensor that was taken out of its capsule; ``release`` gives it back to its library."""

    def __init__(self, tensor: Tensor, release: Callable[[], None]) -> None:
        self.tensor = tensor
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Call the library's deleter; a second call does nothing."""
        release, self._release = self._release, None
        if release is not None:
            release()


def take(capsule: object) -> Taken:
    """Take the tensor out of a capsule, which is then used up.

    Raises:
        UsageError: it is no capsule of DLPack, was used before, or has a version that is unknown.
    """
    for name in (_VERSIONED, _PLAIN):
        if type(capsule).__name__ == "PyCapsule" and _is_valid(id(capsule), name):
            break
    else:
        raise UsageError(
            f"{capsule!r} is no DLPack capsule, or was used before; pass the array itself"
        )
    at = _pointer(id(capsule), name)
    made: _Managed | _ManagedVersioned
    read_only = False
    if name == _VERSIONED:
        made = _ManagedVersioned.from_address(at)
        if made.major > VERSION[0]:
            raise UsageError(
                f"the array comes in DLPack {made.major}.{made.minor}, at most {VERSION[0]}.x is "
                "understood; ask its library for max_version=(1, 0)"
            )
        read_only = bool(made.flags & READ_ONLY)
    else:
        made = _Managed.from_address(at)
    tensor = _read(made.tensor, read_only)
    deleter = made.deleter
    _set_name(capsule, _address_of_name(_USED[name]))
    return Taken(tensor, lambda: _Deleter(deleter)(at) if deleter else None)


def _read(found: _Tensor, read_only: bool) -> Tensor:
    kind, bits, lanes = _KINDS.get(found.dtype.code), found.dtype.bits, found.dtype.lanes
    dtype = "bool" if (kind, bits) == ("bool", 8) else f"{kind or f'type{found.dtype.code}_'}{bits}"
    return Tensor(
        address=(found.data or 0) + found.byte_offset,
        dtype=dtype if lanes == 1 else f"{dtype}x{lanes}",
        element_bytes=-(-bits * lanes // 8),
        shape=tuple(found.shape[i] for i in range(found.ndim)),
        strides=tuple(found.strides[i] for i in range(found.ndim)) if found.strides else None,
        device=(found.device.type, found.device.id),
        read_only=read_only,
    )


@final
@attrs.frozen(eq=False)
class _Given:
    """What numpy makes an array of that keeps ``owner``; nothing is read at the address."""

    __array_interface__: Mapping[str, Any]
    owner: object


_given: weakref.WeakSet[_Given] = weakref.WeakSet()


def give(tensor: Tensor, owner: object, *, versioned: bool) -> CapsuleType:
    """Return a capsule; ``owner`` is kept until whoever takes it has called its deleter.

    The capsule is numpy's, which tells of host memory: whose memory it is, is corrected in it.

    Args:
        versioned: whether the taker knows DLPack 1.x, in which alone ``read_only`` can be told.
    """
    import numpy as np

    dtype, strides = np.dtype(tensor.dtype), tensor.strides
    given = _Given(
        {
            "data": (tensor.address, tensor.read_only and versioned),
            "shape": tensor.shape,
            "typestr": dtype.str,
            "strides": strides and tuple(stride * dtype.itemsize for stride in strides),
            "version": 3,
        },
        owner,
    )
    _given.add(given)
    capsule: CapsuleType = np.asarray(given).__dlpack__(max_version=VERSION if versioned else None)
    at = _pointer(id(capsule), _VERSIONED if versioned else _PLAIN)
    made = (_ManagedVersioned if versioned else _Managed).from_address(at)
    made.tensor.device = _Device(*tensor.device)
    return capsule


def given_count() -> int:
    """Return how many tensors were given away and not deleted yet."""
    return len(_given)
