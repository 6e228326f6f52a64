"""What all parts of the engine share: the journal, the state, the devices, the live kernels.

- ``record`` decides nothing: it appends what was decided and evolves the state in one step.
- Nothing here awaits between a decision and its record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Final, Protocol, TypeVar

import anyio
import attrs
from anyio.abc import TaskGroup

from ringflow.clock import Clock
from ringflow.device.api import Device
from ringflow.device.compiler.cache import CompileCache
from ringflow.device.pump import Pump
from ringflow.engine.bulk import Stager
from ringflow.engine.deadlines import Deadlines
from ringflow.engine.instances import Instance
from ringflow.engine.outputs import Outputs
from ringflow.engine.runtime import KernelRuntime
from ringflow.engine.starting import Starter
from ringflow.engine.state import EngineState
from ringflow.engine.waiting import Condition
from ringflow.engine.withholding import Withheld, withheld_here
from ringflow.errors import (
    DeviceLostError,
    EngineClosedError,
    KernelBusyError,
    KernelStateError,
    StorageError,
    UnknownDeviceError,
    UsageError,
)
from ringflow.events.codec import Event
from ringflow.files import FileSystem
from ringflow.ids import Ids
from ringflow.journal.api import Append, DurableMark, Journal
from ringflow.limits import EngineLimits
from ringflow.rates import TransferRates
from ringflow.spec import KernelSpec
from ringflow.spec_codec import decode_spec
from ringflow.statemachines.lifecycle import LifecycleState
from ringflow.storage import CheckpointStorage, ObjectStore
from ringflow.workers import in_thread

T = TypeVar("T")
RECOVERY: Final = "recovery"  # holds the lease of a kernel that is rebuilt after a failure
JOURNAL_FAILED: Final = "its journal failed"


class RunningOperation(Protocol):
    """What the core knows of an operation that runs."""

    @property
    def id(self) -> str: ...
    @property
    def kernel_id(self) -> str: ...
    async def cancel(self) -> bool: ...


def busy_with(kernel_id: str, work: str) -> KernelBusyError:
    """Return the error for a kernel that is held by what is no journaled operation."""
    doing = f"{work} is at work on it"
    if work == RECOVERY:
        doing = (
            "it is rebuilt from its recovery point after a failure, and takes messages meanwhile"
        )
    return KernelBusyError(kernel_id, work, doing=doing)


@attrs.define(eq=False)
class Core:
    """The engine's parts, wired together by ``open_engine``.

    Attributes:
        lost: names of the devices whose loss is recorded.
        rates: how fast migrations have moved state since the engine was opened.
    """

    folder: Path
    files: FileSystem
    journal: Journal
    clock: Clock
    ids: Ids
    state: EngineState
    devices: dict[str, Device]
    checkpoints: CheckpointStorage
    objects: ObjectStore
    cache: CompileCache | None
    pump: Pump
    limits: EngineLimits
    tasks: TaskGroup
    runtimes: dict[str, KernelRuntime] = attrs.field(factory=dict)
    rates: TransferRates = attrs.field(factory=TransferRates)
    busy: dict[str, str] = attrs.field(factory=dict)
    stranded: dict[str, str] = attrs.field(factory=dict)
    lost: set[str] = attrs.field(factory=set)
    rested: Condition = attrs.field(factory=Condition)
    running: dict[str, RunningOperation] = attrs.field(factory=dict)
    works: set[anyio.CancelScope] = attrs.field(factory=set)
    closed: str = ""
    closing: bool = False
    retrying_sends: bool = False
    starter: Starter = attrs.field(factory=Starter)
    deadlines: Deadlines = attrs.field(init=False)
    withheld: Withheld = attrs.field(factory=withheld_here)
    lease_ended: Callable[[str], None] = lambda kernel_id: None
    _thread_id: int = attrs.field(factory=get_ident)
    _threads: anyio.CapacityLimiter = attrs.field(factory=lambda: anyio.CapacityLimiter(8))

    def __attrs_post_init__(self) -> None:
        self.deadlines = Deadlines(self.clock)

    def record(
        self,
        stream: str,
        events: Sequence[Event],
        *,
        control: bool = True,
        then: Callable[[], None] | None = None,
        mark: tuple[DurableMark, int] | None = None,
    ) -> Append:
        """Append one decision and evolve the state; ``then`` is called once it is durable.

        ``mark`` is told in the journal's thread (``Append``).
        """
        self.check_open()
        if control:
            self.state.check(events)  # what can't be folded must never be written
        append = self.journal.append(stream, events, control=control, mark=mark)
        if then is not None:
            append.then(then)
        for event in events:
            self.state.apply(event)
        return append

    def record_kernel(self, kernel_id: str, *events: Event) -> Append:
        return self.record(f"kernel/{kernel_id}", events)

    def runtime_for(self, instance: Instance) -> KernelRuntime:
        """Return a runtime of an instance; nothing has come out of it yet."""
        kernel_id, limits = instance.spec.kernel_id, self.limits

        def failed(error: StorageError) -> None:
            """Let the kernel rest: its journal has the message, the next opening tries again."""
            if self.runtimes.get(kernel_id) is runtime:
                self.stranded[kernel_id] = str(error)
                runtime.end(halted=str(error))

        runtime = KernelRuntime(
            kernel_id,
            self.clock,
            self.pump,
            instance,
            Outputs(bound=limits.waiting_outputs, bound_bytes=limits.waiting_data_bytes),
            self.state.marks[kernel_id],
            Stager(self.starter.start, self.in_thread, failed),
            withheld=self.withheld.through,
        )
        return runtime

    def deliver(self, kernel_id: str) -> None:
        """Let a kernel have what it may get now; one that does not run gets it when it does."""
        if (runtime := self.runtimes.get(kernel_id)) is not None:
            runtime.deliver()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run blocking work in a thread; a cancellation waits for its end."""
        return await in_thread(work, limiter=self._threads)

    async def in_task(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run what must not be torn as a task of the engine's own; return what it returns.

        A cancellation of the caller cancels the work, waits until it has ended in order and goes
        on. The work's shields hold then also against asyncio's own cancellation, which would go
        through them in the caller's task.
        """
        self.check_open()
        scope, ended = anyio.CancelScope(), anyio.Event()
        results: list[T] = []
        failures: list[Exception] = []

        async def run() -> None:
            try:
                with scope:
                    results.append(await work())
            except Exception as error:
                failures.append(error)
            finally:
                self.works.discard(scope)
                self.rested.notify()
                ended.set()

        self.works.add(scope)
        self.tasks.start_soon(run)
        try:
            await ended.wait()
        except anyio.get_cancelled_exc_class():
            scope.cancel()
            with anyio.CancelScope(shield=True):
                await ended.wait()
            raise
        if failures:
            raise failures[0]
        if not results:
            raise EngineClosedError("the engine was closed meanwhile; open the folder again")
        return results[0]

    def check_thread(self) -> None:
        """Raise ``UsageError`` in another thread, whose event loop none of this would ever wake."""
        if get_ident() != self._thread_id:
            raise UsageError(
                "an engine and all that it gives belong to the event loop that opened it, and "
                "this is another thread; call from here by anyio.from_thread.run(kernel.send, "
                "message), or by an anyio BlockingPortal of that loop"
            )

    def check_open(self) -> None:
        if self.closed:
            raise EngineClosedError(f"the engine is closed ({self.closed}); open the folder again")

    def device(self, name: str) -> Device:
        """Return a device; raises ``UnknownDeviceError`` or ``DeviceLostError``."""
        device = self.devices.get(name)
        if device is None:
            raise UnknownDeviceError(name, tuple(self.devices))
        if device.lost:
            raise DeviceLostError(name, device.lost)
        return device

    def check_accepting(self) -> None:
        """Raise ``EngineClosedError`` once the engine takes no new work any more."""
        self.check_open()
        if self.closing:
            raise EngineClosedError("the engine is being closed; open the folder again")

    def check_free(self, kernel_id: str) -> None:
        """Raise ``KernelBusyError`` while anything holds the kernel's lease."""
        self.state.check_free(kernel_id)
        for operation in self.running.values():  # its last record is there, its work is not done
            if operation.kernel_id == kernel_id:
                raise KernelBusyError(kernel_id, operation.id)
        self.check_accepting()
        if kernel_id in self.busy:
            raise busy_with(kernel_id, self.busy[kernel_id])

    @contextmanager
    def lease(self, kernel_id: str, holder: str) -> Iterator[None]:
        """Hold the lease of a kernel for work that is no journaled operation."""
        assert kernel_id not in self.busy
        self.busy[kernel_id] = holder
        try:
            yield
        finally:
            del self.busy[kernel_id]
            self.rested.notify()
            self.lease_ended(kernel_id)

    def runtime(self, kernel_id: str) -> KernelRuntime:
        """Return a live kernel; raises ``UnknownKernelError`` or ``KernelStateError``."""
        self.check_open()
        life, runtime = self.state.kernel(kernel_id), self.runtimes.get(kernel_id)
        is_down = kernel_id in self.stranded or life.state is LifecycleState.HALTED
        if runtime is None or runtime.halted or is_down:
            raise self.not_running(kernel_id)
        return runtime

    def not_running(self, kernel_id: str, needed: str = "running") -> KernelStateError:
        """Return the error that says why a kernel does not run, and what brings it back."""
        life, runtime = self.state.kernel(kernel_id), self.runtimes.get(kernel_id)
        if kernel_id in self.stranded:
            state, advice = self.stranded[kernel_id], "mend that and open the folder again"
            return KernelStateError(kernel_id, f"not restarted ({state})", f"{needed}; {advice}")
        if life.state is LifecycleState.HALTED:
            advice = "engine.resume() or engine.rollback() bring it back"
            return KernelStateError(kernel_id, f"halted ({life.reason})", f"{needed}; {advice}")
        state = life.state.value
        if runtime is not None and (runtime.halted or runtime.closed):
            state = f"at rest ({runtime.halted})" if runtime.halted else "closed"
        return KernelStateError(kernel_id, state, needed)

    async def spec_of(self, digest: str) -> KernelSpec:
        return await self.in_thread(lambda: decode_spec(self.objects.get(digest)))

    def sends_wait_for(self, kernel_id: str) -> bool:
        """Whether other kernels have sent what this one had no room for yet."""
        for edge in self.state.routing.into(kernel_id):
            source = self.runtimes.get(edge.source)
            if source is not None and source.outputs.routes[edge.number].unread_count:
                return True
        return False

    @property
    def epoch(self) -> int:
        return self.journal.epoch
