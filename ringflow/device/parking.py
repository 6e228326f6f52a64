"""Parking: a context's grids return for a moment, and go on as if nothing had been.

- For devices that can't unload code beside a running grid, and those that can't load it either.
- A parked grid goes on with its rings, its message numbers and its commands: neither who posts nor
  the pump takes part. The regions hold its state, as after any return.
- Grids are launched, ended and parked under one lock a context, so none starts in between.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, Protocol

import attrs

from ringflow.device.api import Device, LaunchStatus
from ringflow.device.native import native
from ringflow.errors import DeviceError

PARK_TIMEOUT_S: Final = 10.0


class Parkable(Protocol):
    """A persistent kernel, as far as it can be parked; see ``ResidentKernel``."""

    @property
    def kernel_id(self) -> str: ...
    def give_way(self) -> bool:
        """Ask the grid to return; False if none runs, or it was to return anyway."""

    def await_gone(self, timeout_s: float) -> None:
        """Block until no grid runs; raises ``KernelStalledError`` when the time is up."""

    def go_on(self, timeout_s: float) -> None:
        """Let the kernel work on where it was; nothing happens if it has not given way."""


@attrs.frozen(kw_only=True)
class Pause:
    """What a parking did.

    Attributes:
        purpose: ``"load"`` or ``"unload"``.
        kernels: ids of the kernels whose grids were parked; not those that were to return anyway.
        pause_ns: from the first return asked for until all went on.
        failure: why the parking came to nothing; empty if it did not.
    """

    device: str
    purpose: str
    kernels: tuple[str, ...]
    pause_ns: int
    failure: str = ""


class Lot:
    """The persistent kernels of one context, whoever opened it.

    Attributes:
        lock: held while a grid of the context is launched or ended, and while all are parked.
        timeout_s: until the grids must have returned, and again until they go on.
    """

    def __init__(self, *, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.lock = threading.RLock()
        self._now_ns = now_ns
        self.timeout_s = PARK_TIMEOUT_S
        self._kernels: weakref.WeakKeyDictionary[Parkable, None] = weakref.WeakKeyDictionary()
        self._listeners: list[Callable[[Pause], None]] = []
        self._parked = False

    def enter(self, kernel: Parkable) -> None:
        """Park a kernel with the others from now on, as long as it is there."""
        with self.lock:
            self._kernels[kernel] = None

    @contextmanager
    def heard_by(self, listener: Callable[[Pause], None]) -> Iterator[None]:
        """Tell of each pause within the block, in the thread that made it."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    @contextmanager
    def quiet(self, device: str, purpose: str) -> Iterator[None]:
        """Keep the context free of persistent grids for the block.

        Raises:
            KernelStalledError: one has not returned in time; all work on, the block is not entered.
        """
        with self.lock:
            if self._parked:
                yield
                return
            self._parked = True
            try:
                yield from self._parking(device, purpose)
            finally:
                self._parked = False

    def _parking(self, device: str, purpose: str) -> Iterator[None]:
        started_ns = self._now_ns()
        kernels = tuple(self._kernels)
        parked: list[str] = []
        failure = ""
        try:
            parked.extend(kernel.kernel_id for kernel in kernels if kernel.give_way())
            for kernel in kernels:
                left_s = self.timeout_s - (self._now_ns() - started_ns) / 1e9
                kernel.await_gone(max(0.0, left_s))
        except BaseException as error:
            failure = str(error) or type(error).__name__
            raise
        else:
            yield
        finally:
            with ExitStack() as stack:  # whatever becomes of one, the others go on
                if parked:
                    stack.callback(self._tell, device, purpose, parked, started_ns, failure)
                for kernel in reversed(kernels):
                    stack.callback(self._let_go_on, kernel)

    def _let_go_on(self, kernel: Parkable) -> None:
        with suppress(DeviceError):  # who waits for it is told by its status
            kernel.go_on(self.timeout_s)

    def _tell(
        self, device: str, purpose: str, parked: list[str], started_ns: int, failure: str
    ) -> None:
        pause = Pause(
            device=device,
            purpose=purpose,
            kernels=tuple(sorted(parked)),
            pause_ns=self._now_ns() - started_ns,
            failure=failure,
        )
        for listener in tuple(self._listeners):
            listener(pause)


class AbortedLaunch:
    """``Launch`` of a grid that was to go on and could not be launched again."""

    def __init__(self, detail: str) -> None:
        from ringflow.device.host.pieces import Piece

        self._word = Piece(4, label="status")
        native().store_u32(self._word.address, LaunchStatus.ABORTED)
        self.status = LaunchStatus.ABORTED
        self.status_address = self._word.address
        self.detail = detail
        self.log = ""

    def wait(self, timeout_s: float) -> LaunchStatus:
        return self.status

    def abort(self) -> None:
        """Nothing runs."""


_lots: Final[dict[str, Lot]] = {}
_lots_lock: Final = threading.Lock()


def lot_of(device: Device) -> Lot | None:
    """Return where a device's grids are parked; ``None`` for one that never has to."""
    lot: Lot | None = getattr(device, "lot", None)
    return lot


def shared_lot(uuid: str) -> Lot:
    """Return the lot of a GPU's context, which all devices of it in this process share."""
    with _lots_lock:
        return _lots.setdefault(uuid, Lot())
