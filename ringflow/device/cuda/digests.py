"""Digests of device memory by a kernel: xxh3-128 of each 64 KiB block, read where it lies.

- The kernel is loaded when the device is opened, before any grid lives: a load may wait for grids.
- It needs SMs, so it runs only where the ledger has room for it; who gets None reads the memory
  through staging and digests it on the host: slower, and the same digests.
- It ends by itself. ``alone`` keeps launches and loads, which would be refused while it runs,
  waiting for that instead.
"""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Final, final

from ringflow.device.api import LaunchStatus
from ringflow.device.compiler.api import CompiledCode, CompileTarget, compile_source
from ringflow.device.compiler.cache import CompileCache
from ringflow.device.cuda.arena import CudaAllocation
from ringflow.device.cuda.code import CudaCode
from ringflow.device.cuda.context import CudaContext
from ringflow.device.cuda.launches import CudaLaunch, Launches
from ringflow.errors import DeviceError
from ringflow.storage.blocks import BLOCK_BYTES, BLOCK_DIGEST_BYTES, block_count

DIGEST_ENTRY_POINT: Final = "ringflow_digest_blocks"
DIGEST_BUFFER_BYTES: Final = 64 << 10
"""Mapped memory for the digests of one launch: those of 256 MiB."""
DIGEST_DEADLINE_S: Final = 10.0

_THREADS: Final = 256
_SOURCE: Final = Path(__file__).with_name("digests.cu")
_NO_ROOM: Final = ("does not fit", "queues")


def digest_source() -> str:
    """Return the kernel's CUDA C++."""
    return _SOURCE.read_text(encoding="utf-8")


def compile_digests(target: CompileTarget) -> CompiledCode | None:
    """Return the kernel for a target, None where there is no compiler for it."""
    try:
        return compile_source(
            digest_source(),
            entry_point=DIGEST_ENTRY_POINT,
            target=target,
            name="digests.cu",
            cache=CompileCache.default(),
        )
    except DeviceError as error:
        if error.code == "compile failed":  # of ringflow's own source: a fault that must be seen
            raise
        return None


@final
class DigestKernel:
    """The loaded kernel of one device.

    Attributes:
        alone: hold it to launch or load something.
    """

    def __init__(
        self, context: CudaContext, launches: Launches, code: CudaCode, buffer: CudaAllocation
    ) -> None:
        """Take what the kernel needs.

        Args:
            buffer: mapped memory, ``DIGEST_BUFFER_BYTES``.
        """
        self.alone = threading.RLock()
        self._context, self._launches, self._code = context, launches, code
        self._buffer = buffer
        self._late: CudaLaunch | None = None
        with context.current():
            kernel = code.kernel(DIGEST_ENTRY_POINT)
            self._occupancy = kernel.occupancy(context, _THREADS, 0)

    def digest(self, address: int, size_bytes: int) -> bytes | None:
        """Return the digests of device memory's blocks; None where there is no room for the kernel.

        Raises:
            DeviceError: the driver refuses, or the context is lost.
        """
        digests = bytearray()
        step_bytes = DIGEST_BUFFER_BYTES // BLOCK_DIGEST_BYTES * BLOCK_BYTES
        with self.alone:
            for start in range(0, size_bytes, step_bytes):
                piece_bytes = min(step_bytes, size_bytes - start)
                made = self._digest(address + start, piece_bytes)
                if made is None:
                    return None
                digests += made
        return bytes(digests)

    def _digest(self, address: int, size_bytes: int) -> bytes | None:
        if self._late is not None and self._late.status is LaunchStatus.RUNNING:
            return None  # it may still write to the buffer
        count = block_count(size_bytes)
        grid = min(count, self._launches.ledger.fitting(self._occupancy))
        if not grid:
            return None
        numbers = (address, size_bytes, self._buffer.address)
        try:
            with self._context.current():
                launch = self._launches.launch(
                    self._code,
                    self._code.kernel(DIGEST_ENTRY_POINT),
                    grid=(grid, 1, 1),
                    block=(_THREADS, 1, 1),
                    parameters=tuple(number.to_bytes(8, "little") for number in numbers),
                    shared_bytes=0,
                    claims=frozenset((address, self._buffer.address)),
                )
        except DeviceError as error:
            if error.code in _NO_ROOM:
                return None
            raise
        status = launch.wait(DIGEST_DEADLINE_S)
        if status is LaunchStatus.RUNNING:  # something outside of the ledger holds the SMs
            self._late = launch
            return None
        self._context.check()
        if status is not LaunchStatus.COMPLETED:
            raise DeviceError(
                f"the digests of memory on {self._context.name!r} ended {status.name.lower()}: "
                f"{launch.detail or 'no reason is known'}; report it",
                call="digest_blocks",
                code=status.name.lower(),
            )
        return ctypes.string_at(self._buffer.host_address, count * BLOCK_DIGEST_BYTES)
