"""A user's own kernel for the services' tests: numpy state on pretended devices, real faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import numpy as np

from ringflow.code_source import KernelCodeSource
from ringflow.ports import CheckpointableKernel
from ringflow.storage import Checkpoint, CheckpointBuilder, MemoryStorage

SOURCE = """
extern "C" __global__ void adds(float* total) { total[0] += 1.0f; }
"""


def code(factor: int, source: str = SOURCE, entry_point: str = "adds") -> KernelCodeSource:
    """Return code whose version tells by what its kernel multiplies each number."""
    return KernelCodeSource.from_cuda(source, entry_point, version_id=str(factor))


class Faults:
    """What goes wrong when: ``after[call]`` runs once, after the given count of good calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._armed: dict[str, list[tuple[int, Callable[[], Any]]]] = {}

    def arm(self, call: str, action: Callable[[], Any], *, after: int = 0) -> None:
        self._armed.setdefault(call, []).append((after, action))

    def fail(self, call: str, *, after: int = 0) -> None:
        def raises() -> None:
            raise OSError(f"{call} broke")

        self.arm(call, raises, after=after)

    async def reach(self, call: str) -> None:
        """Note a call and do what is armed for it."""
        count = self.calls.count(call)
        self.calls.append(call)
        for after, action in self._armed.get(call, ()):
            if after == count:
                result = action()
                if result is not None:
                    await result


class Adder(CheckpointableKernel):
    """Adds numbers, times its code's factor, to a row of sums; what waits is added later."""

    def __init__(self, kernel_id: str = "adder", device: str = "a") -> None:
        self.id = kernel_id
        self.device = device
        self.memory: dict[str, Any] = {device: np.arange(8, dtype=np.int64)}
        self.step = 0
        self.faults = Faults()
        self.ready = True

    @property
    def sums(self) -> Any:
        return self.memory[self.device]

    async def checkpoint(self) -> Checkpoint:
        await self.faults.reach("checkpoint")
        builder = CheckpointBuilder(self.id, "adder").step(self.step)
        return builder.device_memory("sums", self.sums, dtype="int64", shape=(8,)).build()

    async def restore(self, checkpoint: Checkpoint) -> None:
        await self.faults.reach("restore")
        region = checkpoint.get_device_memory("sums")
        assert region is not None
        self.sums[:] = region.numpy()
        self.step = checkpoint.metadata.current_step
        await self.faults.reach("restored")

    def can_checkpoint(self) -> bool:
        return self.ready

    def checkpoint_size_estimate(self) -> int:
        return 64

    def image(self) -> tuple[str, int, list[int]]:
        """Return all that a failed operation must leave as it was."""
        return self.device, self.step, [int(n) for n in self.sums]


class LiveAdder(Adder):
    """An adder that takes numbers all the time, can be quiesced, placed, drained and swapped."""

    def __init__(self, kernel_id: str = "adder", device: str = "a") -> None:
        super().__init__(kernel_id, device)
        self.factor = 1
        self.running = True
        self.waiting: list[int] = []

    def send(self, number: int) -> None:
        self.waiting.append(number)
        if self.running:
            self._work()

    def _work(self) -> None:
        for number in self.waiting:
            self.sums[number % 8] += number * self.factor
            self.step += 1
        self.waiting.clear()

    async def quiesce(self) -> int:
        await self.faults.reach("quiesce")
        self.running = False
        return self.step

    async def drain(self) -> int:
        await self.faults.reach("drain")
        self.running = False
        return self.step

    async def resume(self) -> None:
        await self.faults.reach("resume")
        self.running = True
        await self.faults.reach("resumed")
        self._work()

    async def place(self, device: str) -> None:
        await self.faults.reach("place")
        self.memory = {device: np.zeros(8, np.int64)}
        self.device = device

    async def swap(self, code: KernelCodeSource) -> None:
        await self.faults.reach("swap")
        self.factor = int(code.version_id)
        self.memory = {self.device: np.zeros(8, np.int64)}
        self.step = 0
        await self.faults.reach("swapped")


class FaultyStorage(MemoryStorage):
    """A storage whose calls can be made to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.faults = Faults()

    async def save(self, checkpoint: Checkpoint, name: str) -> None:
        await self.faults.reach("save")
        await super().save(checkpoint, name)
        await self.faults.reach("saved")

    async def load(self, name: str) -> Checkpoint:
        await self.faults.reach("load")
        return await super().load(name)

    async def delete(self, name: str) -> None:
        await self.faults.reach("delete")
        await super().delete(name)


class Hang:
    """Never returns; only a cancellation ends it. ``reached`` says that it has begun."""

    def __init__(self) -> None:
        self.reached = anyio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await anyio.sleep_forever()
