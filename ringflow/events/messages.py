"""Events of a kernel's messages and outputs (stream ``messages/<id>``)."""

from __future__ import annotations

from typing import ClassVar, Final

from ringflow.events.base import event


@event
class MessagesAccepted:
    """Messages were numbered from ``first_sequence`` on, without a gap.

    Attributes:
        types, payloads, producers, numbers: one entry a message; a producer is empty and its
            number 0 where the sender does not number its messages.
    """

    wire_name: ClassVar[str] = "messages.accepted.v1"
    payload_fields: ClassVar[tuple[str, ...]] = ("payloads",)
    kernel_id: str
    first_sequence: int
    types: tuple[int, ...]
    payloads: tuple[bytes, ...]
    producers: tuple[str, ...]
    numbers: tuple[int, ...]


@event
class BulkMessageAccepted:
    """A message was numbered whose array, or large payload, is an object of the engine's folder.

    Attributes:
        payload: what lies beside it in the message's slot.
        digest: SHA-256 (hex) of the bytes, and the object's name; empty where nothing is journaled.
        size_bytes: of the object.
        producer, number: as in ``MessagesAccepted``.
    """

    wire_name: ClassVar[str] = "messages.bulk_accepted.v1"
    payload_fields: ClassVar[tuple[str, ...]] = ("payload",)
    kernel_id: str
    sequence: int
    message_type: int
    payload: bytes
    digest: str
    size_bytes: int
    producer: str
    number: int


@event
class MessagesLost:
    """A crash, a restore or a close lost messages from ``first_sequence`` on.

    Attributes:
        last_sequence: the last one that was lost, 0 where nobody knows.
    """

    wire_name: ClassVar[str] = "messages.lost.v1"
    kernel_id: str
    first_sequence: int
    last_sequence: int
    reason: str


@event
class MessagesSkipped:
    """A person decided that these accepted messages are never applied, by no replay either."""

    wire_name: ClassVar[str] = "messages.skipped.v1"
    kernel_id: str
    first_sequence: int
    last_sequence: int
    actor: str
    reason: str


@event
class ConsumerRegistered:
    """A named consumer gets every output after (``after_sequence``, ``after_index``)."""

    wire_name: ClassVar[str] = "consumer.registered.v1"
    kernel_id: str
    consumer: str
    after_sequence: int
    after_index: int


@event
class OutputsAcknowledged:
    """A named consumer has dealt with every output up to (``sequence``, ``index``)."""

    wire_name: ClassVar[str] = "consumer.acknowledged.v1"
    kernel_id: str
    consumer: str
    sequence: int
    index: int


@event
class ConsumerForgotten:
    """A named consumer will not come back; nothing is kept for it any more."""

    wire_name: ClassVar[str] = "consumer.forgotten.v1"
    kernel_id: str
    consumer: str


EVENT_TYPES: Final = (
    MessagesAccepted,
    BulkMessageAccepted,
    MessagesLost,
    MessagesSkipped,
    ConsumerRegistered,
    OutputsAcknowledged,
    ConsumerForgotten,
)
