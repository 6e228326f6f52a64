"""The user's handle of a live kernel: send, call, read replies, look at its state.

- A handle holds no state of its own: it may be made, dropped and made again at will.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar, final

import attrs

from ringflow.errors import SpecError
from ringflow.held import HeldState
from ringflow.messages import pack, pack_many, unpack
from ringflow.results import MigrationResult, ReloadResult
from ringflow.routing import Connection
from ringflow.storage import Checkpoint

if TYPE_CHECKING:
    import numpy as np

    from ringflow.arrays import ArrayLike
    from ringflow.code_source import KernelCodeSource
    from ringflow.spec import KernelSpec

T = TypeVar("T")
OnFull = Literal["wait", "raise"]
_NO_DATA: Final = memoryview(b"")


class Receipt(Protocol):
    """A message that was accepted and numbered."""

    @property
    def sequence(self) -> int:
        """The message's number among its kernel's, from 1."""

    async def durable(self) -> None:
        """Wait until the message is in the journal; raises ``OutcomeUnknownError``."""

    async def done(self) -> None:
        """Wait until the kernel has finished the message; raises if it can't."""


@final
@attrs.frozen(kw_only=True)
class Reply:
    """One output of a kernel; (kernel, sequence, index) names it for ever.

    Attributes:
        type: the message type that the kernel gave it.
        epoch: of the engine that delivered it.
        payload: what a slot carried: a typed value, or bytes.
        data: the array that came with it (``reply_data``): uint8[n], read-only, empty for none.
    """

    kernel_id: str
    epoch: int
    sequence: int
    index: int
    type: int
    payload: bytes
    data: memoryview = _NO_DATA
    _consumer: Consumer | None = attrs.field(default=None, repr=False, eq=False)

    def array(self, dtype: str) -> np.ndarray[Any, Any]:
        """Return the array that came with the reply, or else the payload, as [n] of ``dtype``.

        Raises:
            SpecError: numpy has no such dtype, or the bytes are no whole number of its elements.
        """
        import numpy as np

        given = self.data if self.data.nbytes else self.payload
        try:
            return np.frombuffer(given, dtype=dtype)
        except (TypeError, ValueError) as error:
            raise SpecError(
                f"the {len(given)} bytes of reply {self.sequence} can't be read as {dtype!r}: "
                f"{error}; give the dtype that the kernel wrote"
            ) from None

    def unpack(self, cls: builtins.type[T]) -> T:
        """Return the payload as a message class; raises ``SpecError`` if it has another size."""
        return unpack(cls, self.payload)

    async def ack(self) -> None:
        """Say that this reply and all before it are dealt with: they never come again.

        The position is journaled in order; a crash within the next moment may still repeat it.
        """
        if self._consumer is not None:
            await self._consumer.acknowledge(self.sequence, self.index)


class Consumer(Protocol):
    """A reader of a kernel's replies."""

    def __aiter__(self) -> AsyncIterator[Reply]: ...
    async def __anext__(self) -> Reply: ...
    async def acknowledge(self, sequence: int, index: int) -> None: ...


@final
@attrs.frozen(kw_only=True)
class CheckpointInfo:
    """A durable checkpoint that is the kernel's newest recovery point.

    Attributes:
        name: in the engine's checkpoint storage.
        applied_sequence: the last message in its state.
        pause_s: how long the kernel was held.
        digests: SHA-256 (hex) by region.
    """

    operation_id: str
    kernel_id: str
    name: str
    applied_sequence: int
    state_bytes: int
    pause_s: float
    digests: Mapping[str, str]


class KernelHost(Protocol):
    """What the engine does for a handle."""

    async def send(
        self,
        kernel_id: str,
        type_id: int,
        payload: bytes,
        *,
        data: ArrayLike | None,
        producer: str,
        number: int,
        on_full: OnFull,
    ) -> Receipt: ...
    async def send_many(
        self,
        kernel_id: str,
        type_id: int,
        payloads: Sequence[bytes],
        *,
        producer: str,
        number: int,
        on_full: OnFull,
    ) -> Receipt: ...
    async def call(
        self,
        kernel_id: str,
        type_id: int,
        payload: bytes,
        *,
        data: ArrayLike | None,
        timeout_s: float,
    ) -> Reply: ...
    def last_number(self, kernel_id: str, producer: str) -> int: ...
    def replies(
        self, kernel_id: str, consumer: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Reply]]: ...
    async def forget_consumer(self, kernel_id: str, consumer: str) -> None: ...
    def held(self, kernel_id: str) -> AbstractAsyncContextManager[HeldState]: ...
    async def take_checkpoint(self, kernel_id: str) -> Checkpoint: ...
    async def restore_checkpoint(self, kernel_id: str, checkpoint: Checkpoint) -> None: ...
    async def migrate(
        self, kernel_id: str, *, to: str, actor: str, reason: str
    ) -> MigrationResult: ...
    async def reload(
        self, kernel_id: str, code: KernelCodeSource, **options: Any
    ) -> ReloadResult: ...
    def spec(self, kernel_id: str) -> KernelSpec: ...
    def connections(self, kernel_id: str) -> tuple[Connection, ...]: ...
    def is_busy(self, kernel_id: str) -> bool: ...


