"""Sending: the way of a message from a program to a kernel.

- A message is numbered, recorded and queued with no await between; it is posted once durable.
- A producer's numbers ascend; the highest accepted one is in the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, final

import attrs

from ringflow.device.posting import Posting, check_bulk_size
from ringflow.engine.bulk import Kept, Outgoing, keep, outgoing
from ringflow.engine.core import Core
from ringflow.engine.outputs import CallWaiter
from ringflow.engine.runtime import KernelRuntime
from ringflow.errors import (
    LimitExceededError,
    UnknownMessageError,
    UsageError,
)
from ringflow.events.codec import Event
from ringflow.events.messages import (
    BulkMessageAccepted,
    MessagesAccepted,
)
from ringflow.journal.api import Append
from ringflow.kernel import OnFull

if TYPE_CHECKING:
    from ringflow.arrays import ArrayLike

MESSAGES_A_RECORD: Final = 1024
ROUSE_MAX_S: Final = 5e-4  # for a disk that takes longer, waking a thread takes no time


@final
@attrs.frozen(eq=False)
class SendReceipt:
    """``Receipt`` of a message."""

    sequence: int
    _core: Core = attrs.field(repr=False)
    _runtime: KernelRuntime = attrs.field(repr=False)
    _append: Append | None = attrs.field(repr=False)

    async def durable(self) -> None:
        self._core.check_thread()
        if self._append is not None:
            await self._core.journal.until_durable(self._append)

    async def done(self) -> None:
        self._core.check_thread()
        await self._runtime.until_done(self.sequence)


def check_message(
    runtime: KernelRuntime, type_id: int, payload: bytes, *, bulk_bytes: int = 0
) -> None:
    """Raise unless the spec declares the message as it is, and slot and arena can carry it."""
    spec = runtime.spec
    for layout in spec.messages:
        if layout.id == type_id:
            break
    else:
        raise UnknownMessageError(runtime.kernel_id, type_id)
    if len(payload) > spec.payload_bytes_max:
        raise LimitExceededError(
            "the payload's size in bytes",
            len(payload),
            spec.payload_bytes_max,
            "raise the spec's slot_bytes, or send more than that with send, as data alone",
        )
    check_bulk_size(spec, bulk_bytes)
    alone = bulk_bytes > 0 and not payload  # then the kernel reads the data as the struct
    if not (bulk_bytes >= layout.size_bytes if alone else layout.fits(len(payload))):
        raise UsageError(
            f"message {layout.name!r} (type {type_id}) of kernel {runtime.kernel_id!r} has "
            f"{layout.size_bytes} bytes, what was sent as one has {len(payload) or bulk_bytes}; "
            "send the class that the spec declares now: a reload may have changed its fields"
        )


async def send(
    core: Core,
    runtime: KernelRuntime,
    type_id: int,
    payload: bytes,
    *,
    data: ArrayLike | None = None,
    producer: str = "",
    number: int = 0,
    on_full: OnFull = "wait",
) -> SendReceipt:
    """Accept one message; for a durable kernel it is durable when this returns."""
    message = checked(runtime, type_id, payload, data)
    kept = await admitted(core, runtime, message, on_full, producer, number)
    receipt = accept_new(core, runtime, type_id, (message.payload,), producer, number, kept=kept)
    if runtime.spec.durability == "durable":
        await receipt.durable()
    return receipt


def checked(
    runtime: KernelRuntime, type_id: int, payload: bytes, data: ArrayLike | None
) -> Outgoing:
    """Return what is sent; raises as ``check_message``, and ``UsageError`` for data of no use."""
    message = outgoing(payload, data, slot_bytes_max=runtime.spec.payload_bytes_max)
    check_message(runtime, type_id, message.payload, bulk_bytes=message.bulk_bytes)
    return message


async def admitted(
    core: Core,
    runtime: KernelRuntime,
    message: Outgoing,
    on_full: OnFull,
    producer: str = "",
    number: int = 0,
) -> Kept | None:
    """Wait for room for a message, and own its bulk; all that is left is to accept it."""
    if on_full != "wait":  # every message comes by here
        _check_on_full(on_full)
    if not message.bulk_bytes:
        if not is_at_ease(core, runtime):
            await _until_room(core, runtime, on_full)
        return None
    await _until_room(core, runtime, on_full, bulk_bytes=message.bulk_bytes)
    _check_number(core, runtime.kernel_id, producer, number)  # before anything is stored
    objects = None if runtime.spec.durability == "volatile" else core.objects
    kept = await keep(message, in_thread=core.in_thread, objects=objects)
    await _until_room(core, runtime, on_full, bulk_bytes=message.bulk_bytes)
    return kept


async def send_many(
    core: Core,
    runtime: KernelRuntime,
    type_id: int,
    payloads: Sequence[bytes],
    *,
    producer: str = "",
    number: int = 0,
    on_full: OnFull = "wait",
) -> SendReceipt:
    """Accept messages of one size, a record a batch; return the last one's receipt.

    With ``on_full="raise"`` there is room for all of them or none is accepted.
    """
    if not payloads:
        raise UsageError("there are no messages to send; pass at least one row")
    _check_on_full(on_full)
    check_message(runtime, type_id, payloads[0])
    if on_full == "raise":
        await _until_room(core, runtime, on_full, count=len(payloads))
    for start in range(0, len(payloads), MESSAGES_A_RECORD):
        if start or on_full == "wait":
            await _until_room(core, runtime, "wait")
        batch = tuple(payloads[start : start + MESSAGES_A_RECORD])
        first_number = number + start if producer else number
        receipt = accept_new(core, runtime, type_id, batch, producer, first_number)
    if runtime.spec.durability == "durable":
        await receipt.durable()
    return receipt


def accept_new(
    core: Core,
    runtime: KernelRuntime,
    type_id: int,
    payloads: tuple[bytes, ...],
    producer: str = "",
    number: int = 0,
    waiter: CallWaiter | None = None,
    kept: Kept | None = None,
) -> SendReceipt:
    """Number, record and queue messages in one step; nothing here awaits.

    Args:
        kept: the bulk of a single message.
    """
    core.runtime(runtime.kernel_id)
    _check_number(core, runtime.kernel_id, producer, number)
    first = core.state.marks[runtime.kernel_id].next_sequence
    last = first + len(payloads) - 1
    accepted: Event
    if kept is None:
        accepted = _accepted(runtime.kernel_id, first, type_id, payloads, producer, number)
    else:
        accepted = BulkMessageAccepted(
            kernel_id=runtime.kernel_id,
            sequence=first,
            message_type=type_id,
            payload=payloads[0],
            digest=kept.digest,
            size_bytes=kept.bulk.size_bytes,
            producer=producer,
            number=number,
        )
    bulk = kept.bulk if kept is not None else None
    postings = [
        Posting(sequence, type_id, payload, bulk=bulk)
        for sequence, payload in enumerate(payloads, first)
    ]
    if waiter is not None:
        runtime.outputs.calls[first] = waiter
    append = accept(core, runtime, accepted, postings)
    if append is not None and core.journal.waiting_count <= 1:  # else somebody did it before
        _expect(core, runtime)
    return SendReceipt(last, core, runtime, append)


def _expect(core: Core, runtime: KernelRuntime) -> None:
    # A kernel that rests gets nothing soon; one that is rebuilt has no instance meanwhile.
    if runtime.delivering and 0 < core.journal.commit_s < ROUSE_MAX_S:
        runtime.instance.resident.expect(2 * core.journal.commit_s)


def accept(
    core: Core,
    runtime: KernelRuntime,
    accepted: Event,
    postings: Sequence[Posting],
    *,
    also: tuple[Event, ...] = (),
    then: Callable[[], None] | None = None,
) -> Append | None:
    """Record and queue numbered messages in one step; return None where nothing is journaled.

    Args:
        accepted: the event that numbers ``postings``.
        also: events of the same decision, in the same record.
        then: called when the messages are durable, or at once where they never are.
    Raises:
        LimitExceededError, StorageError: the journal takes nothing now; nothing was changed.
    """
    last = postings[-1].sequence

    append: Append | None = None
    with runtime.delivery:  # the journal's thread delivers as soon as they are durable
        if runtime.spec.durability == "volatile":
            for event in (accepted, *also):
                core.state.apply(event)
        else:
            stream, mark = f"messages/{runtime.kernel_id}", (runtime, last)
            events = [accepted, *also]
            append = core.record(stream, events, control=False, then=then, mark=mark)
        for posting in postings:
            runtime.inbox.push(posting)
    if append is None:
        if then is not None:
            then()
        runtime.mark_durable(last)
    return append


def _accepted(
    kernel_id: str,
    first: int,
    type_id: int,
    payloads: tuple[bytes, ...],
    producer: str,
    number: int,
) -> MessagesAccepted:
    count = len(payloads)
    return MessagesAccepted(
        kernel_id=kernel_id,
        first_sequence=first,
        types=(type_id,) * count,
        payloads=payloads,
        producers=(producer,) * count,
        numbers=tuple(range(number, number + count)) if producer else (0,) * count,
    )


def _check_on_full(on_full: OnFull) -> None:
    if on_full not in ("wait", "raise"):
        raise UsageError(f"on_full {on_full!r} is neither 'wait' nor 'raise'; use one of them")


def _check_number(core: Core, kernel_id: str, producer: str, number: int) -> None:
    if not producer:
        if number:
            raise UsageError("a message has a number but no producer; name the producer as well")
        return
    last = core.state.marks[kernel_id].producers.get(producer, 0)
    if number <= last:
        raise UsageError(
            f"producer {producer!r} sent number {number} after {last}; go on from "
            f"last_number({producer!r}) + 1"
        )


def is_at_ease(core: Core, runtime: KernelRuntime) -> bool:
    """Whether a small message certainly has room; asked first, for it is cheap."""
    return (
        runtime.delivering
        and not core.state.routing.into(runtime.kernel_id)
        and len(runtime.inbox) < core.limits.parked_messages
        and core.journal.has_room
        and not runtime.outputs.is_full
    )


async def _until_room(
    core: Core, runtime: KernelRuntime, on_full: OnFull, *, count: int = 1, bulk_bytes: int = 0
) -> None:
    def has_room() -> bool:
        if runtime.halted or runtime.closed:
            raise core.not_running(runtime.kernel_id)
        parked = len(runtime.inbox) + count <= core.limits.parked_messages
        if core.sends_wait_for(runtime.kernel_id):  # other kernels come first
            return False
        return parked and bulk_has_room() and not runtime.outputs.is_full

    def bulk_has_room() -> bool:
        kept = runtime.inbox.bulk_bytes  # one that is larger than the limit goes alone
        return not (kept and bulk_bytes) or kept + bulk_bytes <= core.limits.parked_bulk_bytes

    while True:
        if runtime.spec.durability != "volatile":
            await core.journal.room()
        if has_room():
            return
        if on_full == "raise" and not bulk_has_room():
            raise LimitExceededError(
                "the size in bytes of unfinished messages' data",
                runtime.inbox.bulk_bytes + bulk_bytes,
                core.limits.parked_bulk_bytes,
                "wait for receipts, or send with on_full='wait'",
            )
        if on_full == "raise":
            raise _full(core, runtime, count)
        await runtime.changed.until(has_room)


def _full(core: Core, runtime: KernelRuntime, count: int) -> LimitExceededError:
    """Return what is full, with its own bound and with who can make room."""
    or_wait = "or send with on_full='wait'"
    waiting, waiting_bytes = runtime.outputs.waiting
    if len(runtime.inbox) + count > core.limits.parked_messages:
        what, value, limit = "unfinished messages", len(runtime.inbox) + count, "parked_messages"
        advice = f"wait for receipts, {or_wait}"
    elif waiting >= runtime.outputs.bound:
        what, value, limit = "unread outputs", waiting + 1, "waiting_outputs"
        advice = f"read and acknowledge replies, look at the kernel's connections, {or_wait}"
    elif waiting_bytes >= runtime.outputs.bound_bytes:
        what, value, limit = "bytes in unread outputs", waiting_bytes + 1, "waiting_data_bytes"
        advice = f"read and acknowledge replies, {or_wait}"
    else:  # what other kernels have sent comes first
        what, value, limit = "unfinished messages", len(runtime.inbox) + count, "parked_messages"
        advice = f"other kernels' sends wait for room as well and come first; {or_wait}"
    return LimitExceededError(f"the number of {what}", value, getattr(core.limits, limit), advice)
