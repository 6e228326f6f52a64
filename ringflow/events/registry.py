"""All event types that a journal may hold, as one explicit tuple.

Each module of events lists its own types in a tuple ``EVENT_TYPES``; they meet here, in order.
"""

from __future__ import annotations

from typing import Final

from ringflow.events import (
    device,
    engine,
    lifecycle,
    messages,
    migration,
    reload,
    routing,
    snapshot,
)
from ringflow.events.codec import Event, EventCodec
from ringflow.events.payloads import PayloadCodec
from ringflow.events.upcasters import UPCASTERS

EVENT_TYPES: Final[tuple[type[Event], ...]] = (
    *device.EVENT_TYPES,
    *engine.EVENT_TYPES,
    *lifecycle.EVENT_TYPES,
    *messages.EVENT_TYPES,
    *migration.EVENT_TYPES,
    *reload.EVENT_TYPES,
    *routing.EVENT_TYPES,
    *snapshot.EVENT_TYPES,
)


def default_codec(payloads: PayloadCodec | None = None) -> EventCodec:
    """Return a codec for all event types and upcasters of this version."""
    return EventCodec(EVENT_TYPES, UPCASTERS, payloads=payloads)
