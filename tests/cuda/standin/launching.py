"""What the stand-in asks Python for: code by a cubin's digest, and grids run by the host's workers.

- A grid runs as clang's PTX on the translator, every access checked against what its device may
  touch: its own memory, what is mapped, and peers' memory where access was given.
- Its pool has a waiting room of its own: a kernel wakes no pump, and is rung only by the stand-in's
  clock, so a library that forgets to poll is found.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from ringflow.device.api import LaunchStatus
from ringflow.device.host import cta
from ringflow.device.host.bounds import Bounds, Range, globals_of
from ringflow.device.host.faults import describe_trap
from ringflow.device.host.log import KernelLog
from ringflow.device.host.memory import HostAllocation
from ringflow.device.host.pool import Pool, PoolLaunch
from ringflow.device.host.program import EntryLayout
from ringflow.device.host.scheduler_layout import WORKER
from ringflow.device.host.translate import Program, default_cache, translate
from ringflow.device.native import native
from tests.cuda.standin import origins
from tests.cuda.standin.layout import (
    PARAMETERS_MAX,
    TEXT_BYTES,
    Callbacks,
    FunctionFacts,
    LaunchRequest,
)

INVALID_VALUE: Final = 1
INVALID_IMAGE: Final = 200
NO_BINARY_FOR_GPU: Final = 209
NOT_FOUND: Final = 500
ILLEGAL_ADDRESS: Final = 700
ASSERT: Final = 710
LAUNCH_FAILED: Final = 719
UNKNOWN: Final = 999
TRAP_CODES: Final = {cta.TRAP_MEMORY: ILLEGAL_ADDRESS, cta.TRAP_ASSERTION: ASSERT}

WORKERS: Final = 1
YIELD_NS: Final = 20_000
RANGES_MAX: Final = 65536


@attrs.frozen
class Code:
    """A module that is loaded into a device's context."""

    program: Program
    ordinal: int


@attrs.define(eq=False)
class Run:
    """Blocks of a grid that are resident."""

    entry_point: str
    code: Code
    launch: PoolLaunch
    bounds: Bounds | None
    log: KernelLog | None


@functools.cache
def _room() -> HostAllocation:
    return native().make_room()


@functools.cache
def _pool() -> Pool:
    """The workers of all stand-in devices, which live as long as the process."""
    import atexit

    pool = Pool(WORKERS, room=_room().address)
    for worker in pool._workers:
        struct.pack_into("=I", worker.memory.view, WORKER["yield_ns"], YIELD_NS)
    atexit.register(pool.close)
    return pool


