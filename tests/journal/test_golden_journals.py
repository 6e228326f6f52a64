"""Journals of every format version are read, or refused, as on the day they were written."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import orjson
import pytest

from ringflow.errors import CorruptError
from ringflow.events.registry import EVENT_TYPES
from ringflow.journal.reader import read_records, verify
from ringflow.simulate.files import CrashingFiles
from tests.journal.golden import CASES, ENGINE, FOLDER, closed, segments, verdict

GOLDEN = sorted(path.parent for path in FOLDER.parent.glob("ringflow-journal-*/*/verdict.json"))


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_golden_journal_has_its_verdict_for_ever(folder: Path, tmp_path: Path) -> None:
    """Counts, head and tails of the good ones; error and its whole message of the bad ones."""
    copy = tmp_path / "journal"
    shutil.copytree(folder, copy)
    expected = orjson.loads((folder / "verdict.json").read_bytes())
    assert verdict(copy) == expected
    assert sorted(path.name for path in copy.iterdir()) == sorted(
        path.name for path in folder.iterdir()
    ), "reading changed the folder"


def test_every_kind_of_golden_journal_is_there() -> None:
    """Good ones, torn ones, and each kind of damage; all event types of the time in one."""
    assert {case.__name__ for case in CASES} <= {folder.name for folder in GOLDEN}
    errors = Counter(
        orjson.loads((folder / "verdict.json").read_bytes()).get("error") for folder in GOLDEN
    )
    assert errors[None] >= 4
    assert errors["CorruptJournalError"] >= 5
    assert errors["UnknownEventError"] >= 1
    assert errors["EventFormatError"] >= 2
    held = {event["type"] for record in read_records(FOLDER / "closed") for event in record.events}
    assert len(held) >= 60


def all_events() -> tuple[CrashingFiles, list[str]]:
    """Return a journal with all event types, and its records in canonical form."""
    files = closed(parts=4)
    records = list(read_records(ENGINE, files=files))
    assert {event["type"] for one in records for event in one.events} == {
        kind.wire_name for kind in EVENT_TYPES
    }
    return files, [repr(record) for record in records]


def prefix_or_error(files: CrashingFiles, good: list[str]) -> bool:
    """Return whether it is read; what is read must be a prefix of ``good``."""
    found: list[str] = []
    try:
        for record in read_records(ENGINE, files=files):
            found.append(repr(record))  # noqa: PERF401  # those before the error count too
    except CorruptError:
        return False
    finally:
        assert found == good[: len(found)], "a wrong read"
    return True


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_no_flipped_bit_in_a_journal_of_all_event_types_is_misread(bits: int) -> None:
    """Any byte, plain or sealed: an error, or a prefix whose lost rest was never covered."""
    files, good = all_events()
    count = 0
    for path in segments(files):
        data = files.read(path)
        for index in range(len(data)):
            for bit in range(bits):
                damaged = bytearray(data)
                damaged[index] ^= 1 << (bit + index) % 8
                files.poke(path, bytes(damaged))
                prefix_or_error(files, good)
                count += 1
        files.poke(path, data)
    assert prefix_or_error(files, good)
    assert count > 5000


def test_no_cut_in_a_journal_of_all_event_types_is_misread() -> None:
    """The newest segment cut at any byte keeps its prefix; any other one is refused."""
    files, good = all_events()
    whole = verify(ENGINE, files=files)
    *older, newest = segments(files)
    for path in (*older, newest):
        data = files.read(path)
        for size in range(len(data)):
            files.poke(path, data[:size])
            read = prefix_or_error(files, good)
            sealed_end = path.suffix == ".zst" and size >= len(data) - 4  # only the checksum
            assert read or path != newest
            assert not read or path == newest or sealed_end
        files.poke(path, data)
    assert verify(ENGINE, files=files) == whole
