"""Idempotency keys: a request that is repeated under its key gets the first one's operation.

- The journal keeps each key with a digest of what was asked for (not by whom, nor why), so that
  a client which never heard an answer, or outlived the engine, can ask again safely.
- The same key with another body is a conflict, and nothing is started.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final, TypeVar

import attrs

from ringflow.engine.core import Core
from ringflow.engine.operations import Operation
from ringflow.errors import IdempotencyConflictError, UsageError
from ringflow.events.values import canonical_json

R = TypeVar("R")
KEY_CHARACTERS_MAX: Final = 256
NO_KEY: Final = ""


@attrs.frozen
class Asked:
    """A request's key, empty if it has none, and the SHA-256 (hex) of its body, then empty too."""

    key: str
    body_digest: str


def asked(key: str | None, **body: Any) -> Asked:
    """Return a request's key with the digest of ``body``, plain JSON values."""
    if key is None:
        return Asked(NO_KEY, "")
    if not 0 < len(key) <= KEY_CHARACTERS_MAX:
        raise UsageError(f"a key has 1 to {KEY_CHARACTERS_MAX} characters, got {len(key)}")
    return Asked(key, hashlib.sha256(canonical_json(body)).hexdigest())


def first_of(core: Core, given: Asked, result: Callable[[Operation[R]], R]) -> Operation[R] | None:
    """Return the operation that was started under this key, None if there is none.

    Raises:
        IdempotencyConflictError: it was started for another body.
    """
    known = core.state.keys.get(given.key) if given.key else None
    if known is None:
        return None
    operation_id, body_digest = known
    if body_digest != given.body_digest:
        raise IdempotencyConflictError(given.key, operation_id)
    running = core.running.get(operation_id)
    if isinstance(running, Operation):
        return running
    ended = Operation(core, operation_id, result)
    ended.end()
    return ended
