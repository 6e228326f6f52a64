"""The scenarios as the machines' specification: every row of every table happens in one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from ringflow.errors import CorruptJournalError
from ringflow.events.codec import Event
from ringflow.events.registry import default_codec
from ringflow.journal.reader import read_records
from ringflow.scenario.running import run_file
from tests.scenario.visits import Row, rows, visited

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").rglob("*.txt"))


def journaled(contents: Mapping[str, bytes], folder: Path) -> Iterator[Event]:
    """Yield the events of a world's journal, as far as it is whole."""
    for place, content in contents.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    codec = default_codec()
    with contextlib.suppress(CorruptJournalError):
        for record in read_records(folder):
            yield from record.decoded(codec).events


def test_every_row_of_every_machine_is_visited(tmp_path: Path) -> None:
    """Judged by the journals: a row that can't happen has no place in a table."""
    assert len(SCENARIOS) >= 40
    seen: set[Row] = set()
    for number, path in enumerate(SCENARIOS, 1):
        seen |= visited(journaled(run_file(path).contents, tmp_path / str(number)))
        if seen == rows():  # the others are run as tests of their own
            break
    print(f"{len(seen)} of {len(rows())} rows are visited by {number} scenarios")
    assert rows() - seen == set()
