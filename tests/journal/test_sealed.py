"""Sealed segments: the same text, smaller; crashes and bad disks leave one good copy at least."""

from __future__ import annotations

import errno
import io

import pytest
import zstandard

from ringflow.errors import CorruptError, CorruptJournalError, OutcomeUnknownError
from ringflow.journal.api import JournalLimits
from ringflow.journal.reader import verify
from ringflow.journal.scan import Scan
from ringflow.journal.segments import Segment
from ringflow.journal.store import SEGMENT_BYTES_MAX, SegmentStore
from ringflow.simulate.files import CrashError, CrashingFiles, Loss
from tests.journal.sample import (
    FOLDER,
    JOURNAL,
    note,
    opened,
    texts_of,
    texts_on_disk,
    unseal,
    write_durably,
)

pytestmark = pytest.mark.anyio
LIMITS = JournalLimits(segment_bytes=700, batch_bytes=1)
TEXTS = [str(number) for number in range(10)]


async def written() -> CrashingFiles:
    """Return a closed journal of several segments, of which the newest is plain."""
    files = CrashingFiles()
    async with opened(files, limits=LIMITS) as journal:
        await write_durably(journal, TEXTS)
        assert texts_of(journal) == TEXTS
    return files


async def unsealed() -> tuple[CrashingFiles, Segment]:
    """Return the same journal in plain files, and its first segment."""
    files = await written()
    unseal(files)
    return files, Scan(files, JOURNAL).finish().segments[0]


async def test_a_finished_segment_is_sealed_and_reads_the_same() -> None:
    """All but the newest become ``.zst``; readers, verify and the next opening don't notice."""
    files = await written()
    names = files.names(JOURNAL)
    assert len(names) >= 4
    assert [name.endswith(".jsonl.zst") for name in names] == [True] * (len(names) - 1) + [False]
    sealed_report = verify(FOLDER, files=files)
    assert texts_on_disk(files) == TEXTS
    unseal(files)
    assert verify(FOLDER, files=files) == sealed_report
    async with opened(files, limits=LIMITS) as journal:
        assert texts_of(journal) == TEXTS
        await write_durably(journal, ["next"])
    assert sum(name.endswith(".zst") for name in files.names(JOURNAL)) == len(names) - 1
    assert texts_on_disk(files) == [*TEXTS, "next"]


@pytest.mark.parametrize("loss", list(Loss))
async def test_a_crash_at_any_step_of_sealing_leaves_a_good_copy(loss: Loss) -> None:
    """After each step, with each loss, the whole history is there; sealing again ends it."""
    original, segment = await unsealed()
    files = original.after_crash()
    assert SegmentStore(files, JOURNAL).seal(segment)
    steps = len(files.steps)
    assert steps >= 5
    for step in range(steps):
        files = original.after_crash()
        files.crash_before_step(step)
        with pytest.raises(CrashError):
            SegmentStore(files, JOURNAL).seal(segment)
        files = files.after_crash(loss)
        assert texts_on_disk(files) == TEXTS
        SegmentStore(files, JOURNAL).seal(segment)
        assert str(segment.name) not in files.names(JOURNAL)
        assert texts_on_disk(files) == TEXTS


@pytest.mark.parametrize("call", ["create", "write", "datasync", "rename", "fsync_folder"])
async def test_a_full_disk_leaves_the_segment_plain_and_a_broken_one_ends_the_journal(
    call: str,
) -> None:
    """Sealing is no duty: without room the journal goes on. Any other error closes it for good."""
    original, segment = await unsealed()
    for code in (errno.ENOSPC, errno.EIO):
        files = original.after_crash()
        files.fail(call, at=1, error=OSError(code, "no"))
        with pytest.raises(OSError, match="no"):
            SegmentStore(files, JOURNAL).seal(segment)
        assert files.exists(JOURNAL / str(segment.name))
        assert texts_on_disk(files) == TEXTS
        SegmentStore(files, JOURNAL).seal(segment)
        assert texts_on_disk(files) == TEXTS


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_the_writer_outlives_a_full_disk_while_it_seals_but_no_broken_one(code: int) -> None:
    """The writer's own thread seals; what it finds broken ends it, a full disk does not."""
    files = CrashingFiles()
    async with opened(files, limits=LIMITS) as journal:
        files.fail("rename", at=1, error=OSError(code, "no"))
        texts = [str(number) for number in range(60)]  # more segments than wait for a quiet moment
        appends = [journal.append("s", note(text)) for text in texts]
        if code == errno.EIO:
            await journal.failed.wait()
            with pytest.raises(OutcomeUnknownError, match="no"):
                await journal.until_durable(appends[-1])
        else:
            await journal.until_durable(appends[-1])
    async with opened(files, limits=LIMITS) as journal:
        found = texts_of(journal)
        assert found == texts[: len(found)]
        assert code == errno.EIO or found == texts
    assert sum(name.endswith(".jsonl") for name in files.names(JOURNAL)) <= 2


