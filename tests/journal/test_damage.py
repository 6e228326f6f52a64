"""Damage to a journal's bytes: lost tails are cut, anything else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringflow.errors import CorruptJournalError, NotFoundError
from ringflow.journal.api import JournalLimits
from ringflow.journal.reader import find_journal, verify
from ringflow.journal.record import Header, RawRecord, header_line, parse_line
from ringflow.simulate.files import CrashingFiles
from tests.journal.sample import (
    FOLDER,
    JOURNAL,
    opened,
    record_line,
    texts_of,
    texts_on_disk,
    unseal,
    write_durably,
)

pytestmark = pytest.mark.anyio
TEXTS = ["one", "two", "three", "four"]


async def crashed_journal(texts: list[str] = TEXTS) -> tuple[CrashingFiles, Path]:
    """Return a journal whose writer died, and its only segment, without what it had reserved."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write_durably(journal, texts)
        after = files.after_crash()
    (name,) = [name for name in after.names(JOURNAL) if name.endswith(".jsonl")]
    after.poke(JOURNAL / name, after.read(JOURNAL / name).rstrip(b"\0"))
    return after, JOURNAL / name


def line_ends(data: bytes) -> list[int]:
    """Return the offset past each line feed."""
    return [index + 1 for index, byte in enumerate(data) if byte == 10]


def durable_below(data: bytes) -> int:
    """Return the sequence that the last line of ``data`` says was durable."""
    last = parse_line(data.splitlines()[-1])
    assert isinstance(last, RawRecord)
    return last.durable


@pytest.mark.parametrize("reserved_bytes", [0, 700])
async def test_replay_stops_at_a_tail_torn_at_any_byte(reserved_bytes: int) -> None:
    """Cut at every byte: the whole records before the cut are read, the rest is reported."""
    files, segment = await crashed_journal()
    data = files.read(segment)
    ends = line_ends(data)
    for size in range(len(data) + 1):
        whole = max(0, sum(end <= size for end in ends) - 1)
        files.poke(segment, data[:size] + bytes(reserved_bytes))
        assert texts_on_disk(files) == TEXTS[:whole]
        report = verify(FOLDER, files=files)
        assert len(report.torn) == (size not in ends)


@pytest.mark.parametrize("reserved_bytes", [0, 700])
async def test_every_torn_tail_is_backed_up_and_cut(reserved_bytes: int) -> None:
    """After the opening the journal is whole, the cut bytes are beside it, and it goes on."""
    original, segment = await crashed_journal(["one", "two"])
    data = original.read(segment)
    ends = line_ends(data)
    for size in range(0, len(data), 7):
        files = original.after_crash()
        files.poke(segment, data[:size] + bytes(reserved_bytes))
        whole = max(0, sum(end <= size for end in ends) - 1)
        async with opened(files) as journal:
            assert len(journal.report.torn) == (size not in ends)
            for torn in journal.report.torn:
                cut = data[torn.offset_bytes : size]
                assert len(cut) == torn.size_bytes
                assert cut == (files.read(JOURNAL / torn.backup) if torn.backup else b"")
            await write_durably(journal, ["next"])
            assert texts_of(journal) == [*TEXTS[:whole], "next"]
        assert texts_on_disk(files) == [*TEXTS[:whole], "next"]
        report = verify(FOLDER, files=files)
        assert not report.torn
        assert not report.ignored, "the tail was left in the file"


async def test_a_flipped_bit_in_any_byte_is_found() -> None:
    """What a later record's mark covers is refused, the tail above it is cut; none is misread."""
    files, segment = await crashed_journal()
    data = files.read(segment)
    covered = line_ends(data)[durable_below(data)]
    for index in range(len(data)):
        for bit in (0, 3, 5, 7):
            damaged = bytearray(data)
            damaged[index] ^= 1 << bit
            files.poke(segment, bytes(damaged))
            if index < covered:
                with pytest.raises(CorruptJournalError) as caught:
                    verify(FOLDER, files=files)
                assert caught.value.segment == segment.name
                assert caught.value.line == sum(end <= index for end in line_ends(data)) + 1
            else:
                assert verify(FOLDER, files=files).torn
                assert texts_on_disk(files) == TEXTS[:3]


