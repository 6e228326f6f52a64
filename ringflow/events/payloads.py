"""Payloads that the journal holds in another form, or not at all, by a callable of the user's.

- Only the fields that an event type names in ``payload_fields`` change; the line says by which
  codec, so that links, sequences and all other fields can be verified without a key.
- What can't be brought back is a ``LeftOutPayload``: it can be counted and shown, never applied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import attrs

from ringflow.errors import PayloadLeftOutError, UsageError


@final
@attrs.frozen(kw_only=True)
class PayloadCodec:
    """How payloads of messages are kept in the journal; pass it to ``open_engine``.

    Both callables get the kernel's id and bytes, and return bytes. They are called in the event
    loop and in worker threads, for every message: they must be quick, and hold no lock.

    Attributes:
        name: kept beside each payload; tells which codec, or which key, is needed.
        encode: what the journal keeps, e.g. encrypted bytes, a digest, or ``b""``.
        decode: the payload again; None if it is gone for good. What it raises means: not with
            this key.
    """

    name: str = attrs.field()
    encode: Callable[[str, bytes], bytes]
    decode: Callable[[str, bytes], bytes] | None = None

    @name.validator
    def _check(self, _: object, value: str) -> None:
        if not value:
            raise UsageError("a payload codec needs a name; the journal keeps it")

    def stored(self, kernel_id: str, payload: bytes) -> bytes:
        """Return what the journal is to keep; raises ``UsageError`` if ``encode`` fails."""
        try:
            kept = self.encode(kernel_id, payload)
        except Exception as error:
            raise UsageError(
                f"payload codec {self.name!r} can't encode a payload of {kernel_id!r}: {error!r}"
            ) from error
        if type(kept) is not bytes:
            raise UsageError(f"payload codec {self.name!r} must return bytes, got {kept!r}")
        return kept


class LeftOutPayload(bytes):
    """A payload in the form that the journal keeps, which is not the one that was sent.

    Attributes:
        codec: the name of the codec that changed it.
        reason: why it can't be brought back.
    """

    codec: str
    reason: str


def left_out(stored: bytes, codec: str, reason: str) -> LeftOutPayload:
    payload = LeftOutPayload(stored)
    payload.codec, payload.reason = codec, reason
    return payload


def brought_back(codec: PayloadCodec | None, name: str, kernel_id: str, stored: bytes) -> bytes:
    """Return the payload that was sent, or a ``LeftOutPayload``."""
    if codec is None:
        return left_out(stored, name, "no payload codec is given")
    if codec.name != name:
        return left_out(stored, name, f"the codec that is given is {codec.name!r}")
    if codec.decode is None:
        return left_out(stored, name, "that codec has no decode")
    try:
        payload: Any = codec.decode(kernel_id, stored)
    except Exception as error:  # the user's own, of any kind
        return left_out(stored, name, f"it can't be decoded: {error!r}")
    if type(payload) is not bytes:
        return left_out(stored, name, f"decode returned {type(payload).__name__}, not bytes")
    return payload


def check_payload(kernel_id: str, sequence: int, payload: bytes) -> None:
    """Raise ``PayloadLeftOutError`` for a payload that can't be applied again."""
    if isinstance(payload, LeftOutPayload):
        raise PayloadLeftOutError(kernel_id, sequence, payload.codec, payload.reason)
