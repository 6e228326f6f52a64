"""A GPU: memory from arenas, copies through pinned buffers, grids that never end.

- All that makes the driver wait for running kernels is done when the device is opened: memory of
  both kinds is taken, streams are made, limits set. Later calls take pieces, and copy by DMA.
- What must wait for kernels (unloading) is put off until none runs; for what would wait and can't
  be put off (loading, on some drivers) the persistent ones are parked.
- A lost context fails every call from then on; its launches end as trapped or aborted.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, final

from ringflow.device.api import Allocation, Device, Launch, LoadedCode, MappedAllocation
from ringflow.device.compiler.api import CompiledCode, CompileTarget
from ringflow.device.cuda import driver
from ringflow.device.cuda.arena import CudaAllocation, CudaArena, rounded
from ringflow.device.cuda.code import CudaCode, load_module
from ringflow.device.cuda.context import LOCAL_MEMORY_BYTES, CudaContext, ordinal_of
from ringflow.device.cuda.launches import Launches
from ringflow.device.cuda.ledger import Ledger
from ringflow.device.cuda.loading import loads_while_running
from ringflow.device.cuda.loans import Loan, Loans
from ringflow.device.cuda.memory_kernels import (
    DIGEST_BUFFER_BYTES,
    MemoryKernels,
    compile_memory_kernels,
)
from ringflow.device.cuda.peers import Member, shared_peers
from ringflow.device.cuda.priming import prime
from ringflow.device.cuda.staging import STAGING_BYTES, Staging
from ringflow.device.cuda.topology import HOST_PATH, STAGED, WITHIN
from ringflow.device.cuda.unfinished import Unfinished
from ringflow.device.parking import lot_of
from ringflow.errors import DeviceError
from ringflow.files import Buffer
from ringflow.spec import Dim3
from ringflow.storage.blocks import block_digests

MEMORY_SHARE: Final = 0.9
"""Of the memory that is free when the device is opened, unless a limit is given."""
MAPPED_LIMIT_BYTES: Final = 256 << 20
THROUGH_HOST_BYTES: Final = 64 << 20
"""What passes through the host's memory at a time."""
EXIT_DEADLINE_S: Final = 5.0
LATE_DEADLINE_S: Final = 1.0
"""How long a closing waits for copies that had been given up; their memory is left after it."""

_open_lock = threading.RLock()
_open: weakref.WeakSet[CudaDevice] = weakref.WeakSet()
_left_over: list[CudaDevice] = []
"""Closed ones whose memory other libraries had still, when another was open on the same GPU."""


