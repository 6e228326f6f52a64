"""Grids on a GPU: launched into the room that the ledger has, and watched until they have ended.

- A thread looks at the streams: for the errors that end all grids of the context at once, and for
  streams that can't write words.
- What a grid uses (memory, its stream, its room) is given back when it has ended, never before.
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

from ringflow.device.abi import ABI_MAGIC, CONTROL, CONTROL_BYTES
from ringflow.device.api import LaunchStatus
from ringflow.device.cuda import driver
from ringflow.device.cuda.arena import CudaAllocation, CudaArena
from ringflow.device.cuda.code import CudaCode, CudaKernel
from ringflow.device.cuda.context import CudaContext
from ringflow.device.cuda.grids import join_grids, leave_grids
from ringflow.device.cuda.launch import CudaLaunch
from ringflow.errors import DeviceError, DeviceLostError, EntryPointError
from ringflow.spec import Dim3

WATCH_S: Final = 0.02
WATCH_CLOSELY_S: Final = 0.001
"""Where only the watching thread finds out that a grid has ended."""
UNANSWERED_S: Final = 5.0
"""A GPU whose every query has failed alike for so long is lost, whatever the error is."""
STATUS_BYTES: Final = 4
_OF_CAPTURES: Final = ("CUDA_ERROR_STREAM_CAPTURE_", "CUDA_ERROR_CAPTURED_EVENT")
_now_s: Final = time.monotonic


@final
class Launches:
    """The grids that were launched on a GPU through one device.

    Attributes:
        grids: these, and those of others who opened the same GPU in this process.
    """

    def __init__(self, context: CudaContext, mapped: CudaArena) -> None:
        """Join the GPU's grids; ``current`` is needed."""
        self._context, self._mapped = context, mapped
        self.grids = join_grids(context)
        self._lock = self.grids.lock
        self._forgotten: deque[int] = deque()  # words of launches that nobody has any more
        self._writes = context.attributes.writes_values
        self._watcher: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed = False
        self._failing: tuple[str, float] | None = None  # the error of all queries, and since when

    @property
    def live(self) -> list[CudaLaunch]:
        """The launches that have not ended."""
        with self._lock:
            self.grids.reap()
            return [launch for launch in self.grids.live if launch.owner is self]

    def room(self, occupancy: int) -> int:
        """Return how many blocks fit beside what runs now; see ``Ledger.fitting``."""
        with self._lock:
            self.grids.reap()
            return self.grids.ledger.fitting(occupancy)

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
            self.grids.reap()
            self.collect_words()
            self._check_local_memory(kernel)
            place = self.grids.ledger.take(kernel.name, blocks, occupancy)
            word: CudaAllocation | None = None
            try:
                word = self._mapped.take(STATUS_BYTES, label=f"{kernel.name}'s status")
                ctypes.memset(word.host_address, 0, STATUS_BYTES)
                stream = self.grids.streams[-1]
                name = "cuLaunchCooperativeKernel" if place.cooperative else "cuLaunchKernel"
                shape = (*grid, *block, shared_bytes, stream)
                with _Marshalled(parameters) as marshalled:
                    if place.cooperative:
                        self._context.call(name, kernel.function, *shape, marshalled)
                    else:
                        self._context.call(name, kernel.function, *shape, marshalled, 0)
            except BaseException:
                self.grids.ledger.give(place)
                if word is not None:
                    self._mapped.free(word.address)
                raise
            self._suspect(None)  # the driver answers
            self.grids.streams.pop()
            launch = CudaLaunch(
                kernel.name,
                word,
                owner=self,
                code=code,
                stream=stream,
                place=place,
                claims=claims,
                control=self._control_among(parameters),
            )
            finalizer = weakref.finalize(launch, self._forgotten.append, word.address)
            finalizer.atexit = False
            self.grids.live.append(launch)
            self._write_end(launch)
            self._watch()
        return launch

    def _check_local_memory(self, kernel: CudaKernel) -> None:
        """Refuse what would make the driver take memory, and wait for running grids, now."""
        context = self._context
        if kernel.local_bytes > context.local_memory_bytes:
            if self.grids.live:
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
        with self._lock:
            while self._forgotten:
                self._mapped.free(self._forgotten.popleft())

    @property
    def still(self) -> AbstractContextManager[object]:
        """A block in which no grid begins, and none that has ended is taken note of."""
        return self._lock

    def users_of(self, address: int) -> list[CudaLaunch]:
        """Return the live launches that may use memory at an address."""
        return [launch for launch in self.live if launch.claims is None or address in launch.claims]

    def idle(self, work: Callable[[], Any], *, what: str) -> Any:
        """Return ``work()``, done while no grid lives; raises ``DeviceError`` if one does."""
        with self._lock:
            self.grids.reap()
            if live := self.grids.live:
                names = ", ".join(sorted({launch.entry_point for launch in live}))
                raise DeviceError(
                    f"{what} on {self._context.name!r} would wait for its running kernels ({names})"
                    "; let them return first",
                    call=what,
                    code="busy",
                )
            return work()

    # Ends

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
            running = [one for one in self.live if one.status is LaunchStatus.RUNNING]
            try:
                self._context.check()
                if running:
                    self._suspect(self._failure_of(running))
            except DeviceLostError as error:
                self._lose(running, error)
            return bool(self.live)

    def _failure_of(self, running: Sequence[CudaLaunch]) -> DeviceError | None:
        """Take note of the grids that have ended; return an error that every query came to.

        Raises:
            DeviceLostError: the context is dead.
        """
        errors: list[DeviceError] = []
        try:
            with self._context.current():
                for launch in running:
                    try:
                        if self._context.ask("cuStreamQuery", launch.stream):
                            launch.end(LaunchStatus.COMPLETED)
                    except DeviceLostError:
                        raise
                    except DeviceError as error:  # what it could not tell, the next one will
                        errors.append(error)
        except DeviceLostError:
            raise
        except DeviceError as error:
            return error
        is_unanimous = len(errors) == len(running) and len({one.code for one in errors}) == 1
        return errors[0] if is_unanimous else None

    def _suspect(self, error: DeviceError | None) -> None:
        """Take a context for dead that has answered every query of a time with one error.

        Raises:
            DeviceLostError: it is.
        """
        if error is None or error.code.startswith(_OF_CAPTURES):
            self._failing = None
        elif self._failing is None or self._failing[0] != error.code:
            self._failing = error.code, _now_s()
        elif _now_s() - self._failing[1] >= UNANSWERED_S:
            raise self._context.given_up(error)

    def _lose(self, running: Sequence[CudaLaunch], error: DeviceLostError) -> None:
        """End all launches: the likeliest culprits as trapped, the others as aborted."""
        most = max((launch.suspicion for launch in running), default=0)
        for launch in running:
            trapped = launch.suspicion == most
            launch.end(LaunchStatus.TRAPPED if trapped else LaunchStatus.ABORTED, str(error))

    def close(self) -> None:
        """End the watching, and leave the GPU's grids; none lives."""
        self._closed = True
        self._wake.set()
        if self._watcher is not None:
            self._watcher.join()
        leave_grids(self._context)


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
