"""The hash chain over journal lines.

- A line is canonical JSON (sorted keys) whose last member is ``"hash"``, and a line feed.
- ``hash`` is the SHA-256 of the line's bytes before that member, closed by a brace; ``prev`` inside
  these bytes is the hash of the line before, so every link is covered.
- Checking needs the raw bytes alone: no parser decides what was hashed.
"""

from __future__ import annotations

import hashlib
from typing import Final

from ringflow.errors import CorruptError

GENESIS: Final = "0" * 64  # ``prev`` of a journal's first line
_MARK: Final = b',"hash":"'
_TAIL_BYTES: Final = 64 + len(b'"}')


def seal(body: bytes) -> tuple[bytes, str]:
    """Return the whole line for ``body``, a JSON object of at least one member, and its hash."""
    assert body[-1:] == b"}"
    digest = hashlib.sha256(body).hexdigest()
    return b"".join((body[:-1], _MARK, digest.encode(), b'"}\n')), digest


def unseal(line: bytes) -> tuple[bytes, str]:
    """Return body and hash of a ``line`` without its line feed.

    Raises:
        CorruptError: the line has no hash, or its hash is not that of its bytes.
    """
    head, _, tail = line.rpartition(_MARK)
    if not head or len(tail) != _TAIL_BYTES or tail[-2:] != b'"}':
        raise CorruptError("the line does not end with its hash")
    body = head + b"}"
    digest = hashlib.sha256(body).hexdigest()
    if tail[:64] != digest.encode():
        raise CorruptError("the line's hash differs from its bytes")
    return body, digest
