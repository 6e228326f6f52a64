"""A GPU's primary context, as ringflow holds it from the opening of a device to its close.

- Limits whose change would wait for running kernels are set once, when it is made.
- A thread has the context only within ``current``, so that other libraries keep theirs; within it,
  captures of graphs in other threads forbid nothing, and nothing spoils them.
- Nothing ever waits for the whole context; ``await_event`` waits for one event, with a deadline.
- After an error that kills the context, every call raises ``DeviceLostError``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, final

import attrs

from ringflow.device.cuda import driver
from ringflow.device.registry import CUDA_NAME, KNOWN_FORMS
from ringflow.errors import DeviceError, DeviceLostError, UnknownDeviceError

LOCAL_MEMORY_BYTES: Final = 1024
FRAME_BYTES: Final = 16
"""What a thread's local memory is a multiple of."""
PRINTF_BYTES: Final = 1 << 20
HEAP_BYTES: Final = 8 << 20
_SPIN_S: Final = 50e-6
_NAP_S: Final = (20e-6, 1e-3)


@attrs.frozen(kw_only=True)
class Attributes:
    """What the driver says of a GPU, as far as ringflow asks.

    Attributes:
        architecture: ``"sm_90"``.
        sm_count: its multiprocessors.
        memory_bytes: all of its memory.
        max_shared_bytes: shared memory that a block may ask for.
        kills_long_kernels: it has a display, and the driver ends kernels that run for seconds.
        writes_values: a stream can write a word by itself (``cuStreamWriteValue32``).
    """

    name: str
    uuid: str
    architecture: str
    sm_count: int
    memory_bytes: int
    max_shared_bytes: int
    max_threads: int
    maps_host_memory: bool
    launches_cooperatively: bool
    has_unified_addresses: bool
    kills_long_kernels: bool
    writes_values: bool


def ordinal_of(name: str) -> int:
    """Return the driver's ordinal of ``"cuda:N"`` or ``"cuda:GPU-UUID"``; starts CUDA.

    Raises:
        UnknownDeviceError: no device has this name.
        DeviceError: CUDA does not start.
    """
    found = CUDA_NAME.match(name)
    if not found:
        raise UnknownDeviceError(name, KNOWN_FORMS, advice="name one of these forms")
    driver.start()
    count: int = driver.call("cuDeviceGetCount")
    if found[1] is not None:
        ordinals = [int(found[1])] if int(found[1]) < count else []
    else:
        digits = found[2][4:].lower()  # a slice of a GPU (MIG) has a UUID of its own
        ordinals = [i for i in range(count) if uuid_of(i)[4:] == digits]
    if not ordinals:
        known = [f"cuda:{i} ({uuid_of(i)})" for i in range(count)]
        raise UnknownDeviceError(
            name,
            tuple(known),
            advice="correct the name, or look at CUDA_VISIBLE_DEVICES, which hides devices",
        )
    return ordinals[0]


def uuid_of(ordinal: int) -> str:
    """Return a device's UUID as nvidia-smi writes it: ``GPU-`` and 36 characters."""
    handle = driver.call("cuDeviceGet", ordinal)
    digits = bytes(driver.call("cuDeviceGetUuid", handle).bytes).hex()
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return f"GPU-{'-'.join(parts)}"


