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
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, final

from ringflow.device.api import Allocation, Device, Launch, LoadedCode, MappedAllocation
from ringflow.device.compiler.api import CompiledCode, CompileTarget
from ringflow.device.cuda import driver
from ringflow.device.cuda.code import CudaCode, load_module
from ringflow.device.cuda.context import LOCAL_MEMORY_BYTES, CudaContext, ordinal_of, uuid_of
from ringflow.device.cuda.grids import has_live, held_off, is_used
from ringflow.device.cuda.launches import Launches
from ringflow.device.cuda.loading import loads_while_running
from ringflow.device.cuda.loans import Loan
from ringflow.device.cuda.memory import CudaMemory
from ringflow.device.cuda.memory_kernels import (
    DIGEST_BUFFER_BYTES,
    MemoryKernels,
    compile_memory_kernels,
)
from ringflow.device.cuda.peers import Member, shared_peers
from ringflow.device.cuda.priming import prime
from ringflow.device.cuda.staging import Staging
from ringflow.device.cuda.topology import HOST_PATH
from ringflow.device.parking import Lot, shared_lot
from ringflow.errors import DeviceError
from ringflow.files import Buffer
from ringflow.spec import Dim3

MAPPED_LIMIT_BYTES: Final = 256 << 20
UNLOADS_WAITING_MAX: Final = 16
EXIT_DEADLINE_S: Final = 5.0