@final
class CudaDevice:
    """One GPU.

    Attributes:
        context: its primary context.
    """

    def __init__(
        self,
        name: str = "cuda:0",
        *,
        memory_limit_bytes: int | None = None,
        mapped_limit_bytes: int | None = None,
        local_memory_bytes: int | None = None,
    ) -> None:
        """Open the device: take its memory, make its streams.

        Args:
            name: ``"cuda:N"``, or ``"cuda:GPU-..."`` with the UUID that nvidia-smi shows.
            memory_limit_bytes: GPU memory for kernels, taken now; by default nine tenths of what
                is free.
            mapped_limit_bytes: pinned host memory for rings and for arrays of messages and
                replies, taken now; 256 MiB by default.
            local_memory_bytes: of a thread, 1 KiB by default; kernels that need more are launched
                only while no other runs.
        Raises:
            UnknownDeviceError: there is no such device.
            DeviceError: no driver, an old one, a GPU that can't run persistent kernels, memory
                that is not there; nothing stays taken.
        """
        ordinal = ordinal_of(name)
        self._name = name
        self._closed = False
        self._memory: Any = None
        self._pinned: Any = None
        self._staging: Staging | None = None
        self._launches: Launches | None = None
        self._codes: list[CudaCode] = []
        self._kernels: MemoryKernels | None = None
        self._peer: Member | None = None
        self._loads_while_running = loads_while_running(ordinal).works
        with _open_lock:
            _refuse_beside(ordinal, name, "open")
            _release_left_over(ordinal)
            self.context = CudaContext(
                ordinal, name=name, local_memory_bytes=local_memory_bytes or LOCAL_MEMORY_BYTES
            )
            try:
                with self.context.current():
                    self._take(memory_limit_bytes, mapped_limit_bytes or MAPPED_LIMIT_BYTES)
            except BaseException:
                self._release()
                raise
            _open.add(self)

    def _take(self, memory_bytes: int | None, mapped_bytes: int) -> None:
        """Take everything that is taken once; ``current`` is needed."""
        context = self.context
        if memory_bytes is None:
            free_bytes, _ = context.call("cuMemGetInfo")
            memory_bytes = int(free_bytes * MEMORY_SHARE)
        memory_bytes, mapped_bytes = rounded(memory_bytes), rounded(mapped_bytes)
        self._memory = context.call("cuMemAlloc", memory_bytes)
        self._arena = CudaArena(self._name, int(self._memory), memory_bytes)
        self._loans = Loans(self._arena.settle)
        self._unfinished = Unfinished(context)
        flags = driver.bindings()
        self._pinned = context.call(
            "cuMemHostAlloc",
            mapped_bytes + STAGING_BYTES,
            flags.CU_MEMHOSTALLOC_DEVICEMAP | flags.CU_MEMHOSTALLOC_PORTABLE,
        )
        host_address = int(self._pinned)
        self._mapped = CudaArena(
            self._name,
            int(context.call("cuMemHostGetDevicePointer", self._pinned, 0)),
            mapped_bytes,
            host_address=host_address,
            what="of memory shared with the host",
            advice="stop a kernel, give it smaller rings or less bulk, or open the device with a "
            "larger mapped_limit_bytes",
        )
        sm_count, queues = context.attributes.sm_count, driver.queue_count()
        ledger = Ledger(self._name, sm_count=sm_count, queue_count=queues)
        self._staging = Staging(context, host_address + mapped_bytes)
        self._launches = Launches(context, ledger, self._mapped)
        prime(context, self._launches)
        self._kernels = self._memory_kernels()
        self._peer = shared_peers().join(context, while_idle=self._launches.idle)

    def _memory_kernels(self) -> MemoryKernels | None:
        """Load ringflow's own kernels while nothing runs; without a compiler there are none."""
        compiled = compile_memory_kernels(self.target)
        if compiled is None:
            return None
        code = load_module(self.context, compiled)
        self._codes.append(code)
        buffer = self._mapped.take(DIGEST_BUFFER_BYTES, label="digests")
        return MemoryKernels(self.context, self.launches, code, buffer)

    def _release(self) -> None:
        """Give back what there is, in the order that the driver needs; errors are of no use now."""
        context = self.context
        if self._peer is not None:
            shared_peers().leave(self._peer)
        if self._launches is not None:
            self._launches.close()
        with contextlib.suppress(DeviceError), context.current():
            for code in self._codes:
                self._quietly("cuModuleUnload", code.module)
            if self._pinned is not None:
                self._quietly("cuMemFreeHost", self._pinned)
        self._codes.clear()
        if self._memory is None:
            context.close()
        else:
            self._unfinished.wait(LATE_DEADLINE_S)
            self._loans.after_all(self._release_memory)

    def _release_memory(self) -> None:
        """Give the GPU's memory back, now or once no device is open that this would wait for."""
        if any(one.context.ordinal == self.ordinal for one in list(_open)):
            _left_over.append(self)
            return
        with contextlib.suppress(DeviceError), self.context.current():
            self._quietly("cuMemFree", self._memory)
        self.context.close()

    def _quietly(self, name: str, *arguments: Any) -> None:
        with contextlib.suppress(DeviceError):
            driver.call(name, *arguments)

    # Identity

    @property
    def name(self) -> str:
        return self._name

    @property
    def uuid(self) -> str:
        return self.context.uuid

    @property
    def target(self) -> CompileTarget:
        return CompileTarget(self.context.attributes.architecture)

    @property
    def memory_bytes(self) -> int:
        return self._arena.size_bytes

    @property
    def free_bytes(self) -> int:
        self._collect()
        return self._arena.free_bytes

    @property
    def mapped_free_bytes(self) -> int:
        """What is left of the memory that is shared with the host."""
        return self._mapped.free_bytes

    @property
    def rings(self) -> bool:
        return False

    @property
    def loads_while_running(self) -> bool:
        return self._loads_while_running

    @property
    def lost(self) -> str:
        """Why the context, and with it all that the device had, is gone; empty if it is not."""
        return str(self.context.lost or "")

    @property
    def staging(self) -> Staging:
        assert self._staging is not None, "the device is closed"
        return self._staging

    @property
    def launches(self) -> Launches:
        assert self._launches is not None, "the device is closed"
        return self._launches

    @property
    def ordinal(self) -> int:
        """The GPU's number among those that this process sees."""
        return self.context.ordinal

    # Memory

    def allocate(self, size_bytes: int, *, label: str) -> Allocation:
        """Take zeroed memory of the GPU; raises ``DeviceMemoryError``."""
        self.context.check()
        self._collect()
        made = self._arena.take(size_bytes, label=label)
        try:
            with _kept_if_late((self, self.staging.streams[0], made)):
                self.staging.zero(made.address, size_bytes)
        except BaseException:
            self.free(made)
            raise
        return made

    def _collect(self) -> None:
        """Take back what was freed while something else could still use it."""
        self._unfinished.settle()
        self._loans.collect()

    def allocate_mapped(self, size_bytes: int, *, label: str) -> MappedAllocation:
        """Take zeroed host memory that kernels see; raises ``DeviceMemoryError``."""
        self.context.check()
        made = self._mapped.take(size_bytes, label=label)
        ctypes.memset(made.host_address, 0, size_bytes)
        return made

    def lend(self, allocation: Allocation) -> Loan:
        """Keep an allocation's memory as it is, freed or not, for as long as the result lives.

        Raises:
            DeviceError: it is not this device's own memory.
        """
        self._checked(allocation, 0, allocation.size_bytes, "lend")
        return self._loans.lend(allocation.address)

    def free(self, allocation: Allocation) -> None:
        """Give memory back; what a live grid, or another library, may use is kept until it ends.

        Raises:
            DeviceError: it is not this device's, or was freed before.
        """
        address = allocation.address
        arena = self._mapped if self._mapped.has(address) else self._arena
        with self.launches.still, self._loans.freeing(address) as is_lent:
            users = self.launches.users_of(address)
            arena.free(address, holds=len(users) + is_lent)
            for user in users:
                user.when_ended.append(lambda: arena.settle(address))

    def copy_in(self, target: Allocation, data: Buffer, *, offset_bytes: int = 0) -> None:
        """Copy bytes to device memory; raises ``DeviceError`` if they reach past its end."""
        source = memoryview(data).cast("B")
        at = self._checked(target, offset_bytes, len(source), "copy_in")
        if not len(source):
            return
        if at.host_address:
            memory = (ctypes.c_ubyte * len(source)).from_address(at.host_address + offset_bytes)
            memoryview(memory).cast("B")[:] = source
        else:
            with _kept_if_late((self, self.staging.streams[0], at)):
                self.staging.copy_in(at.address + offset_bytes, source)

    def copy_out(
        self, source: Allocation, *, offset_bytes: int = 0, size_bytes: int | None = None
    ) -> memoryview:
        """Return a copy (uint8) of device memory; raises ``DeviceError`` past its end."""
        if size_bytes is None:
            size_bytes = source.size_bytes - offset_bytes
        at = self._checked(source, offset_bytes, size_bytes, "copy_out")
        if at.host_address:
            data = ctypes.string_at(at.host_address + offset_bytes, size_bytes)
            return memoryview(bytearray(data))
        if not size_bytes:
            return memoryview(bytearray())
        with _kept_if_late((self, self.staging.streams[1], at)):
            return self.staging.copy_out(at.address + offset_bytes, size_bytes)

    def view(self, source: Allocation) -> memoryview | None:
        """Return mapped memory itself; ``None`` for memory of the GPU, which needs a copy."""
        at = self._checked(source, 0, source.size_bytes, "view")
        if not at.host_address:
            return None
        return memoryview((ctypes.c_ubyte * at.size_bytes).from_address(at.host_address)).cast("B")

    def copy_to_peer(self, source: Allocation, peer: Device, target: Allocation) -> str:
        """Copy a whole allocation to another device; return the path that it took.

        Between two GPUs ``"nvlink"`` or ``"pcie peer"``, within one ``"device"``; ``"staged"``
        if it went by way of the host's memory. ``"host"``: the peer is the host.
        """
        if source.size_bytes != target.size_bytes:
            raise DeviceError(
                f"{source.label!r} has {source.size_bytes} bytes, {target.label!r} on "
                f"{peer.name!r} has {target.size_bytes}; allocate them alike",
                call="copy_to_peer",
                code="size",
            )
        if not isinstance(peer, CudaDevice):
            return self._copy_through_host(source, peer, target, path=HOST_PATH)
        at = self._checked(source, 0, source.size_bytes, "copy_to_peer")
        there = peer._checked(target, 0, target.size_bytes, "copy_to_peer")
        if at.host_address or there.host_address:
            return self._copy_through_host(source, peer, target, path=STAGED)
        if peer.uuid == self.uuid:
            # A copy of the driver's would use SMs, which grids may hold for ever.
            if self._kernels and self._kernels.copy(at.address, there.address, at.size_bytes):
                return WITHIN
            return self._copy_through_host(source, peer, target, path=STAGED)
        assert self._peer is not None, "the device is closed"
        assert peer._peer is not None, "the peer is closed"
        ends = (self, self._peer.stream, at), (peer, peer._peer.stream, there)
        with _kept_if_late(*ends):
            return shared_peers().copy(
                self._peer, at.address, peer._peer, there.address, source.size_bytes
            )

    def _copy_through_host(
        self, source: Allocation, peer: Device, target: Allocation, *, path: str
    ) -> str:
        for start in range(0, source.size_bytes, THROUGH_HOST_BYTES):
            size_bytes = min(THROUGH_HOST_BYTES, source.size_bytes - start)
            data = self.copy_out(source, offset_bytes=start, size_bytes=size_bytes)
            peer.copy_in(target, data, offset_bytes=start)
        return path

    def digest_blocks(self, source: Allocation) -> bytes:
        """Return the 16-byte xxh3-128 of each 64 KiB block, read from the device's memory.

        A kernel reads it there if there is room for one beside what runs, else it is copied out.
        """
        at = self._checked(source, 0, source.size_bytes, "digest_blocks")
        if self._kernels is not None and not at.host_address:
            digests = self._kernels.digest(at.address, at.size_bytes)
            if digests is not None:
                return digests
        return self._digests_through_host(source)

    def _digests_through_host(self, source: Allocation) -> bytes:
        digests = bytearray()
        for start in range(0, source.size_bytes, THROUGH_HOST_BYTES):
            size_bytes = min(THROUGH_HOST_BYTES, source.size_bytes - start)
            digests += block_digests(
                self.copy_out(source, offset_bytes=start, size_bytes=size_bytes)
            )
        return bytes(digests)

    def _checked(
        self, allocation: Allocation, offset_bytes: int, size_bytes: int, call: str
    ) -> CudaAllocation:
        """Return an allocation as the device knows it; raises ``DeviceError`` past its end."""
        self.context.check()
        address = allocation.address
        arena = self._mapped if self._mapped.has(address) else self._arena
        found = arena.find(address) or self._variable(address)
        if found is None:
            raise DeviceError(
                f"{allocation.label!r} is not an allocation of {self._name!r}",
                call=call,
                code="unknown allocation",
            )
        if offset_bytes < 0 or size_bytes < 0 or offset_bytes + size_bytes > found.size_bytes:
            raise DeviceError(
                f"{size_bytes} bytes at {offset_bytes} reach past the {found.size_bytes} bytes of "
                f"{found.label!r}",
                call=call,
                code="range",
            )
        return found

    def _variable(self, address: int) -> CudaAllocation | None:
        for code in self._codes:
            for variable in code.globals:
                if variable.address == address:
                    return CudaAllocation(address, variable.size_bytes, variable.label)
        return None

    # Code and launches

    def load(self, code: CompiledCode) -> LoadedCode:
        """Load a cubin, and each of its kernels.

        Raises:
            KernelStalledError: the driver can't load beside running kernels, and one did not
                return for that; all work on.
            DeviceError: the code is for another target; or a grid that is no persistent kernel
                runs, and the driver can't load beside it (code ``"busy"``).
        """
        if code.target != self.target.name:
            raise DeviceError(
                f"code for {code.target!r} cannot run on {self._name!r}; compile it for "
                f"{self.target.name!r}",
                call="load",
                code="target",
            )
        if (lot := lot_of(self)) is None:
            with self._beside_own_kernels():
                loaded = self._load(code)
        else:
            with lot.quiet(self._name, "load"), self._beside_own_kernels():
                loaded = self.launches.idle(lambda: self._load(code), what="load")
        self._codes.append(loaded)
        return loaded

    def _beside_own_kernels(self) -> AbstractContextManager[object]:
        """Wait for ringflow's own kernels, which are short; none begins in the block."""
        return contextlib.nullcontext() if self._kernels is None else self._kernels.alone

    def _load(self, code: CompiledCode) -> CudaCode:
        with self.context.current():
            return load_module(self.context, code)

    def unload(self, code: LoadedCode) -> None:
        """Give code up; the driver gives it back when no kernel runs, since it waits for all."""
        assert isinstance(code, CudaCode), "the code was loaded by another kind of device"
        if code in self._codes:
            self.launches.when_idle(lambda: self._unload(code))

    def _unload(self, code: CudaCode) -> None:
        if code in self._codes:
            self._codes.remove(code)
            with contextlib.suppress(DeviceError), self.context.current():
                self._quietly("cuModuleUnload", code.module)

    def grid_that_fits(self, code: LoadedCode, entry_point: str, block: Dim3) -> int:
        """Return how many blocks are resident at once beside what runs now, at least 1."""
        assert isinstance(code, CudaCode), "the code was loaded by another kind of device"
        kernel = code.kernel(entry_point)
        with self.context.current():
            occupancy = kernel.occupancy(self.context, block[0] * block[1] * block[2], 0)
        return max(1, self.launches.room(occupancy))

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
        """Launch a grid if all of its blocks can be resident beside what runs.

        Args:
            memory: what the kernel may use; by default all that is allocated here. None of it
                becomes free before the grid has ended.
        Raises:
            EntryPointError: the code has no such kernel, or it takes other parameters.
            DeviceError: there is no room (codes ``"does not fit"``, ``"queues"``), it needs more
                than the device was opened for, or the driver refuses.
        """
        assert isinstance(code, CudaCode), "the code was loaded by another kind of device"
        claims = None if memory is None else frozenset(one.address for one in memory)
        with self._beside_own_kernels(), self.context.current():
            return self.launches.launch(
                code,
                code.kernel(entry_point),
                grid=grid,
                block=block,
                parameters=parameters,
                shared_bytes=dynamic_shared_bytes,
                claims=claims,
            )

    def close(self) -> None:
        """Give everything back; raises ``DeviceError`` while a launch lives. Twice is nothing."""
        with _open_lock:
            if self._closed:
                return
            alive = len(self.launches.live)
            if alive:
                raise DeviceError(
                    f"{self._name!r} has {alive} running launches; stop their kernels first",
                    call="close",
                    code="busy",
                )
            _refuse_beside(self.context.ordinal, self._name, "close", but=self)
            self._closed = True
            _open.discard(self)
            self._release()
            _release_left_over(self.ordinal)


