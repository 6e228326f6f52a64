"""What the engine's tests do again and again: send numbers, collect replies, read the state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import anyio
import anyio.lowlevel
import attrs

import ringflow
from ringflow.device.native import native
from ringflow.engine.operations import Operation
from ringflow.engine.waiting import Condition
from tests.engine.kernels import Add, Total, Wait

GATE_OPEN: Final = (1).to_bytes(8, "little")


async def send_all(kernel: ringflow.KernelHandle, values: Iterable[int]) -> int:
    """Send each value; return the last sequence."""
    sequence = 0
    for value in values:
        sequence = (await kernel.send(Add(value))).sequence
    return sequence


async def close_gate(engine: ringflow.Engine, kernel: ringflow.KernelHandle) -> ringflow.Receipt:
    """Have a kernel stay in a ``Wait``, and return once it is there: it obeys no command then."""
    receipt = await kernel.send(Wait())
    resident = engine._core.runtimes[kernel.id].instance.resident
    with anyio.fail_after(60):
        while resident.taken_sequence < receipt.sequence:  # noqa: ASYNC110 - the kernel tells nobody
            await anyio.sleep(0.001)
    return receipt


def open_gate(engine: ringflow.Engine, kernel_id: str = "adder") -> None:
    """Let a kernel that is in a ``Wait`` go on."""
    resident = engine._core.runtimes[kernel_id].instance.resident
    resident.device.copy_in(resident.regions["state"], GATE_OPEN, offset_bytes=3 * 8)
    native().ring_workers(native().room)  # nobody else tells a sleeping worker


async def open_gate_once_closing(engine: ringflow.Engine) -> None:
    """For a task beside the engine's block: the close waits for the kernel's message."""
    while not engine._core.closing:
        await anyio.lowlevel.checkpoint()
    open_gate(engine)


async def cancel_in_its_wait(engine: ringflow.Engine, operation: Operation[Any]) -> None:
    """Cancel an operation whose kernel is in a ``Wait``, then open the gate."""
    asked = anyio.Event()

    async def cancel() -> None:
        asked.set()  # whoever waits for it goes on when the line below waits
        assert await operation.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        await asked.wait()
        open_gate(engine)


async def state_of(kernel: ringflow.KernelHandle) -> tuple[int, ...]:
    """Return the kernel's ``state`` region after every message that was sent."""
    await kernel.call(Total(), timeout_s=60)
    async with kernel.held() as state:
        return tuple(int(word) for word in state["state"].numpy())


async def cells_of(kernel: ringflow.KernelHandle) -> bytes:
    async with kernel.held() as state:
        return state["cells"].numpy().tobytes()


@attrs.define
class Recorder:
    """Reads a kernel's replies as a named consumer and checks that each comes once, in order."""

    kernel: ringflow.KernelHandle
    consumer: str = "recorder"
    replies: list[ringflow.Reply] = attrs.field(factory=list)
    started: anyio.Event = attrs.field(factory=anyio.Event)
    progress: Condition = attrs.field(factory=Condition)

    async def run(self) -> None:
        async with self.kernel.replies(consumer=self.consumer) as replies:
            self.started.set()
            async for reply in replies:
                identity = (reply.sequence, reply.index)
                if self.replies:
                    last = self.replies[-1]
                    assert identity > (last.sequence, last.index), "repeated or out of order"
                self.replies.append(reply)
                await reply.ack()
                self.progress.notify()

    async def until(self, sequence: int) -> None:
        """Wait until the reply of message ``sequence`` has come."""
        with anyio.fail_after(30):
            await self.progress.until(
                lambda: bool(self.replies) and self.replies[-1].sequence >= sequence
            )

    @property
    def payloads(self) -> list[bytes]:
        return [reply.payload for reply in self.replies]


class Producer:
    """Sends ascending numbers at its own pace until it is told to stop."""

    def __init__(self, kernel: ringflow.KernelHandle) -> None:
        self.kernel = kernel
        self.values: list[int] = []
        self.last_sequence = 0
        self._stop = False
        self.stopped = anyio.Event()
        self.progress = Condition()

    async def run(self) -> None:
        number = self.kernel.last_number("producer")
        while not self._stop:
            number += 1
            receipt = await self.kernel.send(Add(number * 7), producer="producer", number=number)
            self.values.append(number * 7)
            self.last_sequence = receipt.sequence
            self.progress.notify()
        self.stopped.set()

    async def stop(self) -> int:
        """Stop sending; return the last accepted sequence."""
        self._stop = True
        await self.stopped.wait()
        return self.last_sequence

    async def until(self, count: int) -> None:
        """Wait until ``count`` messages were accepted."""
        with anyio.fail_after(60):
            await self.progress.until(lambda: len(self.values) >= count)
