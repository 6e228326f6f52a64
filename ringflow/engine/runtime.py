"""A kernel as it lives in this process: its instance, its messages, its outputs.

- Messages are posted only when durable, in order, and never past ``deliver_through``.
- Every change of what waiters look at goes through ``changed.notify``.
- Only the engine's event loop touches a runtime, with one exception: the journal's thread delivers
  what it has made durable (``mark_durable``). Whoever changes the inbox, or what may be delivered,
  while messages flow holds ``delivery``; after ``pause`` nothing is posted.
- Instances are worked on in threads.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import anyio
import attrs

from ringflow.clock import NS_PER_S, Clock, within
from ringflow.device.abi import Command, KernelState, is_reached
from ringflow.device.api import LaunchStatus
from ringflow.device.posting import Posting
from ringflow.device.pump import Pump, PumpReport
from ringflow.engine.bulk import Stager
from ringflow.engine.inbox import Inbox
from ringflow.engine.instances import Instance
from ringflow.engine.outputs import Outputs
from ringflow.engine.skipped import end_after, is_in
from ringflow.engine.state import MessageMarks
from ringflow.engine.waiting import Condition
from ringflow.errors import KernelStalledError, KernelTrappedError, MessageSkippedError
from ringflow.routing import OutputId
from ringflow.spec import KernelSpec

ANSWER_S: Final = 1.0
"""For the answer of a kernel that had its time already: it comes at once, or not soon."""


@attrs.define(eq=False)
class KernelRuntime:
    """One live kernel.

    Attributes:
        marks: the journal's view of its messages, which the engine's state evolves.
        deliver_through: last sequence that may be posted, None for no limit.
        withheld: the same by kernel, as ``withholding`` has it.
        replay_through: messages up to it may have been handled before a restart; new code must not
            handle them, for their outputs may have been seen.
        retain_after: messages after it are kept although they are done, None to keep none.
        paused_at_ns: monotonic time at which the delivery stopped, 0 while it flows.
        returning: a RETURN was given and neither obeyed nor withdrawn.
        progress_ns: monotonic time at which the kernel was last known to get on.
        passes_on: moves what the outputs and the inbox have for other kernels and from them.
        halted: why nothing runs any more, empty while something does.
    """

    kernel_id: str
    clock: Clock
    pump: Pump
    instance: Instance
    outputs: Outputs
    marks: MessageMarks
    stager: Stager
    inbox: Inbox = attrs.field(factory=Inbox)
    durable_through: int = 0
    deliver_through: int | None = None
    withheld: Mapping[str, int] = attrs.field(factory=dict)
    replay_through: int = 0
    retain_after: int | None = None
    done_sequence: int = 0
    busy_ns: int = 0
    delivering: bool = False
    paused_at_ns: int = 0
    returning: bool = False
    progress_ns: int = 0
    passes_on: Callable[[], None] = lambda: None
    halted: str = ""
    closed: bool = False
    status: LaunchStatus = LaunchStatus.RUNNING
    generation: int = -1
    state: KernelState = KernelState.UNKNOWN
    pump_key: int | None = None
    delivery: threading.RLock = attrs.field(factory=threading.RLock)
    changed: Condition = attrs.field(factory=Condition)
    _done_waiters: list[tuple[int, int, anyio.Event]] = attrs.field(factory=list)
    _arrivals: int = 0
    _looked: tuple[int, int] = (0, 0)

    @property
    def spec(self) -> KernelSpec:
        return self.instance.spec

    @property
    def trapped(self) -> bool:
        return self.status in (LaunchStatus.TRAPPED, LaunchStatus.ABORTED)

    @property
    def gone(self) -> bool:
        """Whether the grid has returned behind its time, when the RETURN had been withdrawn."""
        return self.status is LaunchStatus.COMPLETED and self.watched and not self.returning

    @property
    def watched(self) -> bool:
        return self.pump_key is not None

    @property
    def steps(self) -> int:
        """``step()`` boundaries passed since the launch; 0 while nobody watches the grid."""
        return self.instance.resident.steps if self.watched else 0

    def stalled_s(self) -> float:
        """Return for how many seconds the kernel is known to be in one message; 0 if in none.

        It is known from the beginning where that message came alone or as the first of several,
        else from when it was first looked at here.
        """
        if not self.watched or self.state is not KernelState.RUNNING:
            return 0.0
        resident, now_ns = self.instance.resident, self.clock.monotonic_ns()
        done = max(self.done_sequence, resident.done_sequence)  # its report may be on its way
        looked, before = (resident.taken_sequence, resident.steps), self._looked
        self._looked = looked
        if looked[0] <= done:
            return 0.0
        is_first = looked[0] == done + 1 and looked[1] == before[1]
        if not is_first and looked != before:
            self.progress_ns = now_ns
        return (now_ns - self.progress_ns) / NS_PER_S

    # Delivery

    def deliver(self) -> None:
        """Post as many durable parked messages as the device has room for.

        While the outputs are full nothing is posted, and nothing is emitted between messages.
        """
        with self.delivery:
            if not self.delivering:
                return
            full, resident = self.outputs.is_full, self.instance.resident
            resident.close_emissions(full)
            if full:
                return
            through = self.durable_through
            if self.deliver_through is not None:
                through = min(through, self.deliver_through)
            if self.withheld:
                through = min(through, self.withheld.get(self.kernel_id, through))
            messages: Sequence[Posting] = self.inbox.next_parked(resident.room(), through=through)
            if self.inbox.bulk_bytes:
                messages = self.stager.ready(resident, messages, self.deliver)
            if messages:
                if self.inbox.posted_through <= self.done_sequence:  # it had nothing to do
                    self.progress_ns = self.clock.monotonic_ns()
                self.inbox.mark_posted(resident.post(messages))

    def mark_durable(self, number: int) -> None:
        """Messages up to ``number`` may be delivered; any thread may say so."""
        with self.delivery:
            self.durable_through = max(self.durable_through, number)
            self.deliver()

    def pause(self) -> None:
        """Deliver nothing from now on; what arrives parks."""
        with self.delivery:
            self.delivering = False
        self.paused_at_ns = self.clock.monotonic_ns()

    def discard_done(self) -> None:
        """Forget the messages that are done and need not be kept."""
        kept = self.done_sequence
        if self.retain_after is not None:
            kept = min(kept, self.retain_after)
        with self.delivery:
            self.inbox.discard_through(kept)

    def flow(self) -> int:
        """Deliver again; return for how many nanoseconds nothing was delivered."""
        pause_ns = self.clock.monotonic_ns() - self.paused_at_ns if self.paused_at_ns else 0
        self.paused_at_ns = 0
        self.delivering = True
        self.deliver()
        return pause_ns

    # What the pump tells

    def attach(self) -> None:
        """Let the pump watch the instance's present launch."""
        assert self.pump_key is None
        self.status, self.state, self.generation = LaunchStatus.RUNNING, KernelState.UNKNOWN, -1
        self.returning, self.progress_ns = False, self.clock.monotonic_ns()
        self.instance.resident.close_emissions(self.outputs.is_full)
        self.pump_key = self.pump.register(self.instance.resident)

    def detach(self) -> None:
        """Stop watching; reports that are still on their way are ignored."""
        if self.pump_key is not None:
            self.pump.unregister(self.pump_key)
            self.pump_key = None

    def on_report(self, report: PumpReport) -> None:
        """Take a report in: outputs first, then what is done, then the state."""
        self.outputs.take(report.outputs)
        if report.done_sequence > self.done_sequence:
            self._mark_done(report.done_sequence)
        self.status, self.state, self.busy_ns = report.status, report.state, report.busy_ns
        self.generation, self.progress_ns = report.generation, self.clock.monotonic_ns()
        self.passes_on()
        if not self.delivering:  # a kernel that is being started, or is to rest, sends all the same
            with self.delivery:
                self.instance.resident.close_emissions(self.outputs.is_full)
        self.deliver()
        self.changed.notify()

    def _mark_done(self, sequence: int) -> None:
        sequence = end_after(self.marks.skipped, sequence)
        self.done_sequence = sequence
        self.discard_done()
        while self._done_waiters and self._done_waiters[0][0] <= sequence:
            heapq.heappop(self._done_waiters)[2].set()
        self.settle_calls()

    def settle_calls(self) -> None:
        """Tell the calls whose message is done and has no reply that none will come."""
        final = self.done_sequence
        if self.outputs.held_after is not None:  # what is held may still be unmade
            final = min(final, self.outputs.held_after[0])
        self.outputs.settle_calls(final)

    def release_outputs(self, covered: OutputId) -> None:
        """Let the outputs go that may be seen now that a recovery point has all up to ``covered``.

        A kernel whose outputs are held holds those after it from now on.
        """
        self.outputs.release(hold_after=covered if self.spec.holds_outputs else None)
        self.settle_calls()
        self.passes_on()
        self.deliver()
        self.changed.notify()

    # Waiting

    async def until_done(self, sequence: int) -> None:
        """Wait until the message ``sequence`` is done; raises when the kernel can't get there."""
        while True:
            if is_in(self.marks.skipped, sequence):
                raise MessageSkippedError(self.kernel_id, sequence)
            if self.done_sequence >= sequence:
                return
            self._check_alive()
            event = anyio.Event()
            self._arrivals += 1  # those that wait for the same message wake in their order
            heapq.heappush(self._done_waiters, (sequence, self._arrivals, event))
            await event.wait()

    async def until_handled(self, sequence: int) -> None:
        """Like ``until_done``, but for an operation: raises also when the grid has trapped."""

        def handled() -> bool:
            self.raise_if_gone()
            return self.done_sequence >= sequence

        await self.changed.until(handled)

    def _check_alive(self) -> None:
        if self.halted or self.closed:
            raise KernelStalledError(
                f"kernel {self.kernel_id!r} no longer runs ({self.halted or 'closed'}); its "
                "durable messages are applied when it is resumed"
            )

    def raise_if_dead(self) -> None:
        """Raise when the grid has trapped, or nobody watches it any more."""
        self._check_alive()
        if self.trapped:
            resident, device = self.instance.resident, self.instance.device
            raise KernelTrappedError(
                f"kernel {self.kernel_id!r} {self.status.name.lower()} at message "
                f"{resident.taken_sequence}: {resident.detail or device.lost}"
            )

    def raise_if_gone(self) -> None:
        """Like ``raise_if_dead``, and where the grid has returned: it is launched again later."""
        self.raise_if_dead()
        if self.gone:
            raise KernelStalledError(
                f"kernel {self.kernel_id!r} returned after the RETURN was withdrawn; it is "
                "launched again, repeat the request"
            )

    def _patience_s(self, timeout_s: float) -> float:
        """Return how long to wait for an answer: a message has one deadline from its beginning."""
        return max(min(ANSWER_S, timeout_s), timeout_s - self.stalled_s())

    async def command(self, command: Command, state: KernelState, *, timeout_s: float) -> None:
        """Give a command and wait until the kernel reports ``state`` under its generation.

        Args:
            timeout_s: counts from when the message in progress is known to have begun.
        Raises:
            KernelStalledError: the deadline passed; the command was withdrawn if it was no RUN.
            KernelTrappedError: the kernel trapped meanwhile.
        """
        patience_s = self._patience_s(timeout_s)
        generation = self.instance.resident.command(command)

        def obeyed() -> bool:
            self.raise_if_gone()
            return self.state is state and is_reached(self.generation, generation)

        if not await within(self.clock, patience_s, lambda: self.changed.until(obeyed)):
            if command is not Command.RUN:
                self.instance.resident.command(Command.RUN)
            raise self._stalled(command, timeout_s)

    async def until_completed(self, *, timeout_s: float) -> None:
        """Make the grid return and wait for its end; withdraws the command on the deadline.

        Args:
            timeout_s: as for ``command``.
        Raises:
            KernelStalledError: the grid has not returned in time.
        """
        patience_s = self._patience_s(timeout_s)
        self.returning = True
        self.instance.resident.command(Command.RETURN)
        if await within(self.clock, patience_s, lambda: self.changed.until(self._completed)):
            self.returning = False
            return
        await self.withdraw()
        if self.status is not LaunchStatus.COMPLETED:
            raise self._stalled(Command.RETURN, timeout_s)

    async def withdraw(self) -> None:
        """Take a RETURN back: afterwards the grid runs, or has completed; ``status`` says which.

        One that does not answer is in a message. It finds that it is to run when that is done; if
        it had begun to return before, it is ``gone`` some time.
        """
        generation = self.instance.resident.command(Command.RUN)

        def answered() -> bool:
            running = self.state is KernelState.RUNNING
            return self._completed() or (running and is_reached(self.generation, generation))

        await within(self.clock, ANSWER_S, lambda: self.changed.until(answered))
        self.returning = False

    def _completed(self) -> bool:
        self.raise_if_dead()
        return self.status is LaunchStatus.COMPLETED

    def _stalled(self, command: Command, timeout_s: float) -> KernelStalledError:
        taken = self.instance.resident.taken_sequence
        where = f" of message {taken}" if taken > self.done_sequence else ""
        return KernelStalledError(
            f"kernel {self.kernel_id!r} has not obeyed {command.name} within {timeout_s} s{where}; "
            "give the step more time, or look for a message that takes too long",
            call=command.name,
        )

    def revive(self) -> None:
        """Let a halted runtime take messages again; an instance comes next."""
        self.halted = ""
        self.paused_at_ns = 0

    def end(self, *, halted: str = "") -> None:
        """Wake every waiter: nothing comes any more from this runtime."""
        self.halted = halted
        self.closed = not halted
        with self.delivery:
            self.delivering = False
        self.detach()
        for _, _, event in self._done_waiters:
            event.set()
        self._done_waiters.clear()
        self.outputs.close()
        self.changed.notify()