@contextlib.contextmanager
def _kept_if_late(*ends: tuple[CudaDevice, Any, CudaAllocation]) -> Iterator[None]:
    """Where a copy in the block is given up, keep its memory from other uses until it has ended.

    Args:
        ends: a device, the stream of it that may make the copy, and its memory.
    """
    try:
        yield
    except DeviceError as error:
        if error.code == "timeout":
            for device, stream, _ in ends:
                for holder, _, at in ends:
                    device._unfinished.add(stream, holder._loans.keep(at.address))
        raise


def opened_on(ordinal: int) -> CudaDevice | None:
    """Return a device of this process that is open on a GPU."""
    return next((one for one in list(_open) if one.ordinal == ordinal), None)


def _release_left_over(ordinal: int) -> None:
    """Give back what closed devices of a GPU had to keep; no kernel runs there now."""
    for device in [one for one in _left_over if one.ordinal == ordinal]:
        _left_over.remove(device)
        device._release_memory()


def _refuse_beside(ordinal: int, name: str, call: str, *, but: CudaDevice | None = None) -> None:
    """Refuse what waits for all kernels of a context while another device of it runs some."""
    for device in _open:
        if device is not but and device.context.ordinal == ordinal and device.launches.live:
            raise DeviceError(
                f"{name!r} can't {call} while kernels run on the same GPU in this process; "
                f"share the open device, or {call} it while they don't",
                call=call,
                code="busy",
            )


def _close_all() -> None:
    """At the end of the interpreter: stop all grids, wait for them, give everything back."""
    devices = list(_open)
    launches = [launch for device in devices for launch in device.launches.live]
    for launch in launches:
        launch.ask_to_return()
    ends_at_s = time.monotonic() + EXIT_DEADLINE_S
    for launch in launches:
        launch.wait(max(0.0, ends_at_s - time.monotonic()))
    for device in devices:
        with contextlib.suppress(DeviceError):  # what still runs ends with the process
            device.close()


atexit.register(_close_all)