class Launcher:
    """The callbacks of one plugging, and what they keep.

    Attributes:
        errors: tracebacks of callbacks that failed: defects of the stand-in.
        refused: why code could not be loaded.
        children: what child processes have found.
        printed: what kernels have printed, in the order in which they ended.
    """

    def __init__(self, library: Any, architectures: Sequence[str], *, memcheck: bool) -> None:
        self._library = library
        self._architectures = architectures
        self._memcheck = memcheck
        self._lock = threading.Lock()
        self._numbers = 0
        self._codes: dict[int, Code] = {}
        self._runs: dict[int, Run] = {}
        self._open: weakref.WeakKeyDictionary[Bounds, tuple[int, int]] = weakref.WeakKeyDictionary()
        self.errors: list[str] = []
        self.refused: list[str] = []
        self.children: list[str] = []
        self.printed: list[str] = []
        self.table = Callbacks()
        for name, kind in Callbacks._fields_[:-2]:
            setattr(self.table, name, kind(self._guarded(getattr(self, f"_{name}"))))
        self.table.ring = native()._program.function("ringflow_ring_workers")
        self.table.room = _room().address

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except BaseException:
                self.errors.append(traceback.format_exc())
                return UNKNOWN

        return guarded

    def _number(self) -> int:
        with self._lock:
            self._numbers += 1
            return self._numbers

    # Code

    def _load(self, image: int, size_bytes: int, ordinal: int, number: Any) -> int:
        cubin = ctypes.string_at(image, size_bytes)
        origin = origins.find(cubin)
        if origin is None:
            self.refused.append(
                f"a cubin of {size_bytes} bytes that no test compiled: the stand-in runs clang's "
                "PTX of the same source, and knows none for it"
            )
            return INVALID_IMAGE
        if origin.architecture.rstrip("af") != self._architectures[ordinal]:
            return NO_BINARY_FOR_GPU
        text = origins.host_code(cubin, origin, memcheck=self._memcheck).code.decode()
        program = translate(text, cache=default_cache(), memcheck=self._memcheck)
        number[0] = made = self._number()
        self._codes[made] = Code(program, ordinal)
        return 0

    def _unload(self, number: int) -> None:
        self._codes.pop(number, None)

    def _describe(self, number: int, name: bytes, facts: Any) -> int:
        layout = self._codes[number].program.entries.get(name.decode())
        if layout is None:
            return NOT_FOUND
        count = len(layout.parameter_sizes_bytes)
        assert count <= PARAMETERS_MAX, f"{layout.name} has {count} parameters"
        into: FunctionFacts = facts[0]
        into.parameter_count = count
        into.offsets[:count] = layout.parameter_offsets_bytes
        into.sizes[:count] = layout.parameter_sizes_bytes
        into.parameter_bytes = layout.parameters_bytes
        into.shared_bytes = layout.shared_bytes - layout.reserved_shared_bytes
        into.local_bytes = layout.local_bytes
        into.prints = self._codes[number].program.prints
        return 0

    def _entry(self, number: int, index: int, name: int) -> int:
        names = list(self._codes[number].program.entries)
        if index >= len(names):
            return NOT_FOUND
        _write_text(name, names[index])
        return 0

    def _variable(self, number: int, name: bytes, address: Any, size_bytes: Any) -> int:
        found = self._codes[number].program.globals.get(name.decode())
        if found is None:
            return NOT_FOUND
        address[0], size_bytes[0] = found.address, found.size_bytes
        return 0

    # Launches

    def _launch(self, given: Any) -> int:
        request: LaunchRequest = given[0]
        code, entry_point = self._codes[request.code], request.name.decode()
        program, layout = code.program, code.program.entries[entry_point]
        parameters = ctypes.string_at(request.parameters, request.parameter_bytes)
        memory, contexts = _contexts(program, layout, request, parameters)
        log = KernelLog() if program.prints else None
        if log is not None:
            log.attach(contexts)
        bounds = self._bounds_for(request.code, code) if self._memcheck else None
        for context in contexts if bounds else ():
            bounds.arm(context, layout)  # type: ignore[union-attr]
        launch = _pool().launch(
            program.step_function(entry_point), contexts, keep=(memory, program, bounds, log)
        )
        request.launch = number = self._number()
        request.status_address = launch.status_address
        self._runs[number] = Run(entry_point, code, launch, bounds, log)
        return 0

    def _finish(self, number: int, detail: int) -> int:
        run = self._runs.pop(number)
        if run.log is not None:
            self.printed.append(run.log.text())
        if run.launch.status is not LaunchStatus.TRAPPED:
            return 0
        context = run.launch.trapped_context
        ranges = run.bounds.ranges if run.bounds else ()
        text = describe_trap(context, run.entry_point, run.code.program, ranges)
        _write_text(detail, text[: TEXT_BYTES - 1])
        kind = ctypes.c_uint32.from_address(context + cta.TRAP_KIND).value
        return TRAP_CODES.get(kind, LAUNCH_FAILED)

    def _abort(self, number: int) -> None:
        if self._runs[number].launch.abort() is LaunchStatus.RUNNING:
            self.errors.append("a kernel could not be stopped")

    # What kernels may touch

    def _bounds_for(self, number: int, code: Code) -> Bounds:
        made = Bounds(self._ranges(number, code))
        with self._lock:
            self._open[made] = (number, code.ordinal)
        return made

    def _changed(self, ordinal: int) -> None:
        with self._lock:
            affected = [(bounds, of[0]) for bounds, of in self._open.items() if of[1] == ordinal]
        for bounds, number in affected:
            code = self._codes.get(number)
            if code is not None:
                bounds.replace(self._ranges(number, code))

    def _ranges(self, number: int, code: Code) -> list[Range]:
        rows = (ctypes.c_uint64 * 3 * RANGES_MAX)()
        count = self._library.standin_ranges(code.ordinal, rows, RANGES_MAX)
        found = [
            Range(begin, size_bytes, f"memory at {begin:#x}")
            for begin, size_bytes, of in rows[:count]
            if of != number
        ]
        return [*found, *globals_of(code.program)]


def _write_text(address: int, text: str) -> None:
    data = text.encode()[: TEXT_BYTES - 1] + b"\0"
    ctypes.memmove(address, data, len(data))


def _contexts(
    program: Program, layout: EntryLayout, request: LaunchRequest, parameters: bytes
) -> tuple[HostAllocation, list[int]]:
    """Make the contexts of the blocks that are asked for; return their memory and addresses."""
    block, grid = tuple(request.block), tuple(request.grid)
    context_bytes = program.context_bytes(
        layout.name, block=block, dynamic_shared_bytes=request.shared_bytes
    )
    head_bytes = cta.RECORD_BYTES + layout.parameters_bytes
    head_bytes += -head_bytes % cta.ALIGN_BYTES
    memory = HostAllocation(head_bytes + request.count * context_bytes, label="blocks")
    parameters_at = memory.address + cta.RECORD_BYTES
    struct.pack_into("=7I4xQ", memory.view, 0, *block, *grid, request.shared_bytes, parameters_at)
    memory.view[cta.RECORD_BYTES : cta.RECORD_BYTES + len(parameters)] = parameters
    prepare = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)(
        program.init_function(layout.name)
    )
    contexts = []
    for index in range(request.count):
        address = memory.address + head_bytes + index * context_bytes
        prepare(address, memory.address, request.first + index)
        contexts.append(address)
    return memory, contexts
