"""The host device: CUDA kernels on the process's worker threads, in memory with a limit.

- ``host:0``, ``host:1`` ... are memory domains of their own; the workers are the process's.
- Kernels and host share addresses, so mapped memory is memory and a peer copy is a memcpy.
- What a launch needs besides the kernel's own allocations doesn't count against the limit.
- A deterministic device has no workers: its kernels move in calls of ``run_rounds`` and the like.
"""

from __future__ import annotations

import math
import os
import platform
import struct
import threading
import uuid
from collections.abc import Sequence
from typing import Final, final

from ringflow.device.abi import ABI_MAGIC, CONTROL, CONTROL_BYTES
from ringflow.device.api import (
    Allocation,
    Device,
    LaunchStatus,
    LoadedCode,
    MappedAllocation,
)
from ringflow.device.compiler.api import HOST, CompiledCode, CompileTarget
from ringflow.device.host.bounds import Bounds, BoundsKeeper, Range
from ringflow.device.host.code import HostCode
from ringflow.device.host.launch import HostLaunch, contexts_of
from ringflow.device.host.log import KernelLog
from ringflow.device.host.memory import Arena, HostAllocation
from ringflow.device.host.pieces import piece_or_pages
from ringflow.device.host.pool import Pool, shared_pool
from ringflow.device.host.stepper import CLOCK, Stepper, clocks_as_timers
from ringflow.device.host.translate import Program, default_cache, translate
from ringflow.errors import DeviceError, EntryPointError, UsageError
from ringflow.files import Buffer
from ringflow.spec import Dim3
from ringflow.storage.blocks import block_digests

MEMCHECK_GAP_BYTES: Final = 1 << 20
"""Addresses between two pieces of memory, so that who leaves the one doesn't meet the other."""
_UUID_SPACE: Final = uuid.UUID("b5d1d9a6-6b0b-5f0e-9a55-0b5e3f2f7c11")


def system_memory_bytes() -> int:
    """Return how much memory the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _switched_on(variable: str) -> bool:
    """Return whether the environment's variable is 1; 0 or nothing is off."""
    given = os.environ.get(variable, "0")
    if given not in ("0", "1"):
        raise UsageError(f"{variable} is {given!r}; set it to 1 or 0")
    return given == "1"


