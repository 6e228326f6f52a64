"""Events as every version wrote them: read for ever, and the current ones written the same."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from ringflow.errors import EventFormatError, UnknownEventError
from ringflow.events.codec import Event
from ringflow.events.registry import EVENT_TYPES, default_codec
from tests.events.golden import FOLDER, golden_event, path_of

CODEC = default_codec()
GOLDEN = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.wire_name)
def test_every_event_type_is_written_as_its_golden_file(kind: type[Event]) -> None:
    """One file a type; a released shape never changes."""
    path = path_of(kind.wire_name)
    assert path.exists(), "run `python -m tests.events.golden` and commit the file"
    assert path.read_bytes() == golden_event(kind)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_every_golden_event_is_read(path: Path) -> None:
    """Also of versions that nobody writes any more: upcasters lead to a type of today."""
    plain = orjson.loads(path.read_bytes())
    assert plain["type"] == path.stem
    assert type(CODEC.from_plain(plain)) in EVENT_TYPES


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_event_with_another_name_or_field_is_refused(path: Path) -> None:
    """Nothing unknown is skipped: neither a type, nor a field, nor a value of another type."""
    plain = orjson.loads(path.read_bytes())
    with pytest.raises(UnknownEventError, match="v99"):
        CODEC.from_plain({**plain, "type": path.stem.rsplit(".", 1)[0] + ".v99"})
    with pytest.raises(EventFormatError):
        CODEC.from_plain({**plain, "added_later": 1})
    for name in plain.keys() - {"type"}:
        with pytest.raises(EventFormatError):
            CODEC.from_plain({**plain, name: None})


def test_every_request_says_who_and_why() -> None:
    """An auditor's first two questions; a repair is a request as well."""
    names = [kind.wire_name for kind in EVENT_TYPES]
    requests = [name for name in names if "requested" in name or "repaired" in name]
    assert len(requests) >= 6
    for name in requests:
        plain = orjson.loads(path_of(name).read_bytes())
        assert {"actor", "reason"} <= plain.keys(), name
