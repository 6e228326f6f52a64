"""Arrays and large payloads on the host: owned when they are sent, in the arena when posted.

- What is durable lies in the content-addressed folder before the event that names it is recorded.
- Copies that would hold up the event loop are made in threads, one at a time for each kernel.
- Bytes that a journal names are read and compared with their digest whenever they are needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast, final

import attrs

from ringflow.arrays import DeviceArray, taken
from ringflow.device.arrays import read
from ringflow.device.bulk import COPY_IN_PLACE_BYTES_MAX, Bulk, copied
from ringflow.device.posting import Posting
from ringflow.device.resident import ResidentKernel
from ringflow.engine.starting import Work
from ringflow.errors import CorruptError, NotFoundError, StorageError, UsageError
from ringflow.events.messages import BulkMessageAccepted
from ringflow.events.payloads import check_payload
from ringflow.storage import ObjectStore

if TYPE_CHECKING:
    from ringflow.arrays import ArrayLike


class InThread(Protocol):
    """``Core.in_thread``."""

    def __call__(self, work: Callable[[], Any]) -> Awaitable[Any]: ...


@final
@attrs.frozen(eq=False)
class Kept:
    """A message's bulk that nobody changes any more; ``digest`` is empty where no file has it."""

    bulk: Bulk
    digest: str = ""


def bytes_given(data: ArrayLike) -> memoryview | DeviceArray:
    """Return a view of what a program sends: uint8[n], or an array that a GPU's memory holds.

    Raises:
        UsageError: it is no array, is not contiguous in C order, or holds objects.
    """
    import numpy as np

    if isinstance(data, bytes | bytearray | memoryview):
        array = np.frombuffer(data, np.uint8) if _is_contiguous(data) else None
    else:
        given = taken(data)
        if isinstance(given, DeviceArray):
            return given
        array = given.reshape(-1).view(np.uint8) if given.flags.c_contiguous else None
    if array is None:
        raise UsageError("the data is not contiguous in C order; pass np.ascontiguousarray(data)")
    return array.data.toreadonly() if array.size else memoryview(b"")


def _is_contiguous(data: bytes | bytearray | memoryview) -> bool:
    return not isinstance(data, memoryview) or data.c_contiguous


@final
@attrs.frozen(eq=False)
class Outgoing:
    """What a program sends: a slot's payload, and its bulk: a view, uint8[n], or a GPU's array.

    Attributes:
        fixed: nobody can change the bulk.
    """

    payload: bytes
    bulk: memoryview | DeviceArray
    fixed: bool

    @property
    def bulk_bytes(self) -> int:
        return self.bulk.size_bytes if isinstance(self.bulk, DeviceArray) else len(self.bulk)


def outgoing(payload: bytes, data: ArrayLike | None, *, slot_bytes_max: int) -> Outgoing:
    """Return payload and bulk; a payload that no slot carries is bulk, if there is no other.

    Raises:
        UsageError: ``data`` is no array, not contiguous in C order, or holds objects.
    """
    if data is None and len(payload) > slot_bytes_max:
        payload, data = b"", payload
    if data is None:
        return Outgoing(payload, memoryview(b""), fixed=True)
    return Outgoing(payload, bytes_given(data), fixed=isinstance(data, bytes))


async def keep(message: Outgoing, *, in_thread: InThread, objects: ObjectStore | None) -> Kept:
    """Own the bulk: copied unless it can't change; durable if ``objects`` is given.

    Raises:
        DeviceError: an array of a GPU could not be read; nothing was recorded, so for the next.
        StorageError: the bytes could not be stored.
    """
    owned = await _owned(message, in_thread)
    digest = await in_thread(lambda: objects.put(owned)) if objects is not None else ""
    return Kept(Bulk.of(owned), digest)


async def _owned(message: Outgoing, in_thread: InThread) -> memoryview:
    bulk = message.bulk
    if isinstance(bulk, DeviceArray):
        return cast(memoryview, await in_thread(lambda: read(bulk)))
    if message.fixed:
        return bulk
    if len(bulk) <= COPY_IN_PLACE_BYTES_MAX:
        return copied(bulk)
    return cast(memoryview, await in_thread(lambda: copied(bulk)))


def posting_of(event: BulkMessageAccepted, objects: ObjectStore) -> Posting:
    """Return a journaled message; its bytes are read when they are needed.

    Then they raise ``CorruptError`` if the object is missing or damaged.
    Raises:
        PayloadLeftOutError: what lay in the slot can't be brought back.
    """
    check_payload(event.kernel_id, event.sequence, event.payload)

    def load() -> bytes:
        what = f"message {event.sequence} of kernel {event.kernel_id!r}"
        try:
            data = objects.get(event.digest)
        except NotFoundError as error:
            raise CorruptError(f"{what} has lost its data: {error}") from error
        except CorruptError as error:
            raise CorruptError(f"{what} has damaged data: {error}") from error
        if len(data) != event.size_bytes:
            raise CorruptError(
                f"{what} has {event.size_bytes} bytes of data by the journal, object "
                f"{event.digest} has {len(data)}; restore the journal from a copy"
            )
        return data

    bulk = Bulk(event.size_bytes, load, in_memory=False)
    return Posting(event.sequence, event.message_type, event.payload, bulk=bulk)


def check_readable(messages: Iterable[Posting]) -> None:
    """Read the bytes of journaled messages once; raises ``CorruptError``."""
    for message in messages:
        if message.bulk is not None and not message.bulk.in_memory:
            message.bulk.load()


@final
@attrs.define(eq=False)
class Stager:
    """Brings the bulk of the next messages to the device before they are posted.

    Attributes:
        start: starts a task; any thread may call it.
        failed: told that a message's bytes can't be read any more.
    """

    start: Callable[[Work], None]
    in_thread: InThread
    failed: Callable[[StorageError], None]
    _copying: bool = False

    def ready(
        self, resident: ResidentKernel, messages: Sequence[Posting], then: Callable[[], None]
    ) -> Sequence[Posting]:
        """Return the messages up to the first whose bulk is not on the device yet.

        Its copy is begun if there is room; ``then`` is called once it has ended. Where there is no
        room, it is asked for again after the messages before it.
        """
        for index, message in enumerate(messages):
            if message.bulk is None or resident.bulk.is_filled(message.sequence):
                continue
            if self._copying or not resident.reserve_bulk(message):
                return messages[:index]
            if message.bulk.is_quick:
                resident.bulk.fill(message.sequence, message.bulk)
                continue
            self._copying = True
            self.start(partial(self._copy, resident, message.sequence, message.bulk, then))
            return messages[:index]
        return messages

    async def _copy(
        self, resident: ResidentKernel, sequence: int, bulk: Bulk, then: Callable[[], None]
    ) -> None:
        try:
            await self.in_thread(lambda: resident.bulk.fill(sequence, bulk))
        except StorageError as error:
            self.failed(error)
            return
        finally:
            self._copying = False
        then()
