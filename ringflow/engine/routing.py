"""Routes between kernels: connecting them, and moving what they send to one another.

- A kernel's sends wait in its own outputs until the target has room, and leave them when the
  target's messages are durable: they are in one of the two, or in both, and the mark tells.
- Everything here but the answers to programs happens without an await, on the pump's reports.
- Sends on a cycle have a bound of their own, so that kernels don't wait for each other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Final

import anyio

from ringflow.clock import within
from ringflow.device.posting import Posting
from ringflow.device.pump import Output
from ringflow.engine.core import Core, busy_with
from ringflow.engine.messaging import MESSAGES_A_RECORD, accept
from ringflow.engine.outputs import ConsumerQueue, id_of
from ringflow.engine.runtime import KernelRuntime
from ringflow.errors import (
    DiskReserveError,
    JournalClosedError,
    KernelStalledError,
    LimitExceededError,
    RouteError,
)
from ringflow.events import routing as e
from ringflow.events.codec import Event
from ringflow.events.messages import MessagesAccepted
from ringflow.routing import (
    INDEX_MAX,
    Connection,
    Edge,
    OutputId,
    check_types,
    number_of,
    refusal_of,
    restart_mark,
)
from ringflow.spec import KernelSpec

_RETRY_S: Final = 1.0


async def connect(
    core: Core, source_id: str, route: str, target_id: str, *, actor: str, reason: str
) -> Connection:
    """Lead a kernel's route to another kernel; a connection that is there already stays as it is.

    Raises:
        UnknownKernelError, KernelStateError, KernelBusyError, RouteError: nothing was changed.
    """
    source, target = core.runtime(source_id), core.runtime(target_id)
    number = number_of(source.spec, route)
    edge = core.state.routing.edges.get((source_id, number))
    if edge is not None and edge.target == target_id:
        return _status(core, source, number)
    if edge is not None:
        raise RouteError(source_id, route, f"leads to {edge.target!r} already; disconnect it first")
    core.check_free(source_id)  # a reload on probation may still take the route away
    if core.busy.get(target_id) == "stop":
        raise busy_with(target_id, "stop")
    check_types(source_id, source.spec.routes[number], target.spec)
    after = source.outputs.released
    append = core.record(
        f"routes/{source_id}",
        [
            e.RouteConnected(
                source=source_id,
                route=route,
                number=number,
                target=target_id,
                after_sequence=after[0],
                after_index=after[1],
                at_most_once=target.spec.durability == "volatile",
                actor=actor,
                reason=reason,
            )
        ],
    )
    source.outputs.connect(number, after)
    with anyio.CancelScope(shield=True):
        await core.journal.until_durable(append)
    return _status(core, source, number)


async def disconnect(core: Core, source_id: str, route: str, *, actor: str, reason: str) -> int:
    """End a connection; return how many outputs waited for the target and are dropped.

    Raises:
        UnknownKernelError, RouteError: nothing was changed.
    """
    core.check_open()
    core.state.kernel(source_id)
    found = (edge for edge in core.state.routing.of(source_id) if edge.route == route)
    edge = next(found, None)
    if edge is None:
        raise RouteError(source_id, route, "is not connected")
    event = end_of(core, edge, actor=actor, reason=reason)
    append = core.record(f"routes/{source_id}", [event])
    source = core.runtimes.get(source_id)
    if source is not None:
        del source.outputs.routes[edge.number]
        source.deliver()
        source.changed.notify()
    if (target := core.runtimes.get(edge.target)) is not None:
        target.changed.notify()
    with anyio.CancelScope(shield=True):
        await core.journal.until_durable(append)
    return event.dropped_count


def end_of(core: Core, edge: Edge, *, actor: str, reason: str) -> e.RouteDisconnected:
    """Return the event that ends a connection as it is now."""
    source = core.runtimes.get(edge.source)
    waiting = source.outputs.routes[edge.number].unread_count if source is not None else 0
    return e.RouteDisconnected(
        source=edge.source,
        route=edge.route,
        number=edge.number,
        target=edge.target,
        dropped_count=waiting,
        actor=actor,
        reason=reason,
    )


def connections(core: Core, kernel_id: str) -> tuple[Connection, ...]:
    """Return a live kernel's routes, connected or not, in the order of their numbers."""
    runtime = core.runtime(kernel_id)
    return tuple(_status(core, runtime, number) for number in range(len(runtime.spec.routes)))


