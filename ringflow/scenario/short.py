"""Events as short lines that are the same in every run of one seed, and nearly so in all others.

- Left out is what depends on a compiler, on a build or on how long something took: digests, times,
  sizes of code. Ids become ``migration-1`` in the order in which they are first seen. Pure.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from typing import Any, Final, final

_ID: Final = re.compile(r"\b([a-z]+)-([0-9a-hjkmnp-tv-z]{16})\b")
_SHORT: Final = re.compile(r"\b[a-z]+-\d+\b")
_BUILT: Final = (  # what another compiler or build would make otherwise
    (re.compile(r"\b[0-9a-f]{40,64}\b"), "DIGEST"),
    (re.compile(r"\b0x[0-9a-f]{6,16}\b"), "0xN"),
    (re.compile(r"PTX line \d+"), "PTX line N"),
)
_HIDDEN: Final = frozenset(
    (
        "type", "kernel_id", "operation_id", "digests", "identity", "tables_digest", "version",
        "history_from", "spec_digest", "code_digest", "code_target", "backup", "cut_bytes",
        "segment",
    )
)  # fmt: skip
_ACCEPTED: Final = "messages.accepted.v1"
_BULK_ACCEPTED: Final = "messages.bulk_accepted.v1"


@final
class Names:
    """Gives ids short names, in the order in which they are first seen."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def shorten(self, text: str) -> str:
        """Return a text with its ids and digests replaced."""
        text = self.named(text)
        for pattern, instead in _BUILT:
            text = pattern.sub(instead, text)
        return text

    def named(self, text: str) -> str:
        """Return a text with its ids alone replaced, which ``whole`` brings back."""
        return _ID.sub(self._name, text)

    def whole(self, text: str) -> str:
        """Return a text with the short names in it replaced by the ids that they stand for."""
        ids = {short: whole for whole, short in self._known.items()}
        return _SHORT.sub(lambda found: ids.get(found[0], found[0]), text)

    def _name(self, found: re.Match[str]) -> str:
        whole, prefix = found[0], found[1]
        if whole not in self._known:
            self._counts[prefix] = self._counts.get(prefix, 0) + 1
            self._known[whole] = f"{prefix}-{self._counts[prefix]}"
        return self._known[whole]


def short(event: Mapping[str, Any], names: Names, *, without: Collection[str] = ()) -> str:
    """Return an event's line: its subject, its name, and the fields that say something."""
    named = (event.get(key) for key in ("operation_id", "kernel_id", "source"))
    subject = next((name for name in named if name), "engine")
    name = re.sub(r"\.v\d+$", "", event["type"])
    if event["type"] == _ACCEPTED:
        said = _accepted(event)
    elif event["type"] == _BULK_ACCEPTED:
        size = len(base64.b64decode(event["payload"]))
        said = (
            f"message {event['sequence']} of type {event['message_type']}, {size}B and an array "
            f"of {event['size_bytes']}B"
        )
    else:
        said = " ".join(
            f"{key}={_value(value)}"
            for key, value in event.items()
            if key not in _HIDDEN
            and key not in without
            and not key.endswith("_ns")
            and (key != "source" or value != subject)
            and value not in ("", None, [], {}, False)
        )
    return names.shorten(f"{subject}  {name}  {said}".rstrip())


def _accepted(event: Mapping[str, Any]) -> str:
    first = int(event["first_sequence"])
    last = first + len(event["types"]) - 1
    span = f"{first}" if first == last else f"{first} to {last}"
    kinds = ",".join(str(one) for one in sorted(set(event["types"])))
    values = {len(base64.b64decode(payload)) for payload in event["payloads"]}
    sizes = ",".join(f"{size}B" for size in sorted(values))
    return f"message {span} of type {kinds}, {sizes}"


def first_line(text: str) -> str:
    """Return a text's first line, which says if more followed."""
    first, _, rest = text.partition("\n")
    return f"{first} ..." if rest.strip() else first


def _value(value: Any) -> str:
    if value is True:
        return "yes"
    if isinstance(value, list):
        return ",".join(str(one) for one in value)
    text = first_line(str(value))
    return f'"{text}"' if " " in text else text
