"""What is done with a GPU's memory where it lies, by kernels of ringflow's: digests, and copies.

- They are loaded when the device is opened, before any grid lives: a load may wait for grids.
- They need SMs and a word of mapped memory, so they run only where there is room for them; who is
  told that there is none goes through staging: slower, and the same bytes.
- They end by themselves. ``Grids.alone`` keeps launches and loads, which would be refused while
  one runs, waiting for that instead.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final, final

from ringflow.device.api import LaunchStatus
from ringflow.device.compiler.api import CompiledCode, CompileTarget, compile_source
from ringflow.device.compiler.cache import CompileCache
from ringflow.device.cuda.arena import CudaAllocation
from ringflow.device.cuda.code import CudaCode
from ringflow.device.cuda.context import CudaContext
from ringflow.device.cuda.launch import CudaLaunch
from ringflow.device.cuda.launches import Launches
from ringflow.errors import DeviceError, DeviceMemoryError
from ringflow.storage.blocks import BLOCK_BYTES, BLOCK_DIGEST_BYTES, block_count

DIGEST_ENTRY_POINT: Final = "ringflow_digest_blocks"
COPY_ENTRY_POINT: Final = "ringflow_copy_bytes"
DIGEST_BUFFER_BYTES: Final = 64 << 10
"""Mapped memory for the digests of one launch: those of 256 MiB."""
DEADLINE_S: Final = 10.0
"""For one launch: no more than 256 MiB are digested, or ``COPY_BYTES`` copied, by one."""
COPY_BYTES: Final = 1 << 30
THREADS: Final = 256

_FOLDER: Final = Path(__file__).parent
_COPY_BLOCK_BYTES: Final = 64 << 10
_NO_ROOM: Final = ("does not fit", "queues")


def memory_source() -> str:
    """Return the kernels' CUDA C++."""
    return "".join(
        (_FOLDER / name).read_text(encoding="utf-8") for name in ("digests.cu", "copies.cu")
    )


def compile_memory_kernels(target: CompileTarget) -> CompiledCode | None:
    """Return the kernels for a target, None where there is no compiler for it."""
    try:
        return compile_source(
            memory_source(),
            entry_point=DIGEST_ENTRY_POINT,
            target=target,
            name="memory.cu",
            cache=CompileCache.default(),
        )
    except DeviceError as error:
        if error.code == "compile failed":  # of ringflow's own source: a fault that must be seen
            raise
        return None


@final
class MemoryKernels:
    """The loaded kernels of one device."""

    def __init__(
        self, context: CudaContext, launches: Launches, code: CudaCode, buffer: CudaAllocation
    ) -> None:
        """Take what the kernels need.

        Args:
            buffer: mapped memory, ``DIGEST_BUFFER_BYTES``.
        """
        self._context, self._launches, self._code = context, launches, code
        self._buffer = buffer
        self._late: CudaLaunch | None = None

    def digest(self, address: int, size_bytes: int) -> bytes | None:
        """Return the digests of device memory's blocks; None where there is no room for a kernel.

        Raises:
            DeviceError: the driver refuses, or the context is lost.
        """
        digests = bytearray()
        step_bytes = DIGEST_BUFFER_BYTES // BLOCK_DIGEST_BYTES * BLOCK_BYTES
        with self._launches.grids.alone:
            for start in range(0, size_bytes, step_bytes):
                piece_bytes = min(step_bytes, size_bytes - start)
                count = block_count(piece_bytes)
                arguments = (address + start, piece_bytes, self._buffer.address)
                claims = frozenset((address, self._buffer.address))
                try:
                    if not self._run(DIGEST_ENTRY_POINT, count, arguments, claims):
                        return None
                except DeviceError as error:
                    if error.code != "timeout":  # what comes late writes to the buffer only
                        raise
                    return None
                made_bytes = count * BLOCK_DIGEST_BYTES
                digests += ctypes.string_at(self._buffer.host_address, made_bytes)
        return bytes(digests)

    def copy(self, source: int, target: int, size_bytes: int) -> bool:
        """Copy within the device's memory; return whether there was room for it.

        Where there was none, a part of the target may have been written.

        Raises:
            DeviceError: the driver refuses, or the context is lost; or it has not ended in time
                (code ``"timeout"``), and may still write to the target.
        """
        with self._launches.grids.alone:
            for start in range(0, size_bytes, COPY_BYTES):
                piece_bytes = min(COPY_BYTES, size_bytes - start)
                blocks = -(-piece_bytes // _COPY_BLOCK_BYTES)
                arguments = (source + start, target + start, piece_bytes)
                if not self._run(COPY_ENTRY_POINT, blocks, arguments, frozenset((source, target))):
                    return False
        return True

    def _run(
        self, entry_point: str, blocks: int, arguments: tuple[int, ...], claims: frozenset[int]
    ) -> bool:
        """Run a kernel to its end with as many blocks as fit; return whether there was room."""
        if self._late is not None and self._late.status is LaunchStatus.RUNNING:
            return False  # it may still write
        kernel = self._code.kernel(entry_point)
        try:
            with self._context.current():
                occupancy = kernel.occupancy(self._context, THREADS, 0)
                blocks = min(blocks, self._launches.room(occupancy))
                if not blocks:
                    return False
                launch = self._launches.launch(
                    self._code,
                    kernel,
                    grid=(blocks, 1, 1),
                    block=(THREADS, 1, 1),
                    parameters=tuple(value.to_bytes(8, "little") for value in arguments),
                    shared_bytes=0,
                    claims=claims,
                )
        except DeviceMemoryError:  # for the launch's status word
            return False
        except DeviceError as error:
            if error.code in _NO_ROOM:
                return False
            raise
        status = launch.wait(DEADLINE_S)
        if status is LaunchStatus.RUNNING:
            self._late = launch
            raise DeviceError(
                f"{entry_point} has not ended on {self._context.name!r} within {DEADLINE_S:g} s; "
                "something else in this process or another one holds the GPU's SMs: end that",
                call=entry_point,
                code="timeout",
            )
        self._context.check()
        if status is not LaunchStatus.COMPLETED:
            raise DeviceError(
                f"{entry_point} on {self._context.name!r} ended {status.name.lower()}: "
                f"{launch.detail or 'no reason is known'}; report it",
                call=entry_point,
                code=status.name.lower(),
            )
        return True
