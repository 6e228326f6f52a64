"""Parts of a live journal's history: exactly what was asked for, verified up to its end."""

from __future__ import annotations

import pytest

from ringflow.errors import CorruptJournalError
from ringflow.journal.api import JournalLimits
from ringflow.journal.writer import JournalWriter
from ringflow.simulate.files import CrashingFiles
from tests.journal.sample import JOURNAL, opened, text_of, write_durably

pytestmark = pytest.mark.anyio
TEXTS = [f"text {number}" for number in range(1, 13)]
LIMITS = JournalLimits(segment_bytes=1200)  # about four records each


def part(journal: JournalWriter, start: int, end: int) -> list[str]:
    return [text_of(record) for record in journal.read(start, end)]


async def test_every_part_of_the_history_can_be_read() -> None:
    """From any record to any later one, over the borders of segments, and from the oldest by 0."""
    async with opened(CrashingFiles(), limits=LIMITS) as journal:
        await write_durably(journal, TEXTS)
        assert len(journal.segments()) >= 3
        for start in range(len(TEXTS) + 2):
            for end in range(len(TEXTS) + 2):
                expected = TEXTS[max(0, start - 1) : end]
                assert part(journal, start, end) == expected, (start, end)


async def test_a_part_of_a_damaged_segment_is_refused_or_right() -> None:
    """Whatever was changed or cut: never a wrong record, and none is missing without an error."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write_durably(journal, TEXTS[:5])
        (name,) = files.names(JOURNAL)
        data = files.read(JOURNAL / name)
        lines = data.rstrip(b"\0").splitlines(keepends=True)
        damaged = [b"", *[b"".join(lines[:count]) for count in range(len(lines))]]
        damaged += [b"".join(lines[:at] + lines[at + 1 :]) for at in range(len(lines))]
        for at in range(0, sum(map(len, lines)), 31):
            damaged.append(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])
        refused = 0
        for content in damaged:
            files.poke(JOURNAL / name, content)
            for start in range(1, 6):
                try:
                    found = part(journal, start, 5)
                except CorruptJournalError:
                    refused += 1
                else:
                    assert found == TEXTS[start - 1 : 5], (start, content[:2000])
        assert refused > len(damaged) * 2
        files.poke(JOURNAL / name, data)


async def test_the_record_before_a_part_must_lead_to_it() -> None:
    """The first record that is read is linked to the line before; only that one is looked at."""
    files = CrashingFiles()
    async with opened(files) as journal:
        await write_durably(journal, TEXTS[:5])
        (name,) = files.names(JOURNAL)
        data = files.read(JOURNAL / name)
        lines = data.rstrip(b"\0").splitlines(keepends=True)
        lines[2] = lines[1]  # whole and well sealed, and not what the third record follows
        files.poke(JOURNAL / name, b"".join(lines))
        with pytest.raises(CorruptJournalError):
            part(journal, 3, 5)
        assert part(journal, 4, 5) == TEXTS[3:5]
        files.poke(JOURNAL / name, data)