async def test_a_segment_with_late_bytes_stays_as_it_is() -> None:
    """What a fenced-off writer added is evidence: it stays, is reported, and is never read."""
    files, segment = await unsealed()
    plain = JOURNAL / str(segment.name)
    files.poke(plain, files.read(plain) + b"late\n")
    assert not SegmentStore(files, JOURNAL).seal(segment)
    async with opened(files, limits=LIMITS) as journal:
        assert [one.size_bytes for one in journal.report.ignored] == [5]
        assert texts_of(journal) == TEXTS
    assert files.read(plain).endswith(b"late\n")
    assert texts_on_disk(files) == TEXTS


async def test_a_plain_file_that_lost_bytes_is_not_sealed() -> None:
    """Its sealed copy would hide the damage."""
    files, segment = await unsealed()
    plain = JOURNAL / str(segment.name)
    files.poke(plain, files.read(plain)[:-1])
    with pytest.raises(CorruptError, match="not what was written"):
        SegmentStore(files, JOURNAL).seal(segment)
    assert files.exists(plain)


def damage_in(files: CrashingFiles) -> str:
    """Return the segment that is refused, "" if all is read as it was written."""
    try:
        assert texts_on_disk(files) == TEXTS
    except CorruptJournalError as error:
        return error.segment
    return ""


async def test_every_byte_of_a_sealed_segment_counts() -> None:
    """A flipped bit is an error that names the segment, or changes nothing; never a wrong read."""
    files = await written()
    names = [name for name in files.names(JOURNAL) if name.endswith(".zst")]
    refused = same = 0
    for name in names:
        packed = files.read(JOURNAL / name)
        for index in range(len(packed)):
            for bit in range(0, 8, 3):
                damaged = bytearray(packed)
                damaged[index] ^= 1 << bit
                files.poke(JOURNAL / name, bytes(damaged))
                where = damage_in(files)
                assert where in ("", name.removesuffix(".zst"))
                refused, same = refused + bool(where), same + (not where)
        for size in range(len(packed) - 4):
            files.poke(JOURNAL / name, packed[:size])
            with pytest.raises(CorruptJournalError):
                verify(FOLDER, files=files)
        files.poke(JOURNAL / name, packed)
    assert refused > 100 * same


@pytest.mark.parametrize("honest", [True, False])
async def test_a_bomb_is_not_unpacked(honest: bool) -> None:
    """A small file that unpacks to gigabytes is refused early, whatever its frame claims."""
    files, segment = await unsealed()
    files.erase(JOURNAL / str(segment.name))
    packer = zstandard.ZstdCompressor(level=1, write_content_size=honest)
    packed = io.BytesIO()
    size = 2 * SEGMENT_BYTES_MAX if honest else -1
    with packer.stream_writer(packed, size=size, closefd=False) as stream:
        for _ in range(2 * SEGMENT_BYTES_MAX // 2**20):
            stream.write(bytes(2**20))
    files.poke(SegmentStore(files, JOURNAL).sealed_path(segment.name), packed.getvalue())
    assert len(packed.getvalue()) < 2**17
    text = SegmentStore(files, JOURNAL).text(segment.name, limit_bytes=1000)
    assert len(text.data) == 1000
    with pytest.raises(CorruptJournalError):
        verify(FOLDER, files=files)
