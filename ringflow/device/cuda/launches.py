"""Grids on a GPU: launched into the room that the ledger has, and watched until they have ended.

- A grid's end is a word in mapped memory that its stream writes after it, so that native waits
  see it without a call of the driver. A thread looks at the streams besides: for the errors that
  end all grids of the context at once, and for streams that can't write words.
- What a grid uses (memory, its stream, its room) is given back when it has ended, never before.
- Stopping a grid is a command in mapped memory that it has to obey: a GPU has no other way.
"""

from __future__ import annotations

import ctypes
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, final

from ringflow.device.abi import ABI_MAGIC, CONTROL, CONTROL_BYTES, Command
from ringflow.device.api import LaunchStatus
from ringflow.device.cuda import driver
from ringflow.device.cuda.arena import CudaAllocation, CudaArena
from ringflow.device.cuda.code import CudaCode, CudaKernel
from ringflow.device.cuda.context import CudaContext
from ringflow.device.cuda.ledger import Ledger, Place
from ringflow.device.native import native, timeout_ns
from ringflow.device.native.layouts import ENTRY
from ringflow.errors import DeviceError, DeviceLostError, EntryPointError, KernelStalledError
from ringflow.spec import Dim3

WATCH_S: Final = 0.02
WATCH_CLOSELY_S: Final = 0.001
"""Where only the watching thread finds out that a grid has ended."""
ABORT_DEADLINE_S: Final = 2.0
STATUS_BYTES: Final = 4
_LOOK_S: Final = (100e-6, 1e-3)
_CLOSELY_S: Final = 0.02


@final
class CudaLaunch:
    """A grid that was launched on a GPU.

    Attributes:
        stream: it has this stream to itself while it runs.
        place: its room in the ledger.
        claims: addresses of the memory that it may use; None for all of the device's.
        control: host address of its control block, 0 if it has none.
        when_ended: what is done once it has.
    """

    def __init__(
        self,
        entry_point: str,
        status: CudaAllocation,
        *,
        code: CudaCode,
        stream: Any,
        place: Place,
        claims: frozenset[int] | None,
        control: int,
    ) -> None:
        self.entry_point = entry_point
        self._word = status
        self.code, self.stream, self.place = code, stream, place
        self.claims, self.control = claims, control
        self.when_ended: list[Callable[[], None]] = []
        self._final: LaunchStatus | None = None
        self._detail = ""

    @property
    def status(self) -> LaunchStatus:
        if self._final is not None:
            return self._final
        return LaunchStatus(native().load_u32(self._word.host_address))

    @property
    def status_address(self) -> int:
        return self._word.host_address

    @property
    def status_word(self) -> CudaAllocation:
        return self._word

    @property
    def detail(self) -> str:
        return self._detail

    @property
    def log(self) -> str:
        """Empty: the driver writes what kernels print to the process's standard output."""
        return ""

    def wait(self, timeout_s: float) -> LaunchStatus:
        """Block until the grid has ended or the time is up; return the status."""
        functions = native()
        start_s = time.monotonic()
        while (status := self.status) is LaunchStatus.RUNNING:
            passed_s = time.monotonic() - start_s
            if passed_s >= timeout_s:
                break
            look_s = _LOOK_S[0] if passed_s < _CLOSELY_S else _LOOK_S[1]
            longest_ns = timeout_ns(min(look_s, timeout_s - passed_s))
            functions.await_status(functions.room, self._word.host_address, longest_ns)
        return status

    def ask_to_return(self) -> None:
        """Give the grid the command to return, if it has a control block to look at."""
        if self.control and self.status is LaunchStatus.RUNNING:
            _command(self.control, Command.RETURN)

    def abort(self) -> None:
        """Tell the grid to return, and wait until it has.

        Raises:
            KernelStalledError: it did not obey; it goes on, and keeps its memory and its room.
        """
        if self.status is not LaunchStatus.RUNNING:
            return
        self.ask_to_return()
        if self.wait(ABORT_DEADLINE_S) is LaunchStatus.RUNNING:
            raise KernelStalledError(
                f"kernel {self.entry_point!r} did not return within {ABORT_DEADLINE_S:g} s, and a "
                "GPU stops no grid from outside; its memory stays taken until it ends: move the "
                "other kernels to another device and end the process, then look for a loop of it "
                "that does not end",
                call="abort",
                code="timeout",
            )

    def end(self, status: LaunchStatus, detail: str = "") -> None:
        """Note how it has ended, where no stream can say so, and tell those who wait."""
        self._detail = detail
        functions = native()
        functions.store_u32(self._word.host_address, status)
        functions.ring_host(functions.room)

    def finish(self) -> None:
        """Keep the status beyond the word, which goes with the device."""
        self._final = self.status

    @property
    def suspicion(self) -> int:
        """How likely it killed the context: 2 it says so itself, 1 it was at work, 0 it waited."""
        if not self.control:
            return 1
        functions = native()
        if functions.load_u32(self.control + CONTROL["fault"]):
            return 2
        taken, done = (
            functions.load(self.control + CONTROL[word])
            for word in ("taken_sequence", "done_sequence")
        )
        started = functions.load(self.control + CONTROL["started"])
        return int(taken != done or not started)