@final
class KernelHandle:
    """A live kernel of an engine; it is a ``CheckpointableKernel``."""

    def __init__(self, host: KernelHost, kernel_id: str) -> None:
        self._host = host
        self.id = kernel_id

    def __repr__(self) -> str:
        return f"KernelHandle(id={self.id!r})"

    @property
    def spec(self) -> KernelSpec:
        """The spec that the kernel runs by now, its last reload included."""
        return self._host.spec(self.id)

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The kernel's routes, connected or not, in the order of its spec."""
        return self._host.connections(self.id)

    async def send(
        self,
        message: object,
        payload: bytes = b"",
        *,
        data: ArrayLike | None = None,
        producer: str = "",
        number: int = 0,
        on_full: OnFull = "wait",
    ) -> Receipt:
        """Send a message; for a durable kernel it is in the journal when this returns.

        Args:
            message: an instance of a ``ringflow.message`` class, or a type number with ``payload``.
            payload: one larger than a slot is sent as ``data``.
            data: bytes, or an array of any library, in host memory or a GPU's, of any size up to
                the spec's ``bulk_bytes``, contiguous in C order; the kernel's ``m.bulk_data``.
                Don't change it until this returns.
            producer, number: the sender's own name and number for the message; numbers ascend.
            on_full: wait while the kernel has too much to do, or raise ``LimitExceededError``.
        Raises:
            UnknownMessageError, LimitExceededError, UsageError: nothing was sent.
            OutcomeUnknownError: the journal failed; ask ``last_number`` after a restart.
        """
        type_id, packed = (message, payload) if isinstance(message, int) else pack(message)
        return await self._host.send(
            self.id, type_id, packed, data=data, producer=producer, number=number, on_full=on_full
        )

    async def send_many(
        self,
        messages: type[Any] | Iterable[object],
        rows: np.ndarray[Any, Any] | None = None,
        *,
        producer: str = "",
        number: int = 0,
        on_full: OnFull = "wait",
    ) -> Receipt:
        """Send messages of one class, or one for each row of an array; return the last's receipt.

        A batch of up to 1,024 is one record in the journal and one write into the ring. If it is
        cancelled or fails, a first part may have been accepted: ``last_number`` tells which.

        Args:
            messages: the messages, or the ``ringflow.message`` class of those that ``rows`` gives,
                which takes a fraction of the time.
            rows: structured[n] with the class's fields; or [n] where it has a single field.
            producer, number: as for ``send``; ``number`` is the first row's, the next ones follow.
            on_full: ``"raise"`` raises before anything is accepted unless there is room for all.
        """
        type_id, payloads = pack_many(messages, rows)
        return await self._host.send_many(
            self.id, type_id, payloads, producer=producer, number=number, on_full=on_full
        )

    async def call(
        self,
        message: object,
        payload: bytes = b"",
        *,
        data: ArrayLike | None = None,
        timeout_s: float,
    ) -> Reply:
        """Send a message and return its first reply; ``TimeoutError`` after ``timeout_s``.

        The arguments are those of ``send``. After a time-out the message is still applied; its
        reply then goes to consumers only.

        Raises:
            NoReplyError: the kernel has finished the message without one.
            TimeoutError, and what ``send`` raises.
        """
        type_id, packed = (message, payload) if isinstance(message, int) else pack(message)
        return await self._host.call(self.id, type_id, packed, data=data, timeout_s=timeout_s)

    def last_number(self, producer: str) -> int:
        """Return the highest number that was accepted from ``producer``, 0 for none."""
        return self._host.last_number(self.id, producer)

    def replies(self, *, consumer: str) -> AbstractAsyncContextManager[AsyncIterator[Reply]]:
        """Read replies as the named consumer: all after its last acknowledged one, in order.

        Any text is a name. One that is new starts with the replies to come. What a named consumer
        does not acknowledge is kept for it, up to a bound at which new messages wait.
        """
        return self._host.replies(self.id, consumer)

    async def forget_consumer(self, consumer: str) -> None:
        """Keep nothing for this consumer any more; it will not come back."""
        await self._host.forget_consumer(self.id, consumer)

    def held(self) -> AbstractAsyncContextManager[HeldState]:
        """Hold the kernel at a message boundary for the block and give its regions."""
        return self._host.held(self.id)

    async def checkpoint(self) -> Checkpoint:
        """Return the whole state at one message boundary; the kernel goes on.

        It is a value in memory; ``engine.checkpoint`` makes one durable.
        """
        return await self._host.take_checkpoint(self.id)

    async def restore(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint's regions in place of the present ones and commit that durably.

        Messages go on from where they are. Raises ``RegionMismatchError`` or ``CorruptError``.
        """
        await self._host.restore_checkpoint(self.id, checkpoint)

    async def migrate_to(self, device: str, *, actor: str, reason: str) -> MigrationResult:
        """Let the engine move the kernel; it is a ``SelfMigratingKernel``."""
        return await self._host.migrate(self.id, to=device, actor=actor, reason=reason)

    async def reload_to(self, code: KernelCodeSource, *, actor: str, reason: str) -> ReloadResult:
        """Let the engine change the code, without a probation; it is a ``SelfReloadingKernel``."""
        return await self._host.reload(
            self.id, code, probation_messages=0, actor=actor, reason=reason
        )

    def can_checkpoint(self) -> bool:
        """Return False while an operation holds the kernel."""
        return not self._host.is_busy(self.id)

    def checkpoint_size_estimate(self) -> int:
        """Return about how many bytes a checkpoint takes."""
        return self.spec.state_bytes