def attributes_of(ordinal: int) -> Attributes:
    """Ask the driver about a device; makes no context."""
    handle = driver.call("cuDeviceGet", ordinal)
    names = driver.bindings().CUdevice_attribute

    def number(attribute: str) -> int:
        value: int = driver.call(
            "cuDeviceGetAttribute", getattr(names, f"CU_DEVICE_ATTRIBUTE_{attribute}"), handle
        )
        return value

    name: bytes = driver.call("cuDeviceGetName", 256, handle)
    return Attributes(
        name=name.split(b"\0")[0].decode(errors="replace"),
        uuid=uuid_of(ordinal),
        architecture=f"sm_{number('COMPUTE_CAPABILITY_MAJOR')}{number('COMPUTE_CAPABILITY_MINOR')}",
        sm_count=number("MULTIPROCESSOR_COUNT"),
        memory_bytes=int(driver.call("cuDeviceTotalMem", handle)),
        max_shared_bytes=number("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
        max_threads=number("MAX_THREADS_PER_BLOCK"),
        maps_host_memory=bool(number("CAN_MAP_HOST_MEMORY")),
        launches_cooperatively=bool(number("COOPERATIVE_LAUNCH")),
        has_unified_addresses=bool(number("UNIFIED_ADDRESSING")),
        kills_long_kernels=bool(number("KERNEL_EXEC_TIMEOUT")),
        writes_values=bool(number("CAN_USE_64_BIT_STREAM_MEM_OPS")),
    )


def refusal_of(attributes: Attributes) -> tuple[str, str]:
    """Return why persistent kernels can't run on a device, and a code for it; empty if they can."""
    if attributes.kills_long_kernels:
        return (
            "its display driver ends kernels that run for seconds (KERNEL_EXEC_TIMEOUT); use a "
            "GPU without a display, or switch the driver's watchdog off",
            "kernel timeout",
        )
    lacking = {
        "mapped host memory": attributes.maps_host_memory,
        "cooperative launches": attributes.launches_cooperatively,
        "unified addresses": attributes.has_unified_addresses,
    }
    lacks = [what for what, there in lacking.items() if not there]
    if lacks:
        return f"it has no {' and no '.join(lacks)}; use a GPU that has", "not supported"
    return "", ""


@contextlib.contextmanager
def made_current(context: Any) -> Iterator[None]:
    """Make a context the calling thread's for the block, beside captures of graphs.

    While any thread captures in the global mode (PyTorch's default), a query in another thread is
    refused, and spoils that capture, unless the thread says that it has no part in it.
    """
    mode = driver.bindings().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    mode = driver.call("cuThreadExchangeStreamCaptureMode", mode)
    try:
        driver.call("cuCtxPushCurrent", context)
        try:
            yield
        finally:
            driver.give_back("cuCtxPopCurrent")  # what was done in the block is done
    finally:
        driver.give_back("cuThreadExchangeStreamCaptureMode", mode)


def ends_within(timeout_s: float, has_ended: Callable[[], bool]) -> bool:
    """Block until something has ended or the time is up; return whether it has."""
    start_s = time.monotonic()
    nap_s = _NAP_S[0]
    while not has_ended():
        passed_s = time.monotonic() - start_s
        if passed_s > timeout_s:
            return False
        if passed_s > _SPIN_S:
            time.sleep(nap_s)
            nap_s = min(2 * nap_s, _NAP_S[1])
    return True


@final
class CudaContext:
    """The primary context of one GPU.

    Attributes:
        name: of the device, in errors.
        lost: the error that has killed the context, None while it lives.
        closed: whether the device was closed, so that nothing is there any more.
        local_memory_bytes: what a thread may use without a launch that waits for running kernels.
    """

    def __init__(
        self, ordinal: int, *, name: str = "", local_memory_bytes: int = LOCAL_MEMORY_BYTES
    ) -> None:
        """Retain the context and set its limits.

        Raises:
            DeviceError: the GPU can't run persistent kernels, or the driver refuses.
        """
        driver.start()
        self.ordinal = ordinal
        self.name = name or f"cuda:{ordinal}"
        self.attributes = attributes_of(ordinal)
        self.lost: DeviceLostError | None = None
        self.closed = False
        self.local_memory_bytes = -(-local_memory_bytes // FRAME_BYTES) * FRAME_BYTES
        reason, code = refusal_of(self.attributes)
        if reason:
            raise DeviceError(
                f"{self.name!r} ({self.attributes.name}) can't run persistent kernels: {reason}",
                call="open",
                code=code,
            )
        self.device = self.call("cuDeviceGet", ordinal)
        self.handle: Any = self.call("cuDevicePrimaryCtxRetain", self.device)
        self._streams: list[Any] = []
        self._events: list[Any] = []
        try:
            with self.current():
                self._set_limits()
        except BaseException:
            self.close()
            raise

    @property
    def uuid(self) -> str:
        return self.attributes.uuid

    def _set_limits(self) -> None:
        limits = driver.bindings().CUlimit
        for limit, value in (
            (limits.CU_LIMIT_STACK_SIZE, self.local_memory_bytes),
            (limits.CU_LIMIT_PRINTF_FIFO_SIZE, PRINTF_BYTES),
            (limits.CU_LIMIT_MALLOC_HEAP_SIZE, HEAP_BYTES),
        ):
            if int(self.call("cuCtxGetLimit", limit)) < value:
                self.call("cuCtxSetLimit", limit, value)

    def current(self) -> AbstractContextManager[None]:
        """Make the context the calling thread's for the block, a dead one too."""
        return made_current(self.handle)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call the driver, as ``driver.call``; most calls need ``current`` around them.

        Raises:
            DeviceLostError: this call or one before it has found the context dead.
            DeviceError: the call failed otherwise.
        """
        self.check()
        try:
            return driver.call(name, *arguments)
        except DeviceError as error:
            raise self.noted(error) from error

    def ask(self, name: str, *arguments: Any) -> bool:
        """Ask whether something has ended, as ``driver.ask``; errors as ``call``."""
        self.check()
        try:
            return driver.ask(name, *arguments)
        except DeviceError as error:
            raise self.noted(error) from error

    def check(self) -> None:
        """Raise ``DeviceLostError`` if the context is dead, ``DeviceError`` if it is closed."""
        if self.lost is not None:
            raise DeviceLostError(
                self.name, str(self.lost.__cause__), call=self.lost.call, code=self.lost.code
            ) from self.lost.__cause__
        if self.closed:
            raise DeviceError(f"{self.name!r} is closed; open it again", call="open", code="closed")

    def noted(self, error: DeviceError) -> DeviceError:
        """Return an error of the driver, as ``DeviceLostError`` if it kills the context."""
        found = driver.told_as_lost(error, self.name)
        if isinstance(found, DeviceLostError):
            self.lost = self.lost or found
        return found

    def given_up(self, error: DeviceError) -> DeviceLostError:
        """Take the context for dead: it answers nothing but this error; return that as lost."""
        self.lost = self.lost or driver.as_lost(error, self.name)
        return self.lost

    # Streams and events

    def make_stream(self) -> Any:
        """Return a stream that never waits for the legacy one; it lives as long as the context."""
        flag = driver.bindings().CUstream_flags.CU_STREAM_NON_BLOCKING
        stream = self.call("cuStreamCreate", flag)
        self._streams.append(stream)
        return stream

    def make_event(self) -> Any:
        """Return an event without a time; it lives until ``drop_event``, or as the context."""
        flag = driver.bindings().CUevent_flags.CU_EVENT_DISABLE_TIMING
        event = self.call("cuEventCreate", flag)
        self._events.append(event)
        return event

    def drop_event(self, event: Any) -> None:
        """Destroy an event; ``current`` is needed. A dead context's goes with it."""
        self._events.remove(event)
        driver.give_back("cuEventDestroy", event)

    def await_event(self, event: Any, timeout_s: float, *, what: str) -> None:
        """Block until all before an event has ended; ``current`` is needed.

        Raises:
            DeviceError: the time is up (code ``"timeout"``), or the context is lost.
        """
        if not ends_within(timeout_s, partial(self.ask, "cuEventQuery", event)):
            raise DeviceError(
                f"{what} on {self.name!r} has not ended within {timeout_s:g} s; a kernel holds "
                "what it needs, or the GPU hangs: look at nvidia-smi, give kernels smaller "
                "grids, and keep other streams of this process off the device",
                call=what,
                code="timeout",
            )

    def close(self) -> None:
        """Destroy streams and events and give the context back; a dead one is given back too."""
        with contextlib.suppress(DeviceError), self.current():
            while self._events:
                self.drop_event(self._events[-1])
            while self._streams:
                driver.give_back("cuStreamDestroy", self._streams.pop())
        driver.give_back("cuDevicePrimaryCtxRelease", self.device)
