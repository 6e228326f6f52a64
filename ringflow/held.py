"""A held kernel's regions, as other libraries can read them.

- A region is given where it lies: no copy is made unless one is asked for, or nothing else is
  possible.
- After the hold every call raises. An array that was made in it stays readable memory for as long
  as it lives, but what it shows is then the kernel's to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import attrs

from ringflow.device.api import gpu_of
from ringflow.errors import UnknownRegionError, UsageError
from ringflow.spec import DTYPE_BYTES
from ringflow.storage import region_digest

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import CapsuleType

    from ringflow.device.api import Allocation, Device
    from ringflow.spec import Region


@final
@attrs.define(eq=False)
class Hold:
    """The time in which a kernel is held on its device."""

    kernel_id: str
    device: Device
    _ended: bool = False

    def end(self) -> None:
        """Let no call on a region come through any more."""
        self._ended = True

    def check(self, region: str) -> None:
        """Raise ``UsageError`` after the end."""
        if self._ended:
            raise UsageError(
                f"kernel {self.kernel_id!r} is held no longer, and works on region {region!r}; use "
                "regions inside of the block, and copy what you keep"
            )


@final
class HeldRegion:
    """A region of a held kernel: an array for numpy, DLPack and, on GPUs, CuPy and the like.

    What is given is read-only: a kernel's state follows from its messages.
    """

    def __init__(self, region: Region, hold: Hold, allocation: Allocation) -> None:
        self.region = region
        self._hold, self._allocation = hold, allocation
        self._gpu = gpu_of(hold.device)
        self._copy: np.ndarray[Any, Any] | None = None
        self._loan: object = None

    def __repr__(self) -> str:
        name, dtype, shape = self.region.layout
        return f"HeldRegion({name!r}, {dtype=}, {shape=}, device={self._hold.device.name!r})"

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the region as a read-only array of its dtype and shape; copy what you keep.

        On a host device it is the region itself. From a GPU it is copied, at the first call, which
        takes its time: make that in a worker thread if the region is large.
        """
        import numpy as np

        self._hold.check(self.region.name)
        if self._copy is not None:
            return self._copy
        view = self._hold.device.view(self._allocation)
        memory = self._hold.device.copy_out(self._allocation) if view is None else view
        array = np.frombuffer(memory, dtype=self.region.dtype).reshape(self.region.shape)
        array.flags.writeable = False
        if view is None:
            self._copy = array
        return array

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the region's block digests, read where the region lies."""
        self._hold.check(self.region.name)
        return region_digest(self._hold.device.digest_blocks(self._allocation))

    # The array interfaces

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """Numpy's protocol: a copy where it takes one, or one is asked for.

        Raises:
            ValueError: ``copy`` is False, and it takes one.
        """
        import numpy as np

        self._hold.check(self.region.name)
        if copy is False and self._gpu is not None:
            raise ValueError("the region is in a GPU's memory; numpy needs a copy of it")
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Version 3, of a region in host memory only."""
        self._hold.check(self.region.name)
        if self._gpu is not None:
            raise AttributeError("the region is in a GPU's memory; use __cuda_array_interface__")
        return self.numpy().__array_interface__

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3, on GPUs only; no stream has to be waited for."""
        self._hold.check(self.region.name)
        if self._gpu is None:
            raise AttributeError("the region is in host memory; use DLPack or numpy")
        import numpy as np

        self._loan = self._loan or self._lent()  # whoever reads the interface keeps this object
        return {
            "shape": self.region.shape,
            "typestr": np.dtype(self.region.dtype).str,
            "data": (self._allocation.address, True),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """The type of the device, 1 for host memory and 2 for a GPU, and its ordinal."""
        from ringflow.dlpack import DeviceType

        self._hold.check(self.region.name)
        gpu = self._gpu
        return (DeviceType.CPU, 0) if gpu is None else (DeviceType.CUDA, gpu.ordinal)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> CapsuleType:
        """Return a capsule of the region, read-only, or of a copy in host memory.

        Args:
            stream: of the taker's; nothing has to be waited for, the kernel is at rest.
            max_version: without it, or below (1, 0), read-only can't be told: only a copy is given.
            dl_device: where it is to be: where it is, or in host memory.
            copy: True: a copy, in host memory. False: never one.
        Raises:
            BufferError: it can't be given so.
        """
        from ringflow.dlpack import DeviceType, Tensor, give

        here = self.__dlpack_device__()
        there = here if dl_device is None else (int(dl_device[0]), int(dl_device[1]))
        versioned = max_version is not None and max_version[0] >= 1
        copies = bool(copy) or there != here
        if copies and (there[0] != DeviceType.CPU or copy is False):
            raise BufferError(
                f"region {self.region.name!r} lies in {here}, and is copied to host memory only; "
                "take it as it is and copy it there"
            )
        if not (copies or versioned):
            raise BufferError(
                "the region is read-only, which only DLPack 1.0 can tell; use a library that asks "
                "for max_version=(1, 0), or ask for a copy"
            )
        if copies:
            owner: object = (array := self.numpy().copy())
            address = array.ctypes.data
        else:
            owner, address = self._lent(), self._allocation.address
        tensor = Tensor(
            address=address,
            dtype=self.region.dtype,
            element_bytes=DTYPE_BYTES[self.region.dtype],
            shape=self.region.shape,
            device=there,
            read_only=not copies,
        )
        return give(tensor, owner, versioned=versioned)

    def _lent(self) -> object:
        """Return what keeps the region's memory from being used for something else."""
        if self._gpu is None:
            return self._hold.device.view(self._allocation)
        if self.region.implicit:
            raise BufferError(
                f"{self.region.name!r} is a variable of the kernel's code, whose memory goes with "
                "the code; use .numpy(), or ask for a copy in host memory"
            )
        return self._gpu.lend(self._allocation)


@final
class HeldState(Mapping[str, HeldRegion]):
    """All regions of a held kernel by name, after the message ``applied_sequence``.

    A name that none has raises ``UnknownRegionError``, which is a ``KeyError`` too.
    """

    def __init__(self, regions: Sequence[HeldRegion], applied_sequence: int) -> None:
        self._regions = {one.region.name: one for one in regions}
        self.applied_sequence = applied_sequence

    def __repr__(self) -> str:
        names = ", ".join(self._regions)
        return f"HeldState({names}; applied_sequence={self.applied_sequence})"

    def __getitem__(self, name: str) -> HeldRegion:
        try:
            return self._regions[name]
        except KeyError:
            raise UnknownRegionError(name, tuple(self._regions)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._regions)

    def __len__(self) -> int:
        return len(self._regions)
