"""Arrays of no library: what speaks the array protocols, over memory that a test has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ringflow.dlpack import DeviceType, Tensor, give

if TYPE_CHECKING:
    from typing_extensions import CapsuleType


class Capsules:
    """Speaks DLPack over a numpy array's memory; says that it lies where a test says."""

    def __init__(
        self,
        array: np.ndarray[Any, Any],
        *,
        device: tuple[int, int] = (DeviceType.CPU, 0),
        knows_versions: bool = True,
        read_only: bool = False,
        address: int | None = None,
    ) -> None:
        self.array, self.device, self.knows_versions = array, device, knows_versions
        self.read_only = read_only
        self.address = array.ctypes.data if address is None else address
        self.streams: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> CapsuleType:
        if options and not self.knows_versions:
            raise TypeError(f"unexpected arguments {options}")
        self.streams.append(stream)
        tensor = Tensor(
            address=self.address,
            dtype=str(self.array.dtype),
            element_bytes=self.array.itemsize,
            shape=self.array.shape,
            strides=tuple(stride // self.array.itemsize for stride in self.array.strides),
            device=self.device,
            read_only=self.read_only,
        )
        return give(tensor, self.array, versioned=self.knows_versions)


class CudaArray:
    """Speaks ``__cuda_array_interface__``; what it says is the test's to choose."""

    def __init__(self, address: int, shape: tuple[int, ...], typestr: str, **more: Any) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": shape,
            "typestr": typestr,
            "version": 3,
            "strides": None,
            **more,
        }


class Stream:
    """Speaks ``__cuda_stream__``."""

    def __init__(self, handle: int, version: int = 0) -> None:
        self._told = version, handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return self._told
