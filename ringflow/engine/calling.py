"""Calls: a message and its first reply, within a deadline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ringflow.clock import within
from ringflow.engine.bulk import Kept, Outgoing
from ringflow.engine.consuming import reply_of
from ringflow.engine.core import Core
from ringflow.engine.messaging import accept_new, admitted, checked, is_at_ease
from ringflow.engine.outputs import CallWaiter
from ringflow.engine.runtime import KernelRuntime
from ringflow.errors import NoReplyError, UsageError
from ringflow.kernel import Reply

if TYPE_CHECKING:
    from ringflow.arrays import ArrayLike

_HELD: Final = (
    "; its spec holds replies until a checkpoint covers them: ask for engine.checkpoint, or give "
    "the spec checkpoint_every_messages, checkpoint_every_s, or release='at_once'"
)


async def call(
    core: Core,
    runtime: KernelRuntime,
    type_id: int,
    payload: bytes,
    *,
    data: ArrayLike | None = None,
    timeout_s: float,
) -> Reply:
    """Send a message and return its first reply, which comes only once the message is durable."""
    if not (isinstance(timeout_s, (int, float)) and timeout_s >= 0):
        raise UsageError(
            f"timeout_s is {timeout_s!r}; give seconds, or float('inf') to wait without an end"
        )
    message = checked(runtime, type_id, payload, data)
    waiter = CallWaiter(core.deadlines.after(timeout_s))
    kept: Kept | None = None
    if message.bulk_bytes or not is_at_ease(core, runtime):
        kept = await _admitted_within(core, runtime, message, timeout_s)
    receipt = accept_new(core, runtime, type_id, (message.payload,), waiter=waiter, kept=kept)
    core.deadlines.watch(waiter)
    try:
        await waiter.done.wait()
    finally:
        core.deadlines.forget(waiter)
    if waiter.output is not None:  # also one that came with the deadline
        return reply_of(core, runtime, waiter.output)
    if waiter.lost:
        if runtime.spec.durability == "durable":
            await receipt.durable()  # raises if the journal failed
        raise core.not_running(runtime.kernel_id, "running; the message stays accepted")
    if waiter.expired:
        raise TimeoutError(
            f"kernel {runtime.kernel_id!r} has not replied within {timeout_s} s; the message "
            f"stays accepted{_HELD if runtime.spec.holds_outputs else ''}"
        )
    raise NoReplyError(runtime.kernel_id, receipt.sequence)


async def _admitted_within(
    core: Core, runtime: KernelRuntime, message: Outgoing, timeout_s: float
) -> Kept | None:
    """Wait for room; raises ``TimeoutError`` if there was none in time."""
    kept: Kept | None = None

    async def admit() -> None:
        nonlocal kept
        kept = await admitted(core, runtime, message, "wait")

    if not await within(core.clock, timeout_s, admit):
        raise TimeoutError(
            f"there was no room for the message within {timeout_s} s, and it was not accepted; "
            f"kernel {runtime.kernel_id!r} has too much to do, or its outputs are not read"
        )
    return kept
