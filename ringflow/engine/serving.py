"""What handles of kernels ask the engine for: messages, replies, a look at the state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from ringflow.engine import calling, checkpoints, consuming, messaging, rewinding
from ringflow.engine.core import Core
from ringflow.engine.quiescing import held
from ringflow.held import HeldRegion, HeldState, Hold
from ringflow.kernel import OnFull, Reply
from ringflow.spec import KernelSpec
from ringflow.storage import Checkpoint

if TYPE_CHECKING:
    from ringflow.arrays import ArrayLike


class HandleService:
    """The engine's side of ``KernelHandle``; a kernel is named by its id."""

    def __init__(self, core: Core) -> None:
        self._served = core

    @property
    def _core(self) -> Core:
        """The engine's parts, as every public call gets them: in the engine's own thread only."""
        self._served.check_thread()
        return self._served

    async def send(
        self,
        kernel_id: str,
        type_id: int,
        payload: bytes,
        *,
        data: ArrayLike | None = None,
        producer: str = "",
        number: int = 0,
        on_full: OnFull = "wait",
    ) -> messaging.SendReceipt:
        """Send raw bytes to a kernel; see ``KernelHandle.send``."""
        core = self._core
        return await messaging.send(
            core,
            core.runtime(kernel_id),
            type_id,
            payload,
            data=data,
            producer=producer,
            number=number,
            on_full=on_full,
        )

    async def send_many(
        self,
        kernel_id: str,
        type_id: int,
        payloads: Sequence[bytes],
        *,
        producer: str = "",
        number: int = 0,
        on_full: OnFull = "wait",
    ) -> messaging.SendReceipt:
        """Send raw bytes to a kernel; see ``KernelHandle.send_many``."""
        core = self._core
        return await messaging.send_many(
            core,
            core.runtime(kernel_id),
            type_id,
            payloads,
            producer=producer,
            number=number,
            on_full=on_full,
        )

    async def call(
        self,
        kernel_id: str,
        type_id: int,
        payload: bytes,
        *,
        data: ArrayLike | None = None,
        timeout_s: float,
    ) -> Reply:
        """Send raw bytes and wait for the reply; see ``KernelHandle.call``."""
        core = self._core
        runtime = core.runtime(kernel_id)
        return await calling.call(core, runtime, type_id, payload, data=data, timeout_s=timeout_s)

    def last_number(self, kernel_id: str, producer: str) -> int:
        self._core.state.kernel(kernel_id)
        return self._core.state.marks[kernel_id].producers.get(producer, 0)

    def replies(
        self, kernel_id: str, consumer: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Reply]]:
        return consuming.consume(self._core, self._core.runtime(kernel_id), consumer)

    async def forget_consumer(self, kernel_id: str, consumer: str) -> None:
        await consuming.forget(self._core, self._core.runtime(kernel_id), consumer)

    @asynccontextmanager
    async def held(self, kernel_id: str) -> AsyncIterator[HeldState]:
        core, runtime = self._core, self._core.runtime(kernel_id)
        core.check_free(kernel_id)
        with core.lease(kernel_id, "held()"):
            async with held(core, runtime, purpose="held") as applied:
                instance = runtime.instance
                resident = instance.resident
                hold = Hold(kernel_id, instance.device)
                regions = [
                    HeldRegion(region, hold, resident.regions[region.name])
                    for region in resident.layout
                ]
                try:
                    yield HeldState(regions, applied)
                finally:
                    hold.end()

    async def take_checkpoint(self, kernel_id: str) -> Checkpoint:
        core = self._core
        return await core.in_task(lambda: checkpoints.take(core, kernel_id))

    async def restore_checkpoint(self, kernel_id: str, checkpoint: Checkpoint) -> None:
        core = self._core
        await core.in_task(lambda: rewinding.restore(core, kernel_id, checkpoint))

    def spec(self, kernel_id: str) -> KernelSpec:
        return self._core.runtime(kernel_id).spec

    def is_busy(self, kernel_id: str) -> bool:
        return kernel_id in self._core.busy or kernel_id in self._core.state.leases
