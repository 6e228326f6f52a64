"""A simple driver: all CTAs of one grid, round robin, on the calling thread, until they are done.

For tests and small jobs; persistent kernels run on the scheduler's workers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import attrs
import numpy as np

from ringflow.device.host import cta
from ringflow.device.host.bounds import EVERYTHING, Bounds, Range
from ringflow.device.host.faults import describe_trap
from ringflow.device.host.log import KernelLog
from ringflow.device.host.program import Program
from ringflow.errors import KernelStalledError, KernelTrappedError, LimitExceededError

Dimensions = tuple[int, int, int]
_STEP = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32)
_INIT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
_BLOCK_THREADS_MAX = 1024


def pack_parameters(program: Program, entry: str, *values: bytes) -> bytes:
    """Return the parameter block: each value's bytes at its parameter's offset.

    Raises:
        LimitExceededError: a value is not as long as its parameter.
    """
    layout = program.entries[entry]
    block = bytearray(layout.parameters_bytes)
    for index, (value, size, offset) in enumerate(
        zip(values, layout.parameter_sizes_bytes, layout.parameter_offsets_bytes, strict=True)
    ):
        if len(value) != size:
            raise LimitExceededError(f"parameter {index}", len(value), size, "pass its exact bytes")
        block[offset : offset + size] = value
    return bytes(block)


@attrs.define
class Grid:
    """The CTAs of one launch; keeps all their memory alive.

    Attributes:
        status: what the last step of each CTA returned.
        log: what the kernel prints, None if its module never does.
    """

    program: Program
    memory: np.ndarray[tuple[int], np.dtype[np.uint8]]
    addresses: list[int]
    status: list[int]
    _step: Callable[[int, int], int]
    _keep: object
    log: KernelLog | None = None
    _entry: str = ""
    _ranges: Sequence[Range] = ()

    def round(self, budget: int) -> None:
        """Step each CTA that is not done once.

        Raises:
            KernelTrappedError: a thread trapped.
        """
        for index, address in enumerate(self.addresses):
            if self.status[index] == cta.DONE:
                continue
            self.status[index] = self._step(address, budget)
            if self.status[index] == cta.TRAPPED:
                raise self._trapped(index, address)

    def _trapped(self, index: int, address: int) -> KernelTrappedError:
        words = [
            ctypes.c_uint32.from_address(address + offset).value
            for offset in (cta.TRAP_KIND, cta.TRAP_THREAD, cta.TRAP_LINE)
        ]
        name = cta.TRAP_NAMES.get(words[0], "unknown")
        told = f"{name} in thread {words[1]} of block {index}, PTX line {words[2]}"
        if words[0] >= cta.TRAP_MEMORY:
            told = describe_trap(address, self._entry, self.program, self._ranges)
        return KernelTrappedError(f"{told}; mend the kernel", call="step", code=name)

    @property
    def done(self) -> bool:
        return all(status == cta.DONE for status in self.status)

    @property
    def idle(self) -> bool:
        """Whether nothing can happen before memory changes from outside."""
        return all(status in (cta.DONE, cta.IDLE) for status in self.status)


def open_grid(
    program: Program,
    entry: str,
    grid: Dimensions,
    block: Dimensions,
    parameters: bytes,
    dynamic_shared_bytes: int = 0,
    ranges: Sequence[Range] = (EVERYTHING,),
) -> Grid:
    """Return a grid whose CTAs are initialised and have not run yet.

    Args:
        parameters: the whole parameter block, as ``pack_parameters`` makes it.
        ranges: what the kernel may touch, if the program was translated for memcheck.
    Raises:
        LimitExceededError: the block has more threads than a CUDA block may have.
    """
    threads = block[0] * block[1] * block[2]
    if not 0 < threads <= _BLOCK_THREADS_MAX:
        raise LimitExceededError("threads a block", threads, _BLOCK_THREADS_MAX, "use 1 to 1024")
    size = program.context_bytes(entry, block=block, dynamic_shared_bytes=dynamic_shared_bytes)
    size = (size + 127) // 128 * 128
    count = grid[0] * grid[1] * grid[2]
    memory = np.empty(size * count + 128, np.uint8)
    first = (memory.ctypes.data + 127) // 128 * 128
    block_of_parameters = np.frombuffer(parameters + bytes(16), np.uint8).copy()
    record = np.zeros(cta.RECORD_BYTES, np.uint8)
    words = record.view(np.uint32)
    words[0:3] = block
    words[3:6] = grid
    words[cta.RECORD_DYNAMIC_SHARED // 4] = dynamic_shared_bytes
    record.view(np.uint64)[cta.RECORD_PARAMETERS // 8] = block_of_parameters.ctypes.data
    initialise = _INIT(program.init_function(entry))
    addresses = [first + index * size for index in range(count)]
    bounds = Bounds(ranges)
    for index, address in enumerate(addresses):
        initialise(address, record.ctypes.data, index)
        if program.memcheck:
            bounds.arm(address, program.entries[entry])
    step = _STEP(program.step_function(entry))
    keep = (block_of_parameters, record, bounds)
    log = KernelLog() if program.prints else None
    if log is not None:
        log.attach(addresses)
    status = [cta.PROGRESS] * count
    return Grid(program, memory, addresses, status, step, keep, log, entry, bounds.ranges)


def run_grid(
    program: Program,
    entry: str,
    grid: Dimensions,
    block: Dimensions,
    parameters: bytes,
    dynamic_shared_bytes: int = 0,
    *,
    budget: int = 64,
    rounds_max: int = 1_000_000,
) -> None:
    """Run a grid to its end.

    Raises:
        KernelTrappedError: a thread trapped.
        KernelStalledError: all threads wait for something that no thread of the grid will do, or
            ``rounds_max`` rounds did not suffice.
    """
    running = open_grid(program, entry, grid, block, parameters, dynamic_shared_bytes)
    for _ in range(rounds_max):
        running.round(budget)
        if running.done:
            return
        if running.idle:
            break
    raise KernelStalledError(
        f"kernel {entry!r} waits for what never happens; look for barriers and polls",
        call="run_grid",
        code="stalled",
    )