@final
class HostDevice:
    """One memory domain of this machine's CPU."""

    def __init__(
        self,
        name: str = "host:0",
        *,
        memory_limit_bytes: int | None = None,
        deterministic_seed: int | None = None,
        poison_freed: bool | None = None,
        memcheck: bool | None = None,
    ) -> None:
        """Open the device.

        Args:
            memory_limit_bytes: what kernels on it may allocate; the machine's memory by default.
            deterministic_seed: no workers: kernels go on in ``run_rounds`` and ``run_until_idle``
                (and in calls that wait for them) only, blocks in an order drawn from the seed,
                clocks in virtual time; use it from one thread.
            poison_freed: freed memory is filled with 0xDD and kept for a while; a write to it is
                found when it is given back, at the latest by ``close``. By default only if the
                environment has ``RINGFLOW_HOST_POISON=1``.
            memcheck: every access and collective of the kernels is checked; a wrong one ends its
                kernel as a trap that says where. By default only if the environment has
                ``RINGFLOW_HOST_MEMCHECK=1``.
        Raises:
            UsageError: the environment has one of these and it is neither 1 nor 0.
        """
        self._name = name
        if memcheck is None:
            memcheck = _switched_on("RINGFLOW_HOST_MEMCHECK")
        if poison_freed is None:
            poison_freed = _switched_on("RINGFLOW_HOST_POISON")
        limit_bytes = memory_limit_bytes or system_memory_bytes()
        self._memcheck = memcheck
        self._arena = Arena(
            name,
            limit_bytes,
            poison_freed=poison_freed,
            keep_freed=memcheck,
            gap_bytes=MEMCHECK_GAP_BYTES if memcheck else 0,
        )
        self._own_pool: Pool | None = None
        if deterministic_seed is not None:
            self._own_pool = Pool(0, seed=deterministic_seed)
        self._bounds = BoundsKeeper(self._allocated)
        self._lock = threading.Lock()
        self._launches: list[HostLaunch] = []
        self._stuck: list[HostLaunch] = []
        self._codes: list[HostCode] = []
        self._variables: dict[int, memoryview] = {}

    def __repr__(self) -> str:
        return f"HostDevice({self._name!r})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def uuid(self) -> str:
        return str(uuid.uuid5(_UUID_SPACE, f"{platform.node()}/{self._name}"))

    @property
    def target(self) -> CompileTarget:
        return CompileTarget(HOST.name, line_info=self._memcheck)

    @property
    def memory_bytes(self) -> int:
        return self._arena.limit_bytes

    @property
    def free_bytes(self) -> int:
        return self._arena.free_bytes

    @property
    def rings(self) -> bool:
        return True

    @property
    def loads_while_running(self) -> bool:
        return True

    @property
    def lost(self) -> str:
        return ""

    @property
    def _pool(self) -> Pool:
        return self._own_pool or shared_pool()

    # A deterministic device

    @property
    def stepping(self) -> Stepper | None:
        """What moves the kernels of a deterministic device."""
        return self._own_pool.stepper if self._own_pool else None

    def _stepper(self) -> Stepper:
        if self.stepping is None:
            raise UsageError(
                f"the kernels of {self._name!r} run by themselves; open it with deterministic_seed"
            )
        return self.stepping

    def run_rounds(self, count: int) -> bool:
        """Step every block once, ``count`` times; return whether one went on in the last round.

        Raises:
            UsageError: the device is not deterministic; so for all of this section.
        """
        return self._stepper().run_rounds(count)

    def run_until_idle(self, timeout_s: float = 10.0) -> bool:
        """Make rounds until no block can go on without the host; return whether it came to that.

        Args:
            timeout_s: virtual time after which kernels that never idle are left as they are.
        """
        return self._stepper().run_until_idle(timeout_s)

    @property
    def trace_digest(self) -> str:
        """What ran so far, in which order, and what it said: 32 hexadecimal digits."""
        return self._stepper().digest

    @property
    def virtual_time_ns(self) -> int:
        """What the kernels' clocks show, since the device was opened."""
        return self._stepper().time_ns

    def trace_memory(self, allocation: Allocation) -> None:
        """Take an allocation's bytes, as they are now, into the digest of the trace.

        Regions are fit for it; a control block holds addresses, which differ between processes.
        """
        self._stepper().take(self._own(allocation))

    # Memory

    def allocate(self, size_bytes: int, *, label: str) -> Allocation:
        """Take zeroed memory; raises ``DeviceMemoryError``."""
        return self._allocate(size_bytes, label, mapped=False)

    def allocate_mapped(self, size_bytes: int, *, label: str) -> MappedAllocation:
        """Take zeroed memory; here all of it is the host's too. Small pieces share pages."""
        return self._allocate(size_bytes, label, mapped=True)

    def _allocate(self, size_bytes: int, label: str, *, mapped: bool) -> HostAllocation:
        make = piece_or_pages if mapped and not self._memcheck else None
        made = self._arena.allocate(size_bytes, label=label, make=make)
        if self._memcheck:
            self._bounds.changed()
        return made

    def _allocated(self) -> list[Range]:
        return [_range_of(allocation) for allocation in self._arena.allocations()]

    def free(self, allocation: Allocation) -> None:
        """Give memory back.

        Raises:
            DeviceError: it is not this device's, or was freed before; or a grid that can't be
                stopped may use it, and it stays taken until the device is closed.
        """
        for launch in self._stuck:
            claimed = launch.claims is None or allocation.address in launch.claims
            if claimed and launch.status is LaunchStatus.RUNNING:
                raise DeviceError(
                    f"{allocation.label!r} may be used by a grid that can't be stopped; it stays "
                    f"taken until {self._name!r} is closed: end the process",
                    call="free",
                    code="busy",
                )
        if self._memcheck:
            self._bounds.changed(leaving=allocation.address)
        self._arena.free(allocation.address)

    def copy_in(self, target: Allocation, data: Buffer, *, offset_bytes: int = 0) -> None:
        """Copy bytes to device memory; raises ``DeviceError`` if they reach past its end."""
        source = memoryview(data).cast("B")
        self._check_range(target, offset_bytes, len(source), "copy_in")
        self._own(target)[offset_bytes : offset_bytes + len(source)] = source

    def copy_out(
        self, source: Allocation, *, offset_bytes: int = 0, size_bytes: int | None = None
    ) -> memoryview:
        """Return a copy (uint8) of device memory; raises ``DeviceError`` past its end."""
        if size_bytes is None:
            size_bytes = source.size_bytes - offset_bytes
        self._check_range(source, offset_bytes, size_bytes, "copy_out")
        return memoryview(bytearray(self._own(source)[offset_bytes : offset_bytes + size_bytes]))

    def view(self, source: Allocation) -> memoryview | None:
        """Return device memory itself: uint8, writable."""
        return self._own(source)

    def copy_to_peer(self, source: Allocation, peer: Device, target: Allocation) -> str:
        """Copy a whole allocation; return the path, ``"host"`` between host devices."""
        if source.size_bytes != target.size_bytes:
            raise DeviceError(
                f"{source.label!r} has {source.size_bytes} bytes, {target.label!r} on "
                f"{peer.name!r} has {target.size_bytes}; allocate them alike",
                call="copy_to_peer",
                code="size",
            )
        peer.copy_in(target, self._own(source))
        return "host"

    def digest_blocks(self, source: Allocation) -> bytes:
        """Return the 16-byte xxh3-128 of each 64 KiB block of the memory itself."""
        return block_digests(self._own(source))

    def _own(self, allocation: Allocation) -> memoryview:
        found = self._arena.find(allocation.address)
        if found is not None:
            return found.view
        variable = self._variables.get(allocation.address)
        if variable is not None:
            return variable
        raise DeviceError(
            f"{allocation.label!r} is not an allocation of {self._name!r}",
            call="copy",
            code="unknown allocation",
        )

    def _check_range(self, of: Allocation, offset_bytes: int, size_bytes: int, call: str) -> None:
        if offset_bytes < 0 or size_bytes < 0 or offset_bytes + size_bytes > of.size_bytes:
            raise DeviceError(
                f"{size_bytes} bytes at {offset_bytes} reach past the {of.size_bytes} bytes of "
                f"{of.label!r}",
                call=call,
                code="range",
            )

    # Code and launches

    def load(self, code: CompiledCode) -> LoadedCode:
        """Translate PTX to native code, through the object cache.

        Raises:
            DeviceError: the code is for another target.
            UnsupportedPtxError: the PTX uses an operation that the host device does not have.
        """
        if code.target != HOST.name:
            raise DeviceError(
                f"code for {code.target!r} cannot run on {self._name!r}; compile it for 'host'",
                call="load",
                code="target",
            )
        loaded = HostCode(self._translate(code.code.decode()))
        self._codes.append(loaded)
        for variable in loaded.globals:
            self._variables[variable.address] = loaded.view(variable)
        return loaded

    def _translate(self, ptx: str) -> Program:
        if self.stepping is None:
            if platform.machine() == "aarch64":  # Linux doesn't let programs read its cycle counter
                ptx = clocks_as_timers(ptx)
            return translate(ptx, cache=default_cache(), background=True, memcheck=self._memcheck)
        return translate(
            clocks_as_timers(ptx),
            cache=default_cache(),
            externs={CLOCK: self.stepping.clock_address},
            memcheck=self._memcheck,
        )

    def unload(self, code: LoadedCode) -> None:
        """Forget code; what a launch runs stays alive with the launch."""
        self._codes = [loaded for loaded in self._codes if loaded is not code]
        for variable in code.globals:
            self._variables.pop(variable.address, None)

    def grid_that_fits(
        self, code: LoadedCode, entry_point: str, block: Dim3, *, dynamic_shared_bytes: int = 0
    ) -> int:
        """Return one block a worker: more would share the same cores."""
        self._own_code(code).entry(entry_point)
        return max(1, self._pool.worker_count)

    def check_room(self, grid: Dim3) -> None:
        """Raise ``LimitExceededError`` if the workers' tables have no room for a grid now."""
        self._pool.check_room(math.prod(grid))

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
    ) -> HostLaunch:
        """Launch a grid on the workers.

        Args:
            memory: what the kernel may touch, as far as the device checks it; by default all
                that is allocated on it.
        Raises:
            EntryPointError: the code has no such kernel, or it takes other parameters.
            LimitExceededError: the workers' tables are full.
        """
        host_code = self._own_code(code)
        layout = host_code.entry(entry_point)
        sizes = tuple(len(parameter) for parameter in parameters)
        if sizes != tuple(layout.parameter_sizes_bytes):
            raise EntryPointError(
                f"kernel {entry_point!r} takes parameters of "
                f"{list(layout.parameter_sizes_bytes)} bytes, got {list(sizes)}",
                call="launch",
                code="parameters",
            )
        self.check_room(grid)  # before the blocks are made
        program = host_code.program
        blocks, contexts = contexts_of(
            program, layout, grid, block, parameters, dynamic_shared_bytes
        )
        log = KernelLog() if program.prints else None
        if log is not None:
            log.attach(contexts)
        bounds = self._bounds_for(program, memory)
        if bounds is not None:
            for context in contexts:
                bounds.arm(context, layout)
        started = HostLaunch(
            entry_point,
            self._pool.launch(
                program.step_function(entry_point),
                contexts,
                watch=self._control_among(parameters),
                keep=(blocks, program, bounds, log),
            ),
            program,
            bounds,
            log,
            claims=None if memory is None else frozenset(one.address for one in memory),
            when_stuck=self._stuck.append,
        )
        with self._lock:
            self._launches = [
                launch for launch in self._launches if launch.status is LaunchStatus.RUNNING
            ]
            self._launches.append(started)
        return started

    def _bounds_for(self, program: Program, memory: Sequence[Allocation] | None) -> Bounds | None:
        if not program.memcheck:
            return None
        if memory is None:
            return self._bounds.of_plain_launch(program)
        return self._bounds.of_kernel(program, map(_range_of, memory))

    def _own_code(self, code: LoadedCode) -> HostCode:
        assert isinstance(code, HostCode), "the code was loaded by another kind of device"
        return code

    def _control_among(self, parameters: tuple[bytes, ...]) -> int:
        """Return the first parameter if it is a control block, whose news then wake the host."""
        if not parameters or len(parameters[0]) != 8:
            return 0
        (address,) = struct.unpack("<Q", parameters[0])
        found = self._arena.find(address)
        if found is None or found.size_bytes != CONTROL_BYTES:
            return 0
        (magic,) = struct.unpack_from("<I", found.view, CONTROL["magic"])
        return address if magic == ABI_MAGIC else 0

    def close(self) -> None:
        """Give all memory back; raises ``DeviceError`` while a launch lives."""
        with self._lock:
            alive = [launch for launch in self._launches if launch.status is LaunchStatus.RUNNING]
            if alive:
                raise DeviceError(
                    f"{self._name!r} has {len(alive)} running launches; stop their kernels first",
                    call="close",
                    code="busy",
                )
            self._launches.clear()
            self._codes.clear()
            self._variables.clear()
            self._arena.close()


def _range_of(allocation: Allocation) -> Range:
    return Range(allocation.address, allocation.size_bytes, allocation.label)