async def test_a_flipped_bit_in_a_closed_journal_is_refused_everywhere() -> None:
    """The closing line covers all records; only damage to that line itself is a torn tail."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write_durably(journal, TEXTS)
    segment = JOURNAL / files.names(JOURNAL)[0]
    data = files.read(segment)
    closing = line_ends(data)[-2]
    for index in range(len(data)):
        damaged = bytearray(data)
        damaged[index] ^= 1
        files.poke(segment, bytes(damaged))
        if index < closing:
            with pytest.raises(CorruptJournalError):
                verify(FOLDER, files=files)
        else:
            assert verify(FOLDER, files=files).last_sequence == 4


async def test_corruption_changes_nothing_on_opening() -> None:
    """A journal that is refused is byte for byte the same afterwards, and names the record."""
    files, segment = await crashed_journal()
    data = bytearray(files.read(segment))
    data[line_ends(bytes(data))[1] + 20] ^= 1
    files.poke(segment, bytes(data))
    before = files.snapshot()
    with pytest.raises(CorruptJournalError) as caught:
        async with opened(files):
            pass
    assert (caught.value.segment, caught.value.line, caught.value.sequence) == (segment.name, 3, 2)
    assert "sequence 2" in str(caught.value)
    assert files.snapshot() == before
    assert not files.locks


async def test_a_lost_or_doubled_line_is_refused() -> None:
    """Lines that are whole by themselves must still follow each other."""
    files, segment = await crashed_journal()
    lines = files.read(segment).splitlines(keepends=True)
    for changed in (
        [*lines[:2], *lines[3:]],
        [*lines[:3], *lines[2:]],
        [lines[0], lines[2], lines[1], *lines[3:]],
        [*lines, lines[0]],
        lines[1:],
    ):
        files.poke(segment, b"".join(changed))
        if changed[-1] == lines[0]:
            assert verify(FOLDER, files=files).torn
            continue
        with pytest.raises(CorruptJournalError):
            verify(FOLDER, files=files)


async def segmented_journal() -> CrashingFiles:
    """Return a closed journal of several segments and two epochs."""
    files = CrashingFiles()
    for epoch in ("a", "b"):
        async with opened(files, limits=JournalLimits(segment_bytes=700)) as journal:
            await write_durably(journal, [f"{epoch}{n}" for n in range(5)])
            assert texts_of(journal)[-5:] == [f"{epoch}{n}" for n in range(5)]
    return files


async def test_segments_roll_over_and_are_one_history() -> None:
    """The bound begins a new segment; reading goes over the borders."""
    files = await segmented_journal()
    report = verify(FOLDER, files=files)
    assert report.segments >= 4
    assert (report.records, report.epoch, report.streams) == (10, 2, 1)
    assert texts_on_disk(files) == [f"{e}{n}" for e in "ab" for n in range(5)]


async def test_damage_in_any_plain_segment_but_the_tail_is_refused() -> None:
    """Every byte of every pinned segment counts, headers too; so does a missing file."""
    files = await segmented_journal()
    unseal(files)
    names = files.names(JOURNAL)[:-1]
    for name in names:
        data = files.read(JOURNAL / name)
        for index in range(0, len(data), 3):
            damaged = bytearray(data)
            damaged[index] ^= 4
            files.poke(JOURNAL / name, bytes(damaged))
            with pytest.raises(CorruptJournalError) as caught:
                verify(FOLDER, files=files)
            assert caught.value.segment == name
            assert caught.value.line == sum(end <= index for end in line_ends(data)) + 1
        files.poke(JOURNAL / name, data[: line_ends(data)[-2]])
        with pytest.raises(CorruptJournalError, match="ends before"):
            verify(FOLDER, files=files)
        files.poke(JOURNAL / name, data)
    files.delete(JOURNAL / names[1])
    with pytest.raises(CorruptJournalError, match="missing"):
        verify(FOLDER, files=files)


async def test_late_bytes_of_a_stalled_writer_are_ignored_and_reported() -> None:
    """A fenced-off writer that wakes up can add bytes and even a segment; none is read."""
    files, segment = await crashed_journal()
    async with opened(files) as journal:
        await write_durably(journal, ["new"])
        late = b'{"at_ns":1}\n' + files.read(segment).splitlines(keepends=True)[1]
        files.poke(segment, files.read(segment) + late)
        stray = JOURNAL / "0000000000000005-00000001.jsonl"
        files.poke(stray, b"late header\n")
        assert texts_of(journal) == [*TEXTS, "new"]
    async with opened(files) as journal:
        assert texts_of(journal) == [*TEXTS, "new"]
        ignored = {one.segment: one.size_bytes for one in journal.report.ignored}
        assert ignored == {segment.name: len(late), stray.name: 12}
        assert not journal.report.torn
        assert journal.epoch == 3


async def test_an_opening_fences_the_writer_before_it_even_without_a_record() -> None:
    """Pin and epoch are durable when the opening returns: a crash right after gives none away."""
    files, segment = await crashed_journal()
    async with opened(files) as journal:
        assert journal.epoch == 2
        files = files.after_crash()
    late = b'{"late":1}\n'
    files.poke(segment, files.read(segment) + late)
    async with opened(files) as journal:
        assert journal.epoch == 3
        assert [one.size_bytes for one in journal.report.ignored] == [len(late)]
        assert not journal.report.torn


@pytest.mark.parametrize("change", ["version", "durable", "time", "epoch", "second header"])
async def test_a_sealed_line_that_breaks_a_rule_is_refused(change: str) -> None:
    """A last line that is whole and linked but says what it must not is no crash's work."""
    files, segment = await crashed_journal(["one", "two"])
    data = files.read(segment)
    last = parse_line(data.splitlines()[-1])
    assert isinstance(last, RawRecord)
    if change == "second header":
        line, _ = header_line(
            Header(
                epoch=1,
                first_sequence=3,
                opened_at_ns=last.at_ns,
                previous=None,
                previous_hash=last.hash,
            )
        )
    else:
        line = record_line(
            sequence=3,
            at_ns=last.at_ns - (change == "time"),
            epoch=1 + (change == "epoch"),
            version=3 + (change == "version"),
            durable=2 + (change == "durable"),
            previous_hash=last.hash,
        )
    files.poke(segment, data + line)
    with pytest.raises(CorruptJournalError) as caught:
        verify(FOLDER, files=files)
    assert (caught.value.line, caught.value.sequence) == (4, 3)


async def test_a_journal_is_found_from_the_folders_around_it() -> None:
    """The journal's folder, the engine's, and one that holds an engine's mean the same journal."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write_durably(journal, ["x"])
        for path in (JOURNAL, FOLDER, Path("/")):
            assert find_journal(path, files) == JOURNAL
            assert texts_on_disk(files, path) == ["x"]
    with pytest.raises(NotFoundError):
        find_journal(Path("/nowhere"), files)
