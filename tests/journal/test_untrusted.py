"""A journal from anybody: sealed lines of any content are read or refused, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringflow.engine.folding import Fold
from ringflow.errors import StorageError, UsageError
from ringflow.events.chain import GENESIS, seal
from ringflow.events.registry import default_codec
from ringflow.journal.reader import read_records, verify
from ringflow.journal.record import FORMAT
from ringflow.journal.repair import plan_repair
from ringflow.simulate.files import CrashingFiles
from tests.journal.sample import FOLDER, JOURNAL

SEGMENT = JOURNAL / "0000000000000001-00000001.jsonl"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**54) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
CODEC = default_codec()
EVENT: dict[str, Any] = {"device": "d", "kernel_id": "k", "type": "kernel.launched.v1"}
HEADER: dict[str, Any] = {
    "epoch": 1,
    "first": 1,
    "format": FORMAT,
    "opened_at_ns": 1,
    "prev": GENESIS,
    "previous": None,
}


def journal_of(*plain: dict[str, Any]) -> CrashingFiles:
    """Return a journal of these lines, each sealed, linked where it says no ``prev`` of its own."""
    files = CrashingFiles()
    files.make_folder(JOURNAL)
    lines, head = [], GENESIS
    for one in plain:
        line, head = seal(orjson.dumps({"prev": head, **one}, option=orjson.OPT_SORT_KEYS))
        lines.append(line)
    files.poke(SEGMENT, b"".join(lines))
    return files


def record(**changes: Any) -> dict[str, Any]:
    plain = {"at_ns": 1, "durable": 0, "epoch": 1, "events": [EVENT], "seq": 1, "stream": "s"}
    return {**plain, "version": 1, **changes}


def read_all(files: CrashingFiles) -> None:
    """Read, decode, fold and verify; plan a repair. Raises what reading raises."""
    for one in read_records(FOLDER, files=files):
        one.decoded(CODEC)
    fold = Fold(CODEC)
    for one in read_records(FOLDER, files=files):
        fold.take(one)
    verify(FOLDER, files=files)


def check(files: CrashingFiles) -> None:
    """Raise unless all that happens is what errors of this library are for."""
    with suppress(StorageError, UsageError):
        read_all(files)
    with suppress(StorageError):
        plan_repair(FOLDER, files=files)


@settings(max_examples=300)
@given(member=st.sampled_from(sorted(record())), value=JSON)
def test_any_value_of_any_member_of_a_record(member: str, value: Any) -> None:
    """Hashes and links are right; one member is what it should never be."""
    check(journal_of(HEADER, record(**{member: value})))


@settings(max_examples=300)
@given(member=st.sampled_from(sorted(HEADER)), value=JSON)
def test_any_value_of_any_member_of_a_header(member: str, value: Any) -> None:
    """Pins of any form included."""
    check(journal_of({**HEADER, member: value}, record()))


@settings(max_examples=300)
@given(event=st.dictionaries(st.sampled_from(["type", "kernel_id", "device", "codec"]), JSON))
def test_any_event(event: dict[str, Any]) -> None:
    """Types, fields and payload codecs of any form."""
    check(journal_of(HEADER, record(events=[{**EVENT, **event}, event])))


@settings(max_examples=200)
@given(name=st.text(max_size=40), size=st.integers(-3, 2**63), digest=st.text(max_size=70))
def test_any_pin(name: str, size: int, digest: str) -> None:
    """A pin leads to a file in the folder or to nothing; never out of it, never in a circle."""
    for one in (name, SEGMENT.name, "../../etc/passwd", "0000000000000000-00000001.jsonl"):
        pin = {"hash": digest, "name": one, "size_bytes": size}
        files = journal_of({**HEADER, "previous": pin}, record())
        with pytest.raises(StorageError):
            verify(FOLDER, files=files)
        check(files)


def test_lines_that_nest_deeply_or_are_long() -> None:
    """No recursion and no copy that grows: refused or read within the segment's size."""
    deep = b'{"events":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for line in (deep, b'{"a":"' + b"x" * 10_000_000 + b'"}', b"{" * 1_000_000, b"\n" * 100_000):
        files = journal_of(HEADER, record())
        files.poke(SEGMENT, files.read(SEGMENT) + seal(line)[0] if line[-1:] == b"}" else line)
        check(files)