def _command(control: int, command: Command) -> None:
    """Give a command through a control block whose kernel's own entry is not at hand."""
    entry = ctypes.create_string_buffer(ENTRY.size_bytes + 64)
    address = -(-ctypes.addressof(entry) // 64) * 64
    functions = native()
    for word, value in (("control", control), ("room", functions.room)):
        ctypes.c_uint64.from_address(address + ENTRY[word]).value = value
    functions.command(address, command)


@final
class Launches:
    """The grids of one device."""

    def __init__(self, context: CudaContext, ledger: Ledger, mapped: CudaArena) -> None:
        """Make the streams; ``current`` is needed."""
        self._context, self._mapped = context, mapped
        self.ledger = ledger
        self._free_streams = [context.make_stream() for _ in range(ledger.queues_max)]
        self._lock = threading.RLock()
        self._live: list[CudaLaunch] = []
        self._idle_work: list[Callable[[], None]] = []
        self._forgotten: deque[int] = deque()  # words of launches that nobody has any more
        self._writes = context.attributes.writes_values
        self._watcher: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed = False

    @property
    def live(self) -> list[CudaLaunch]:
        """The launches that have not ended."""
        with self._lock:
            self._reap()
            return list(self._live)

    def room(self, occupancy: int) -> int:
        """Return how many blocks fit beside what runs now; see ``Ledger.fitting``."""
        with self._lock:
            self._reap()
            return self.ledger.fitting(occupancy)

    def launch(
        self,
        code: CudaCode,
        kernel: CudaKernel,
        *,
        grid: Dim3,
        block: Dim3,
        parameters: Sequence[bytes],
        shared_bytes: int,
        claims: frozenset[int] | None,
    ) -> CudaLaunch:
        """Launch a grid if there is room for all of its blocks; ``current`` is needed.

        Raises:
            EntryPointError: the kernel takes other parameters.
            DeviceError: there is no room, or the driver refuses.
        """
        _check_parameters(kernel, parameters)
        blocks, threads = grid[0] * grid[1] * grid[2], block[0] * block[1] * block[2]
        occupancy = kernel.occupancy(self._context, threads, shared_bytes)
        with self._lock:
            self._reap()
            self.collect_words()
            self._check_local_memory(kernel)
            place = self.ledger.take(kernel.name, blocks, occupancy)
            word: CudaAllocation | None = None
            try:
                word = self._mapped.take(STATUS_BYTES, label=f"{kernel.name}'s status")
                ctypes.memset(word.host_address, 0, STATUS_BYTES)
                stream = self._free_streams[-1]
                name = "cuLaunchCooperativeKernel" if place.cooperative else "cuLaunchKernel"
                shape = (*grid, *block, shared_bytes, stream)
                with _Marshalled(parameters) as marshalled:
                    if place.cooperative:
                        self._context.call(name, kernel.function, *shape, marshalled)
                    else:
                        self._context.call(name, kernel.function, *shape, marshalled, 0)
            except BaseException:
                self.ledger.give(place)
                if word is not None:
                    self._mapped.free(word.address)
                raise
            self._free_streams.pop()
            launch = CudaLaunch(
                kernel.name,
                word,
                code=code,
                stream=stream,
                place=place,
                claims=claims,
                control=self._control_among(parameters),
            )
            finalizer = weakref.finalize(launch, self._forgotten.append, word.address)
            finalizer.atexit = False
            self._live.append(launch)
            self._write_end(launch)
            self._watch()
        return launch

    def _check_local_memory(self, kernel: CudaKernel) -> None:
        """Refuse what would make the driver take memory, and wait for running grids, now."""
        context = self._context
        if kernel.local_bytes > context.local_memory_bytes:
            if self._live:
                raise DeviceError(
                    f"{kernel.name!r} needs {kernel.local_bytes} bytes of local memory a thread, "
                    f"{context.name!r} was opened with {context.local_memory_bytes}, and more is "
                    "to be had only while nothing runs; open it with a larger local_memory_bytes",
                    call="launch",
                    code="local memory",
                )
            limit = driver.bindings().CUlimit.CU_LIMIT_STACK_SIZE
            context.call("cuCtxSetLimit", limit, kernel.local_bytes)
            context.local_memory_bytes = kernel.local_bytes

    def _write_end(self, launch: CudaLaunch) -> None:
        """Have the stream write the status once the grid has ended."""
        if not self._writes:
            return
        try:
            self._context.call(
                "cuStreamWriteValue32",
                launch.stream,
                launch.status_word.address,
                int(LaunchStatus.COMPLETED),
                0,
            )
        except DeviceLostError:
            return  # the watcher tells
        except DeviceError:  # the driver can't after all: the watcher looks more closely
            self._writes = False

    def _control_among(self, parameters: Sequence[bytes]) -> int:
        """Return the host's address of the control block, the first parameter of a kernel."""
        if not parameters or len(parameters[0]) != 8:
            return 0
        found = self._mapped.find(int.from_bytes(parameters[0], "little"))
        if found is None or found.size_bytes != CONTROL_BYTES:
            return 0
        magic = ctypes.string_at(found.host_address + CONTROL["magic"], 4)
        return found.host_address if struct.unpack("<I", magic)[0] == ABI_MAGIC else 0

    def collect_words(self) -> None:
        """Take back the status words of launches that nobody has any more."""
        while self._forgotten:
            self._mapped.free(self._forgotten.popleft())

    @property
    def still(self) -> AbstractContextManager[object]:
        """A block in which no grid begins, and none that has ended is taken note of."""
        return self._lock

    def users_of(self, address: int) -> list[CudaLaunch]:
        """Return the live launches that may use memory at an address."""
        return [launch for launch in self.live if launch.claims is None or address in launch.claims]

    def when_idle(self, work: Callable[[], None]) -> None:
        """Do now what would wait for grids if none lives, else once none does."""
        with self._lock:
            self._reap()
            self._idle_work.append(work)
            self._work_if_idle()

    def idle(self, work: Callable[[], Any], *, what: str) -> Any:
        """Return ``work()``, done while no grid lives; raises ``DeviceError`` if one does."""
        with self._lock:
            self._reap()
            if self._live:
                names = ", ".join(sorted({launch.entry_point for launch in self._live}))
                raise DeviceError(
                    f"{what} on {self._context.name!r} would wait for its running kernels ({names})"
                    "; let them return first",
                    call=what,
                    code="busy",
                )
            return work()

    # Ends

    def _reap(self) -> None:
        """Give back what ended grids had; under the lock."""
        for launch in [one for one in self._live if one.status is not LaunchStatus.RUNNING]:
            self._live.remove(launch)
            launch.finish()
            self.ledger.give(launch.place)
            self._free_streams.append(launch.stream)
            for work in launch.when_ended:
                work()
            launch.when_ended.clear()
        self._work_if_idle()

    def _work_if_idle(self) -> None:
        while self._idle_work and not self._live:
            self._idle_work.pop(0)()

    def _watch(self) -> None:
        self._wake.set()
        if self._watcher is None:
            self._watcher = threading.Thread(
                target=self._watch_all, name=f"ringflow-{self._context.name}", daemon=True
            )
            self._watcher.start()

    def _watch_all(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            while not self._closed and self.look():
                self._wake.wait(WATCH_S if self._writes else WATCH_CLOSELY_S)
                self._wake.clear()

    def look(self) -> bool:
        """Look once at all streams; return whether a grid lives on."""
        with self._lock:
            running = [one for one in self._live if one.status is LaunchStatus.RUNNING]
            try:
                self._context.check()
                if running:
                    with self._context.current():
                        for launch in running:
                            if self._context.ask("cuStreamQuery", launch.stream):
                                launch.end(LaunchStatus.COMPLETED)
            except DeviceLostError as error:
                self._lose(running, error)
            except DeviceError:
                pass  # what one query could not tell, the next one will
            self._reap()
            return bool(self._live)

    def _lose(self, running: Sequence[CudaLaunch], error: DeviceLostError) -> None:
        """End all launches: the likeliest culprits as trapped, the others as aborted."""
        most = max((launch.suspicion for launch in running), default=0)
        for launch in running:
            trapped = launch.suspicion == most
            launch.end(LaunchStatus.TRAPPED if trapped else LaunchStatus.ABORTED, str(error))

    def close(self) -> None:
        """End the watching; no grid lives."""
        self._closed = True
        self._wake.set()
        if self._watcher is not None:
            self._watcher.join()


class _Marshalled:
    """Parameters as the driver takes them: the address of an array of addresses of values."""

    def __init__(self, parameters: Sequence[bytes]) -> None:
        self._values = [ctypes.create_string_buffer(one, len(one)) for one in parameters]
        addresses = [ctypes.addressof(value) for value in self._values]
        self._array = (ctypes.c_void_p * max(1, len(addresses)))(*addresses)

    def __enter__(self) -> int:
        return ctypes.addressof(self._array)

    def __exit__(self, *error: object) -> None:
        self._values.clear()


def _check_parameters(kernel: CudaKernel, parameters: Sequence[bytes]) -> None:
    sizes = tuple(len(parameter) for parameter in parameters)
    if sizes != kernel.parameter_sizes:
        raise EntryPointError(
            f"kernel {kernel.name!r} takes parameters of {list(kernel.parameter_sizes)} bytes, got "
            f"{list(sizes)}",
            call="launch",
            code="parameters",
        )