_open_lock = threading.RLock()
_open: set[CudaDevice] = set()
"""Those that nobody has any more too: their kernels run on, and have their memory."""
_left_over: list[tuple[int, Callable[[], None]]] = []
"""What is to be given back once no kernel runs on a GPU, by its ordinal: what an opening took in
which a kernel got stuck, and memory that other libraries had still when its device was closed."""


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
        self._memory: CudaMemory | None = None
        self._launches: Launches | None = None
        self._peer: Member | None = None
        self._codes: list[CudaCode] = []
        self._loads_while_running = loads_while_running(ordinal).works
        with _changing(ordinal, uuid_of(ordinal)):
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
        memory = CudaMemory(context, memory_bytes=memory_bytes, mapped_bytes=mapped_bytes)
        self._memory = memory
        self._launches = memory.launches = Launches(context, memory.mapped)
        prime(context, self._launches)
        memory.kernels = self._memory_kernels()
        self._peer = shared_peers().join(
            context, while_idle=self._launches.idle, scratch=memory.scratch
        )
        memory.member = self._peer

    def _memory_kernels(self) -> MemoryKernels | None:
        """Load ringflow's own kernels while nothing runs; without a compiler there are none."""
        compiled = compile_memory_kernels(self.target)
        if compiled is None:
            return None
        code = self._load(compiled)
        self._codes.append(code)
        buffer = self.memory.mapped.take(DIGEST_BUFFER_BYTES, label="digests")
        return MemoryKernels(self.context, self.launches, code, buffer)

    def _release(self) -> None:
        """Give back what there is, in the order that the driver needs; errors are of no use now.

        Beside a kernel that got stuck in the opening nothing is: each call would wait for it. All
        stays taken then until the GPU is opened again, which is refused while the kernel runs.
        """
        context = self.context
        if self._launches is not None and self._launches.live:
            _left_over.append((self.ordinal, self._release))
            return
        if self._peer is not None:
            shared_peers().leave(self._peer)
        if self._launches is not None:
            self._launches.close()
        if self._memory is not None:  # what is given back below would wait for them, without end
            self._memory.await_late_copies()
        context.closed = True
        with contextlib.suppress(DeviceError), context.current():
            for code in self._codes:
                driver.give_back("cuModuleUnload", code.module)
            if self._memory is not None:
                self._memory.release_pinned()
        self._codes.clear()
        if self._memory is None:
            context.close()
        else:
            self._memory.loans.after_all(self._release_memory)

    def _release_memory(self) -> None:
        """Give the GPU's memory back, now or once no device is open that this would wait for."""
        if is_used(self.ordinal):  # no lock: a loan may end anywhere
            _left_over.append((self.ordinal, self._release_memory))
            return
        with contextlib.suppress(DeviceError), self.context.current():
            self.memory.release()
        self.context.close()

    # Identity

    def __repr__(self) -> str:
        return f"CudaDevice({self._name!r})"

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
        return self.memory.arena.size_bytes

    @property
    def free_bytes(self) -> int:
        self.memory.collect()
        return self.memory.arena.free_bytes

    @property
    def mapped_free_bytes(self) -> int:
        """What is left of the memory that is shared with the host."""
        self.launches.collect_words()
        return self.memory.mapped.free_bytes

    @property
    def rings(self) -> bool:
        return False

    @property
    def loads_while_running(self) -> bool:
        return self._loads_while_running

    @property
    def lot(self) -> Lot:
        """Where the context's persistent kernels are parked."""
        return shared_lot(self.uuid)

    @property
    def lost(self) -> str:
        """Why the context, and with it all that the device had, is gone; empty if it is not."""
        return str(self.context.lost or "")

    @property
    def memory(self) -> CudaMemory:
        assert self._memory is not None, "the device is not open"
        return self._memory

    @property
    def staging(self) -> Staging:
        return self.memory.staging

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
        return self.memory.allocate(size_bytes, label=label)

    def allocate_mapped(self, size_bytes: int, *, label: str) -> MappedAllocation:
        """Take zeroed host memory that kernels see; raises ``DeviceMemoryError``."""
        return self.memory.allocate_mapped(size_bytes, label=label)

    def lend(self, allocation: Allocation) -> Loan:
        """Keep an allocation's memory as it is, freed or not, for as long as the result lives.

        Raises:
            DeviceError: it is not this device's own memory.
        """
        return self.memory.lend(allocation)

    def free(self, allocation: Allocation) -> None:
        """Give memory back; what a live grid, or another library, may use is kept until it ends.

        Raises:
            DeviceError: it is not this device's, or was freed before.
        """
        self.memory.free(allocation)

    def copy_in(self, target: Allocation, data: Buffer, *, offset_bytes: int = 0) -> None:
        """Copy bytes to device memory; raises ``DeviceError`` if they reach past its end."""
        self.memory.copy_in(target, data, offset_bytes=offset_bytes)

    def copy_out(
        self, source: Allocation, *, offset_bytes: int = 0, size_bytes: int | None = None
    ) -> memoryview:
        """Return a copy (uint8) of device memory; raises ``DeviceError`` past its end."""
        return self.memory.copy_out(source, offset_bytes=offset_bytes, size_bytes=size_bytes)

    def view(self, source: Allocation) -> memoryview | None:
        """Return mapped memory itself; ``None`` for memory of the GPU, which needs a copy."""
        return self.memory.view(source)

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
        if isinstance(peer, CudaDevice):
            return self.memory.copy_to_gpu(source, peer.memory, target)
        self.memory.copy_to_host(source, peer, target)
        return HOST_PATH

    def digest_blocks(self, source: Allocation) -> bytes:
        """Return the 16-byte xxh3-128 of each 64 KiB block, read from the device's memory."""
        return self.memory.digest_blocks(source)

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
        self.context.check()
        if self.loads_while_running:
            with self._alone():
                loaded = self._load(code)
        else:
            with self.lot.quiet(self._name, "load"), self._alone():
                loaded = self.launches.idle(lambda: self._load(code), what="load")
        self._codes.append(loaded)
        for variable in loaded.globals:
            self.memory.add_variable(variable)
        return loaded

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Make the context current, and hold launches, loads, openings and closings off."""
        with self.launches.grids.alone:
            self.context.check()  # it may have been closed meanwhile
            with self.context.current():
                yield

    def _load(self, code: CompiledCode) -> CudaCode:
        return load_module(self.context, code, unload=self._unload)

    def _unload(self, module: Any) -> None:
        self.launches.grids.unload(self.context, module)

    def unload(self, code: LoadedCode) -> None:
        """Give code up; the driver gives it back when no kernel runs, since it waits for all.

        Where none of the persistent ones ever returns they are parked for it, once in a while.
        """
        assert isinstance(code, CudaCode), "the code was loaded by another kind of device"
        if code in self._codes:
            self._codes.remove(code)
            for variable in code.globals:
                self.memory.remove_variable(variable)
            self._unload(code.module)
            if self.launches.grids.waiting_count > UNLOADS_WAITING_MAX:
                with contextlib.suppress(DeviceError), self.lot.quiet(self._name, "unload"):
                    self.launches.grids.reap()

    def grid_that_fits(
        self, code: LoadedCode, entry_point: str, block: Dim3, *, dynamic_shared_bytes: int = 0
    ) -> int:
        """Return how many blocks are resident at once beside what runs now, at least 1."""
        assert isinstance(code, CudaCode), "the code was loaded by another kind of device"
        kernel = code.kernel(entry_point)
        self.context.check()
        with self.context.current():
            threads = block[0] * block[1] * block[2]
            occupancy = kernel.occupancy(self.context, threads, dynamic_shared_bytes)
        with self.lot.lock:  # the place of a parked grid is taken
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
        with self.lot.lock, self._alone():
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
        with _changing(self.ordinal, self.uuid):
            if self.context.closed:
                return
            alive = len(self.launches.live)
            if alive:
                raise DeviceError(
                    f"{self._name!r} has {alive} running launches; stop their kernels first",
                    call="close",
                    code="busy",
                )
            _refuse_beside(self.ordinal, self._name, "close")
            _open.discard(self)
            self._release()
            _release_left_over(self.ordinal)


@contextlib.contextmanager
def _changing(ordinal: int, uuid: str) -> Iterator[None]:
    """A block that opens or closes a GPU: no grid is parked or launched there, nothing loaded."""
    with _open_lock, shared_lot(uuid).lock, held_off(ordinal):
        yield


def opened_on(ordinal: int) -> CudaDevice | None:
    """Return a device of this process that is open on a GPU."""
    return next((one for one in list(_open) if one.ordinal == ordinal), None)


def _release_left_over(ordinal: int) -> None:
    """Give back what closed devices of a GPU had to keep; no kernel runs there now."""
    for left in [one for one in _left_over if one[0] == ordinal]:
        _left_over.remove(left)
        left[1]()


def _refuse_beside(ordinal: int, name: str, call: str) -> None:
    """Refuse what waits for all kernels of a context while it runs some."""
    if has_live(ordinal):
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
