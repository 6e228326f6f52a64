"""Reading a kernel's outputs: named consumers, whose positions are in the journal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

import anyio

from ringflow.device.pump import Output
from ringflow.engine.core import Core
from ringflow.engine.outputs import ConsumerQueue
from ringflow.engine.runtime import KernelRuntime
from ringflow.errors import UsageError
from ringflow.events.messages import ConsumerForgotten, ConsumerRegistered, OutputsAcknowledged
from ringflow.kernel import Reply


def reply_of(
    core: Core, runtime: KernelRuntime, output: Output, consumer: QueueConsumer | None = None
) -> Reply:
    return Reply(
        kernel_id=runtime.kernel_id,
        epoch=core.epoch,
        sequence=output.sequence,
        index=output.index,
        type=output.type,
        payload=output.payload,
        data=output.data,
        consumer=consumer,
    )


@final
class QueueConsumer:
    """``Consumer`` over one named queue."""

    def __init__(self, core: Core, runtime: KernelRuntime, queue: ConsumerQueue) -> None:
        self._core, self._runtime, self._queue = core, runtime, queue

    def __aiter__(self) -> QueueConsumer:
        return self

    async def __anext__(self) -> Reply:
        self._core.check_thread()
        while (output := self._queue.take()) is None:
            if self._runtime.halted or self._runtime.closed:
                raise StopAsyncIteration
            await self._queue.changed.wait()
        return reply_of(self._core, self._runtime, output, self)

    async def acknowledge(self, sequence: int, index: int) -> None:
        self._core.check_thread()
        runtime, name = self._runtime, self._queue.name
        await self._core.journal.room()
        if (sequence, index) <= self._queue.position:
            return
        acknowledged = OutputsAcknowledged(
            kernel_id=runtime.kernel_id, consumer=name, sequence=sequence, index=index
        )
        self._core.record(f"consumers/{runtime.kernel_id}", [acknowledged], control=False)
        self._queue.acknowledge((sequence, index))  # after: what the journal refused stays
        runtime.deliver()
        runtime.changed.notify()


@asynccontextmanager
async def consume(core: Core, runtime: KernelRuntime, name: str) -> AsyncIterator[QueueConsumer]:
    """Give a named consumer's replies from its position on; a new name starts now."""
    if not name:
        raise UsageError("a consumer needs a name; replies are kept for it under that name")
    kernel_id, queue = runtime.kernel_id, runtime.outputs.consumers.get(name)
    if queue is None:
        after_sequence, after_index = runtime.outputs.released
        registered = ConsumerRegistered(
            kernel_id=kernel_id,
            consumer=name,
            after_sequence=after_sequence,
            after_index=after_index,
        )
        append = core.record(f"consumers/{kernel_id}", [registered])
        queue = runtime.outputs.add_consumer(name, (after_sequence, after_index))
        await core.journal.until_durable(append)
    if queue.has_reader:
        raise UsageError(f"consumer {name!r} is being read already; leave its block first")
    queue.has_reader = True
    queue.reread()
    try:
        yield QueueConsumer(core, runtime, queue)
    finally:
        queue.has_reader = False


async def forget(core: Core, runtime: KernelRuntime, name: str) -> None:
    """Drop a named consumer and what is kept for it."""
    queue = runtime.outputs.consumers.get(name)
    if queue is None:
        raise UsageError(f"kernel {runtime.kernel_id!r} has no consumer {name!r}")
    if queue.has_reader:
        raise UsageError(f"consumer {name!r} is being read; leave its block first")
    append = core.record(
        f"consumers/{runtime.kernel_id}",
        [ConsumerForgotten(kernel_id=runtime.kernel_id, consumer=name)],
    )
    del runtime.outputs.consumers[name]
    runtime.deliver()
    runtime.changed.notify()
    with anyio.CancelScope(shield=True):
        await core.journal.until_durable(append)
