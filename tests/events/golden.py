"""Golden events: one file for each version of each event type, kept forever.

``python -m tests.events.golden`` adds the files of types that have none. A file of a released
version is never changed: a new shape is a new wire name and an upcaster.
"""

from __future__ import annotations

from pathlib import Path

from ringflow.events.codec import Event
from ringflow.events.registry import EVENT_TYPES, default_codec
from ringflow.events.values import canonical_json
from tests.events.test_registry import filled

FOLDER = Path(__file__).parents[1] / "golden" / "events"


def path_of(wire_name: str) -> Path:
    return FOLDER / f"{wire_name}.json"


def golden_event(kind: type[Event]) -> bytes:
    """Return the canonical JSON of a sample of ``kind``."""
    event: Event = filled(kind)
    return canonical_json(default_codec().to_plain(event)) + b"\n"


def main() -> None:
    """Write the files that are missing."""
    FOLDER.mkdir(exist_ok=True)
    for kind in EVENT_TYPES:
        if not path_of(kind.wire_name).exists():
            path_of(kind.wire_name).write_bytes(golden_event(kind))
            print(f"added {path_of(kind.wire_name).name}")


if __name__ == "__main__":
    main()
