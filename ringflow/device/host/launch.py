"""Launches on the host device: the contexts of a grid's blocks, and the grid that runs."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import final

from ringflow.device.api import LaunchStatus
from ringflow.device.host import cta
from ringflow.device.host.bounds import Bounds
from ringflow.device.host.faults import describe_trap
from ringflow.device.host.log import KernelLog
from ringflow.device.host.pieces import piece_or_pages
from ringflow.device.host.pool import PoolLaunch
from ringflow.device.host.program import EntryLayout, Program
from ringflow.errors import KernelStalledError
from ringflow.spec import Dim3


@final
class HostLaunch:
    """A grid on the worker pool.

    Attributes:
        claims: addresses of the memory that it may use; None for all of the device's.
    """

    def __init__(
        self,
        entry_point: str,
        launch: PoolLaunch,
        program: Program,
        bounds: Bounds | None,
        log: KernelLog | None,
        *,
        claims: frozenset[int] | None,
        when_stuck: Callable[[HostLaunch], None],
    ) -> None:
        self._entry_point = entry_point
        self._launch = launch
        self._program = program
        self._bounds = bounds
        self._log = log
        self.claims = claims
        self._when_stuck = when_stuck

    @property
    def log(self) -> str:
        """What the kernel has printed, the newest messages; older ones are counted only."""
        return self._log.text() if self._log is not None else ""

    @property
    def status(self) -> LaunchStatus:
        return self._launch.status

    @property
    def status_address(self) -> int:
        return self._launch.status_address

    @property
    def detail(self) -> str:
        context = self._launch.trapped_context
        if not context:
            return ""
        ranges = self._bounds.ranges if self._bounds else ()
        return describe_trap(context, self._entry_point, self._program, ranges)

    def wait(self, timeout_s: float) -> LaunchStatus:
        """Block until the grid has ended or the time is up; return the status."""
        return self._launch.wait(timeout_s)

    def abort(self) -> None:
        """Stop the grid.

        Raises:
            KernelStalledError: a step of it does not end; until it does it keeps its memory.
        """
        if self._launch.abort() is LaunchStatus.RUNNING:
            self._when_stuck(self)
            raise KernelStalledError(
                f"a step of the grid of {self._entry_point!r} does not end; end the process",
                call="abort",
                code="timeout",
            )


def contexts_of(
    program: Program,
    layout: EntryLayout,
    grid: Dim3,
    block: Dim3,
    parameters: tuple[bytes, ...],
    dynamic_shared_bytes: int,
) -> tuple[object, list[int]]:
    """Make the contexts of a grid's CTAs; return what keeps them, and their addresses."""
    count = grid[0] * grid[1] * grid[2]
    context_bytes = program.context_bytes(
        layout.name, block=block, dynamic_shared_bytes=dynamic_shared_bytes
    )
    head_bytes = cta.RECORD_BYTES + layout.parameters_bytes
    head_bytes += -head_bytes % cta.ALIGN_BYTES
    size_bytes = head_bytes + count * context_bytes
    memory = piece_or_pages(size_bytes, label=f"{layout.name}'s blocks")
    view, parameters_at = memory.view, memory.address + cta.RECORD_BYTES
    struct.pack_into("=7I4xQ", view, 0, *block, *grid, dynamic_shared_bytes, parameters_at)
    for offset, parameter in zip(layout.parameter_offsets_bytes, parameters, strict=True):
        start = cta.RECORD_BYTES + offset
        view[start : start + len(parameter)] = parameter
    prepare = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)(
        program.init_function(layout.name)
    )
    contexts = []
    for index in range(count):
        address = memory.address + head_bytes + index * context_bytes
        prepare(address, memory.address, index)
        contexts.append(address)
    return memory, contexts