def _status(core: Core, source: KernelRuntime, number: int) -> Connection:
    edge = core.state.routing.edges.get((source.kernel_id, number))
    queue = source.outputs.routes.get(number)
    return Connection(
        source=source.kernel_id,
        route=source.spec.routes[number].name,
        target=edge.target if edge is not None else "",
        taken_count=source.outputs.taken[number],
        waiting_count=queue.unread_count if queue is not None else 0,
        dropped_count=source.outputs.dropped[number],
    )


# The life of a kernel


def serve(core: Core, runtime: KernelRuntime) -> None:
    """From now on a kernel's sends move on with its reports."""
    runtime.passes_on = partial(pass_on, core, runtime)


def check_stop(core: Core, kernel_id: str) -> None:
    """Raise ``RouteError`` while other kernels' routes lead to a kernel that is to end."""
    for edge in core.state.routing.into(kernel_id):
        if edge.source != kernel_id:
            raise RouteError(
                edge.source, edge.route, f"leads to kernel {kernel_id!r}; disconnect it first"
            )


async def drain(core: Core, runtime: KernelRuntime) -> None:
    """Wait until everything that a resting kernel has sent is durably with its targets.

    Raises:
        KernelStalledError: a target does not take it within the step's deadline.
    """

    def empty() -> bool:
        runtime.passes_on()
        return not any(queue.outputs for queue in runtime.outputs.routes.values())

    timeout_s = core.limits.step_timeout_s
    if not await within(core.clock, timeout_s, lambda: runtime.changed.until(empty)):
        raise KernelStalledError(
            f"what kernel {runtime.kernel_id!r} has sent was not taken within {timeout_s} s; look "
            "at its connections, or disconnect those that may lose it",
            call="drain",
        )


def marks_after_restart(
    core: Core, spec: KernelSpec, *, applied_sequence: int, seen: OutputId
) -> Mapping[int, OutputId]:
    """Return the marks of a recovered kernel's connections by number, those that changed recorded.

    Args:
        applied_sequence: the last message in the recovered state.
        seen: the last output that this state has made.
    """
    own, marks = core.state.marks[spec.kernel_id], dict[int, OutputId]()
    for edge in core.state.routing.of(spec.kernel_id):
        mark = restart_mark(
            edge,
            state_end=(applied_sequence, INDEX_MAX),
            seen=seen,
            accepted_sequence=own.next_sequence - 1,
            exact=spec.replay == "exact",
            source_volatile=spec.durability == "volatile",
            closed_cleanly=not own.untold,
        )
        marks[edge.number] = mark
        if mark != edge.mark:
            core.record(f"routes/{edge.source}", [_mark_set(edge, mark)])
    return marks


def closing_marks(core: Core) -> tuple[Event, ...]:
    """Return the events that make the marks of volatile targets exact at an orderly end."""
    edges = core.state.routing.edges.values()
    return tuple(_mark_set(edge, edge.mark) for edge in edges if edge.at_most_once)


def _mark_set(edge: Edge, mark: OutputId) -> e.RouteMarkSet:
    return e.RouteMarkSet(
        source=edge.source,
        number=edge.number,
        target=edge.target,
        through_sequence=mark[0],
        through_index=mark[1],
    )


# Moving


def pass_on(core: Core, runtime: KernelRuntime) -> None:
    """Move what can move along a kernel's connections, to it and from it."""
    if core.closed:
        return
    with contextlib.suppress(JournalClosedError):  # whoever watches the journal ends the engine
        _pass_on(core, runtime)


