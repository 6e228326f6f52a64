"""Which objects of the content-addressed folder the journal's records name. Pure.

- An object that no retained record names is needed by nobody: a crash came between the object and
  its event, or an archive took the records.
- Events name objects in fields called ``digest`` or ``..._digest``. A field of that name with
  another meaning keeps too much, never too little.
- Whoever deletes must not do so beside a running engine, whose next record may name an object.
"""

from __future__ import annotations

from collections.abc import Iterable

from ringflow.journal.record import RawRecord


def named_objects(records: Iterable[RawRecord]) -> frozenset[str]:
    """Return the digests that records name."""
    return frozenset(
        value
        for record in records
        for event in record.events
        for name, value in event.items()
        if (name == "digest" or name.endswith("_digest")) and isinstance(value, str) and value
    )


def unneeded_objects(records: Iterable[RawRecord], stored: Iterable[str]) -> tuple[str, ...]:
    """Return which of the stored objects no record names, sorted.

    Args:
        records: all that the journal retains.
        stored: digests, as ``ObjectStore.digests`` returns them.
    """
    return tuple(sorted(set(stored) - named_objects(records)))
