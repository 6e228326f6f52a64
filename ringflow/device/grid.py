"""A persistent kernel's grid: its launches, its commands, and what waits for their answers.

- Memory outlives launches: after RETURN the regions hold the state, and a new launch goes on.
- Where grids are parked (``parking``) whoever launches or ends one has the context's lock.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Final

from ringflow.device import abi
from ringflow.device.abi import Command, KernelState
from ringflow.device.api import (
    Device,
    Launch,
    LaunchStatus,
    LoadedCode,
    Stepping,
    outcome,
    stepping_of,
)
from ringflow.device.kernel_memory import KernelMemory
from ringflow.device.native import timeout_ns
from ringflow.device.native.layouts import AWAIT_REACHED, AWAIT_TIMEOUT
from ringflow.device.parameters import check_parameters
from ringflow.device.parking import AbortedLaunch, lot_of
from ringflow.errors import DeviceError, KernelStalledError, KernelStateError, KernelTrappedError
from ringflow.spec import Dim3, KernelSpec

if TYPE_CHECKING:
    from ringflow.device.pump import Pump

WITHDRAWN_S: Final = 1.0
_RETURNS: Final = (Command.RETURN, Command.RETURN_DRAINED)


class KernelGrid(KernelMemory):
    """A persistent kernel's memory on a device, and its launch."""

    def __init__(
        self,
        device: Device,
        code: LoadedCode,
        spec: KernelSpec,
        *,
        grid: Dim3,
        base_sequence: int,
        epoch: int,
    ) -> None:
        """Allocate everything; see ``ResidentKernel``."""
        check_parameters(spec, code)
        self._lot = lot_of(device)
        super().__init__(device, code, spec)
        self.grid = grid
        self._stepping = stepping_of(device)
        self._launch: Launch | None = None
        self._pump: Pump | None = None
        self._key = 0
        self._base_sequence, self._epoch = base_sequence, epoch
        self._output_index = 0
        self._commands = threading.Lock()  # never held while something is waited for
        self._command = Command.RUN
        self._parked = False  # the pump leaves it alone
        self._leaving = False  # commands wait until it goes on
        if self._lot is not None:
            self._lot.enter(self)

    # Launches

    def launch(self, *, gate_open: bool, timeout_s: float) -> None:
        """Launch the grid, and wait until all of its blocks have arrived at their first boundary.

        Args:
            gate_open: if not, the kernel is held there, before any message; ``RUN`` opens it.
        Raises:
            KernelTrappedError: it trapped before.
            KernelStalledError: it did not arrive in time, or ended; it has been stopped.
        """
        with self._exclusively():
            self._launch_and_await(gate_open=gate_open, timeout_s=timeout_s)

    def _launch_and_await(self, *, gate_open: bool, timeout_s: float) -> None:
        if self._launch is not None and self._launch.status is LaunchStatus.RUNNING:
            raise KernelStateError(self.spec.kernel_id, "launched", "ended")
        with self._commands:
            self._command = Command.RUN if gate_open else Command.HOLD
            self._set_aside()
        try:
            generation = self.prepare(
                self._command,
                key=self._key,
                base_sequence=self._base_sequence,
                epoch=self._epoch,
                output_index=self._output_index,
            )
            launch = self._start()
            self._put_launch(launch)
        finally:
            self._unpark()
        try:
            self.await_generation(generation, timeout_s)
        except KernelStalledError as stalled:
            try:
                self._stop(launch)
            except KernelStalledError as error:
                raise KernelStalledError(
                    f"{stalled}; {error}", call=error.call, code=error.code
                ) from error
            raise
        started = self._load("started")
        assert started == self._epoch, f"started word is {started}, the epoch {self._epoch}"

    def _start(self) -> Launch:
        spec = self.spec
        declared = (self.regions[region.name].address for region in spec.regions)
        addresses = [self._control, *declared]
        parameters = [struct.pack("<Q", address) for address in addresses]
        parameters += [argument.value for argument in spec.arguments]
        return self.device.launch(
            self.code,
            spec.code.entry_point,
            grid=self.grid,
            block=spec.block,
            parameters=tuple(parameters),
            dynamic_shared_bytes=spec.dynamic_shared_bytes,
            memory=tuple(self._allocations),
        )

    def _exclusively(self) -> AbstractContextManager[object]:
        return nullcontext() if self._lot is None else self._lot.lock

    def end(self) -> None:
        """Stop the grid if it runs; raises ``DeviceError`` if that can't be."""
        with self._exclusively():
            if self._pump is not None:
                self._pump.unregister(self._key)
            if self._launch is not None and self._launch.status is LaunchStatus.RUNNING:
                self._stop(self._launch)

    def _stop(self, launch: Launch) -> None:
        """Stop a grid; raises ``KernelStalledError``, which names the kernel, if it can't be."""
        try:
            launch.abort()
        except KernelStalledError as error:
            raise KernelStalledError(
                f"kernel {self.kernel_id!r} can't be stopped: {error}",
                call=error.call,
                code=error.code,
            ) from error

    def free(self) -> None:
        """Give everything back; the second time nothing happens.

        Raises:
            DeviceError: a piece was not freed, and is lost; all others are.
        """
        with self._exclusively():  # who parks it finds it whole, or closed
            super().free()

    # Parking: without the pump and the poster, which find the rings as they left them

    @property
    def kernel_id(self) -> str:
        return self.spec.kernel_id

    def give_way(self) -> bool:
        """Ask the grid to return; False if none runs, or it was to return anyway."""
        with self._commands:
            if self._launch is None or self._entry is None:
                return False
            if self.status is not LaunchStatus.RUNNING:
                return False
            self._leaving = True
            self._set_aside()
            if self._command in _RETURNS:
                return False
            self._native.command(self._entry_address, Command.RETURN)
            return True

    def await_gone(self, timeout_s: float) -> None:
        """Block until no grid runs; raises ``KernelStalledError`` when the time is up."""
        if self._parked and self.wait_ended(timeout_s) is LaunchStatus.RUNNING:
            raise self._unreached(AWAIT_TIMEOUT, timeout_s)

    def go_on(self, timeout_s: float) -> None:
        """Launch the grid again where it was, and wait until it is there.

        One that has not returned works on; one that was to return anyway, and still is, has ended.
        Raises:
            DeviceError: it can't be launched, or was late; its status says that it was aborted, or
                that it trapped, or that it runs still since it can't be stopped.
        """
        if not self._parked:
            return
        try:
            generation = self._command_again()  # a grid that has seen the RETURN is about to end
            status = outcome(self.wait_ended(WITHDRAWN_S), self.state)
            if status is LaunchStatus.COMPLETED and self._command is not Command.RETURN:
                self._put_launch(self._start())
                self.await_generation(generation, timeout_s)
        except DeviceError as error:
            self._stay_behind(str(error))
            raise
        finally:
            self._unpark()

    def _stay_behind(self, reason: str) -> None:
        """Stop the grid if it goes on after all: whoever is told of its end frees its memory."""
        launch = self._launched()  # the one before, where none was launched
        if launch.status is LaunchStatus.RUNNING:
            with suppress(DeviceError):
                launch.abort()
        if launch.status in (LaunchStatus.COMPLETED, LaunchStatus.ABORTED):
            self._put_launch(AbortedLaunch(reason))

    def _put_launch(self, launch: Launch) -> None:
        self._put_entry("status", "Q", launch.status_address)
        self._launch = launch  # the one before, and its status word, may be freed now

    def _set_aside(self) -> None:
        """Have the pump leave the kernel alone until ``_unpark``; under ``_commands``."""
        self._parked = True
        if self._pump is not None:
            self._pump.suspend(self)

    def _unpark(self) -> None:
        with self._commands:
            self._parked = self._leaving = False
            if self._pump is not None:
                self._pump.resume(self)

    def _command_again(self) -> int:
        """Give the command that the parking has covered, or that was given meanwhile."""
        with self._commands:
            self._leaving = False
            return self._native.command(self._entry_address, self._command)

    # Commands

    def command(self, command: Command) -> int:
        """Give a command; return the generation under which the kernel will report."""
        with self._commands:
            self._command = command
            if self._leaving:  # it must return first: the command is given when it goes on
                return abi.next_generation(self._load("doorbell"))
            generation = self._native.command(self._entry_address, command)
        self._rouse()
        return generation

    def ping(self, value: int) -> None:
        """Ask for a sign of life: while it waits for messages the kernel answers in ``echo``."""
        self._native.ping(self._entry_address, value)
        self._rouse()

    def _rouse(self) -> None:
        """On a device that is moved by the pump, let a waiting pump move it."""
        if self._stepping is not None and self._pump is not None:
            self._pump.wake()

    def await_generation(self, generation: int, timeout_s: float) -> KernelState:
        """Block until the kernel reports under a generation; return the state.

        Raises:
            KernelTrappedError: it trapped.
            KernelStalledError: the time is up, or it ended otherwise.
        """
        result = self._await(self._native.await_generation, generation, timeout_s)
        if result == AWAIT_REACHED:
            return self.state
        raise self._unreached(result, timeout_s)

    def _unreached(self, result: int, timeout_s: float) -> DeviceError:
        """Return the error for a wait that has ended in something else."""
        name = self.spec.kernel_id
        if result == AWAIT_TIMEOUT:
            advice = (
                "look for a loop that does not end or a collective call that not all threads make"
            )
            if self._load("started") != self._epoch:
                advice = (
                    "not all of its blocks have come to their first: look for a loop before it, "
                    "and, on a GPU, for what else holds multiprocessors"
                )
            return KernelStalledError(
                f"kernel {name!r} did not reach a message boundary within {timeout_s:g} s; "
                f"{advice}",
                call="await",
                code="timeout",
            )
        if self.status is LaunchStatus.TRAPPED:
            return KernelTrappedError(
                f"kernel {name!r} trapped: {self.detail}; restore it from its recovery point",
                call="await",
                code=self.fault.name.lower(),
            )
        return KernelStalledError(
            f"kernel {name!r} ended ({self.status.name.lower()}) before it answered; it must "
            "call receive or step until that returns false",
            call="await",
            code="ended",
        )

    def _await(
        self, native_await: Callable[[int, int, int], int], number: int, timeout_s: float
    ) -> int:
        def look(longest_ns: int) -> int:
            return native_await(self._entry_address, number, longest_ns)

        if self._stepping is None:
            return look(timeout_ns(timeout_s))
        self._stepping.run_until(lambda: look(0) != AWAIT_TIMEOUT, timeout_s)
        return look(0)

    def wait_ended(self, timeout_s: float) -> LaunchStatus:
        """Block until the grid has ended or the time is up; return the launch's status."""
        return self._launched().wait(timeout_s)

    def abort(self) -> None:
        """Stop the grid where it is; its regions are then not to be trusted."""
        with self._exclusively():
            self._launched().abort()

    # What the kernel says

    @property
    def launched(self) -> bool:
        return self._launch is not None

    @property
    def status(self) -> LaunchStatus:
        return self._launched().status

    @property
    def detail(self) -> str:
        """What trapped and where, or that the grid left its loop by itself."""
        fault, status = self.fault, self.status
        if outcome(status, self.state) is not status:
            taken, done = self.taken_sequence, self.done_sequence
            where = f"while handling message {taken}" if taken > done else f"after message {done}"
            return (
                f"the kernel returned from its loop by itself {where}: leave the loop only when "
                "receive or step returns false"
            )
        detail = self._launched().detail
        return f"{fault.name.lower().replace('_', ' ')}, {detail}" if fault else detail

    @property
    def log(self) -> str:
        """What the kernel has printed in this launch, as far as it is kept."""
        return self._launched().log

    def _launched(self) -> Launch:
        if self._launch is None:
            raise KernelStateError(self.spec.kernel_id, "not launched", "launched")
        return self._launch

    # The pump's side

    @property
    def stepping(self) -> Stepping | None:
        """What has to move the kernel's device; ``None`` if it goes on by itself."""
        return self._stepping

    def attach(self, pump: Pump, key: int) -> None:
        """Be watched by a pump, as soon as the kernel is not parked; for ``Pump.register``."""
        if self._pump is not None:
            raise KernelStateError(self.spec.kernel_id, "on a pump", "without one")
        with self._commands:
            self._put_entry("key", "I", key)
            self._pump, self._key = pump, key
            if not self._parked:
                pump.resume(self)

    def detach(self) -> None:
        """Forget the pump: from now on no end of a parking puts the kernel on it again."""
        with self._commands:
            self._pump, self._key = None, 0
