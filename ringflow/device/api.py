"""The ``Device`` protocol: memory, code and launches, the same for host and CUDA devices.

- Every call is synchronous and may block; async code runs it in a worker thread.
- Copies and digests act on the device's own memory, never on a host copy of it.
- A launch outlives the call that made it; ``Launch.status`` is read without blocking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Protocol, cast

import attrs

from ringflow.device.abi import KernelState
from ringflow.device.compiler.api import CompiledCode, CompileTarget
from ringflow.files import Buffer
from ringflow.spec import DTYPE_BYTES, GLOBAL_PREFIX, Dim3, Region


class LaunchStatus(IntEnum):
    """Where a launch is; the values are those of the native scheduler's status word."""

    RUNNING = 0
    COMPLETED = 1
    TRAPPED = 2
    ABORTED = 3


def outcome(status: LaunchStatus, state: KernelState) -> LaunchStatus:
    """Return what has become of a grid that said ``state`` last.

    One that has ended and did not say that it obeys a RETURN left its loop by itself: whatever it
    was doing may be half done, as after a trap.
    """
    left = status is LaunchStatus.COMPLETED and state is not KernelState.RETURNING
    return LaunchStatus.TRAPPED if left else status


@attrs.frozen
class DeviceGlobal:
    """A ``__device__`` variable that loaded code writes to: an implicit region.

    It is an ``Allocation`` to copies, digests and views, for as long as its code is loaded.

    Attributes:
        name: readable, and unique in the code.
        dtype: numpy's name of its elements' type; ``uint8`` where it is a struct.
    """

    name: str
    size_bytes: int
    address: int
    dtype: str = "uint8"

    @property
    def label(self) -> str:
        return f"{GLOBAL_PREFIX}{self.name}"

    @property
    def region(self) -> Region:
        """The variable as a region of its kernel's state."""
        count = self.size_bytes // DTYPE_BYTES[self.dtype]
        return Region(self.label, dtype=self.dtype, shape=(count,))


class Allocation(Protocol):
    """A piece of a device's memory."""

    @property
    def address(self) -> int:
        """The address as kernels see it."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def label(self) -> str: ...


class MappedAllocation(Allocation, Protocol):
    """Host memory that kernels see too."""

    @property
    def host_address(self) -> int:
        """The address as the host's native code sees it."""


class LoadedCode(Protocol):
    """Code that is ready to launch on one device."""

    @property
    def parameter_sizes(self) -> Mapping[str, tuple[int, ...]]:
        """Parameter sizes in bytes by kernel name."""

    @property
    def globals(self) -> tuple[DeviceGlobal, ...]:
        """The variables that are state, as far as they can be listed."""

    @property
    def unlisted(self) -> str:
        """Why there is state that can't be listed or carried elsewhere; empty where all can."""


class Launch(Protocol):
    """A grid that was launched."""

    @property
    def status(self) -> LaunchStatus: ...
    @property
    def detail(self) -> str:
        """What trapped and where; empty unless the status is ``TRAPPED``."""

    @property
    def log(self) -> str:
        """What the kernel has printed, as far as it is kept; empty where the device has no log."""

    @property
    def status_address(self) -> int:
        """Where native code reads the status (uint32); 0 where only this object knows it."""

    def wait(self, timeout_s: float) -> LaunchStatus:
        """Block until the grid has ended or the time is up; return the status."""

    def abort(self) -> None:
        """Stop running the grid's threads; its memory is then not to be trusted."""


class Device(Protocol):
    """A place where kernels run."""

    @property
    def name(self) -> str:
        """``"host:0"``, ``"cuda:1"``."""

    @property
    def uuid(self) -> str: ...
    @property
    def target(self) -> CompileTarget: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def free_bytes(self) -> int: ...
    @property
    def rings(self) -> bool:
        """Whether its kernels' news wake the host; else whoever waits looks again and again."""

    @property
    def loads_while_running(self) -> bool:
        """Whether code can be loaded while a grid runs; else the grids have to return first."""

    @property
    def lost(self) -> str:
        """Why the device, and all that was on it, is lost until the process ends; empty if not."""

    def allocate(self, size_bytes: int, *, label: str) -> Allocation:
        """Take zeroed memory; raises ``DeviceMemoryError``."""

    def allocate_mapped(self, size_bytes: int, *, label: str) -> MappedAllocation:
        """Take zeroed host memory that kernels see; 128-byte aligned."""

    def free(self, allocation: Allocation) -> None: ...
    def copy_in(self, target: Allocation, data: Buffer, *, offset_bytes: int = 0) -> None: ...
    def copy_out(
        self, source: Allocation, *, offset_bytes: int = 0, size_bytes: int | None = None
    ) -> memoryview:
        """Return a copy (uint8) of device memory."""

    def view(self, source: Allocation) -> memoryview | None:
        """Return device memory itself where the host can address it, else ``None``."""

    def copy_to_peer(self, source: Allocation, peer: Device, target: Allocation) -> str:
        """Copy a whole allocation to a device, which may be this one; return the path it took.

        ``"host"``: an end is the host's memory; ``"nvlink"``, ``"pcie peer"``: from GPU to GPU;
        ``"device"``: within one GPU; ``"staged"``: between GPUs, or within one, by way of the
        host's memory.
        """

    def digest_blocks(self, source: Allocation) -> bytes:
        """Return the 16-byte xxh3-128 of each 64 KiB block, read from the device's memory."""

    def load(self, code: CompiledCode) -> LoadedCode:
        """Make code ready to launch; raises ``UnsupportedPtxError`` and other ``DeviceError``."""

    def unload(self, code: LoadedCode) -> None: ...
    def grid_that_fits(
        self, code: LoadedCode, entry_point: str, block: Dim3, *, dynamic_shared_bytes: int = 0
    ) -> int:
        """Return how many blocks can be resident at once (``grid="fill"``)."""

    def launch(
        self,
        code: LoadedCode,
        entry_point: str,
        *,
        grid: Dim3,
        block: Dim3,
        parameters: tuple[bytes, ...],
        dynamic_shared_bytes: int = 0,
        memory: Sequence[Allocation] | None = None,
    ) -> Launch:
        """Launch a grid; all of its blocks are resident together.

        Args:
            memory: what the kernel may touch, for devices that check it; by default everything.
        """

    def close(self) -> None:
        """Give everything back; raises ``DeviceError`` while a launch lives."""


class Gpu(Protocol):
    """What other libraries need of a device to read its memory themselves."""

    @property
    def ordinal(self) -> int:
        """The GPU's number among those that this process sees."""

    def lend(self, allocation: Allocation) -> object:
        """Keep an allocation's memory as it is, freed or not, for as long as the result lives."""


def gpu_of(device: Device) -> Gpu | None:
    """Return a device as the GPU that it is, ``None`` for one in host memory."""
    return cast(Gpu, device) if hasattr(device, "lend") else None


def check_room(device: Device, grid: Dim3) -> None:
    """Raise ``LimitExceededError`` if a device can say without the code that a grid has no room."""
    if (check := getattr(device, "check_room", None)) is not None:
        check(grid)


class Stepping(Protocol):
    """What moves a device whose kernels go on only when they are told to; the time is virtual."""

    def run_rounds(self, count: int) -> bool:
        """Make rounds; return whether something went on in the last one."""

    def run_until(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        """Make rounds until something is so, nothing goes on, or the time is up."""


def stepping_of(device: Device) -> Stepping | None:
    """Return what has to move a device's kernels, ``None`` if they go on by themselves."""
    stepping: Stepping | None = getattr(device, "stepping", None)
    return stepping