def _pass_on(core: Core, runtime: KernelRuntime) -> None:
    for output in runtime.outputs.take_unconnected():
        _note_dropped(core, runtime.kernel_id, "", output, "the route is not connected")
    for edge in core.state.routing.touching(runtime.kernel_id):
        source, target = core.runtimes.get(edge.source), core.runtimes.get(edge.target)
        if source is None or target is None or target.halted or target.closed:
            continue
        if core.closing and edge.at_most_once:  # it would be lost with the target's inbox
            continue
        queue = source.outputs.routes.get(edge.number)
        if queue is not None and queue.unread_count:
            _move(core, edge, source, target, queue)


def _move(
    core: Core, edge: Edge, source: KernelRuntime, target: KernelRuntime, queue: ConsumerQueue
) -> None:
    limits = core.limits
    cyclic = core.state.routing.is_on_cycle(edge)
    bound = limits.cycle_messages if cyclic else limits.parked_messages
    while (room := bound - len(target.inbox)) > 0 and queue.unread_count:
        batch = queue.peek(min(room, MESSAGES_A_RECORD))
        try:
            _take(core, edge, source, target, queue, batch)
        except (LimitExceededError, DiskReserveError):
            _retry_later(core)
            return


def _take(
    core: Core,
    edge: Edge,
    source: KernelRuntime,
    target: KernelRuntime,
    queue: ConsumerQueue,
    batch: list[Output],
) -> None:
    """Make a batch of outputs the target's messages, and drop what it does not take."""
    refused = [(output, why) for output in batch if (why := refusal_of(target.spec, output))]
    bad = {id_of(output) for output, _ in refused}
    sends = [output for output in batch if id_of(output) not in bad]
    through = id_of(batch[-1])

    def taken() -> None:
        queue.acknowledge(through)
        source.deliver()
        source.changed.notify()

    if sends:
        first = core.state.marks[edge.target].next_sequence
        accepted = MessagesAccepted(
            kernel_id=edge.target,
            first_sequence=first,
            types=tuple(output.type for output in sends),
            payloads=tuple(output.payload for output in sends),
            producers=("",) * len(sends),
            numbers=(0,) * len(sends),
        )
        postings = [
            Posting(sequence, output.type, output.payload)
            for sequence, output in enumerate(sends, first)
        ]
        marked = e.RouteTaken(
            source=edge.source,
            number=edge.number,
            target=edge.target,
            sequences=tuple(output.sequence for output in sends),
            indexes=tuple(output.index for output in sends),
            through_sequence=through[0],
            through_index=through[1],
        )
        queue.skip(len(batch))  # before: what is recorded may be durable at once
        try:
            accept(core, target, accepted, postings, also=(marked,), then=taken)
        except BaseException:
            queue.skip(-len(batch))
            raise
    else:
        queue.skip(len(batch))
        taken()
    source.outputs.taken[edge.number] += len(sends)
    for output, why in refused:
        if not source.outputs.dropped[edge.number]:
            _note_dropped(core, edge.source, edge.target, output, why)
        source.outputs.dropped[edge.number] += 1


def _note_dropped(core: Core, source: str, target: str, output: Output, reason: str) -> None:
    assert output.route is not None
    dropped = e.RouteDropped(
        source=source,
        number=output.route,
        target=target,
        sequence=output.sequence,
        index=output.index,
        message_type=output.type,
        reason=reason,
    )
    core.record(f"routes/{source}", [dropped])


def _retry_later(core: Core) -> None:
    """Try again when the journal has room; whatever happens meanwhile tries as well."""
    if core.retrying_sends or core.closing:
        return
    core.retrying_sends = True

    async def retry() -> None:
        try:
            await core.journal.room()
            await core.clock.sleep(_RETRY_S)
        finally:
            core.retrying_sends = False
        for runtime in tuple(core.runtimes.values()):
            pass_on(core, runtime)

    core.tasks.start_soon(retry)
