"""The documented format: read without ringflow, every byte of it verified."""

from __future__ import annotations

import io
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import anyio
import orjson
import pytest
import zstandard

from ringflow.journal.api import JournalLimits
from ringflow.journal.opening import open_journal
from ringflow.journal.reader import verify
from ringflow.journal.record import FORMAT
from ringflow.simulate.files import CrashingFiles
from tests.journal.sample import JOURNAL, TYPES, write_durably
from tests.journal.test_archive import archived, written

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = DOCS / "verify_journal.py"


async def write(folder: Path) -> None:
    for epoch in "ab":
        limits = JournalLimits(segment_bytes=900)
        async with open_journal(folder, types=TYPES, limits=limits) as writer:
            await write_durably(writer, [f"{epoch}{number}" for number in range(5)])


@pytest.fixture
def journal(folder: Path) -> Path:
    """The own folder of a closed journal with sealed and plain segments of two epochs."""
    anyio.run(write, folder)
    names = sorted(path.suffix for path in (folder / "journal").iterdir())
    assert names.count(".zst") >= 2
    assert names.count(".jsonl") >= 2
    return folder / "journal"


def verified(folder: Path) -> str:
    """Run the script as a program would see it; return what it prints, "" if it fails."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", [str(SCRIPT), str(folder)])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as error:
            return "" if error.code else printed.getvalue()
        except (ValueError, KeyError, TypeError, FileNotFoundError, zstandard.ZstdError):
            return ""
    return printed.getvalue()


def test_the_independent_script_is_short_and_agrees(journal: Path) -> None:
    """At most 30 lines, nothing of ringflow, the same head as ``ringflow journal head``."""
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 30
    imported = {
        line.split()[1] for line in text.splitlines() if line.startswith(("import", "from"))
    }
    assert imported == {"hashlib", "json", "sys", "pathlib", "zstandard"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(journal)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"10 {verify(journal).head}\n" == verified(journal)


def test_the_script_goes_on_from_what_was_archived(tmp_path: Path) -> None:
    """The base record says where the chain begins; its own segment is pinned no longer."""
    files = CrashingFiles()
    anyio.run(archived_history, files)
    for path, content in files.snapshot().items():
        if path.parent == JOURNAL:
            (tmp_path / path.name).write_bytes(content)
    (base,) = tmp_path.glob("base-*.json")
    report = verify(tmp_path)
    assert verified(tmp_path) == f"{report.last_sequence} {report.head}\n"
    plain = orjson.loads(base.read_bytes())
    plain["place"]["hash"] = "0" * 64
    base.write_bytes(orjson.dumps(plain))
    assert verified(tmp_path) == ""


async def archived_history(files: CrashingFiles) -> None:
    await written(files)
    await archived(files)


def text_of(path: Path) -> bytes:
    """Return the text that a segment's file holds, b"" if it can't be unpacked."""
    data = path.read_bytes()
    if path.suffix != ".zst":
        return data
    try:
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError:
        return b""


def test_the_independent_script_is_red_on_each_flipped_byte(journal: Path) -> None:
    """Each byte of every line, header and line feed, in plain and sealed segments; a lost file.

    Of a sealed file its text counts: some bits of a frame may differ and unpack to the same.
    """
    good = verified(journal)
    count = same = 0
    for path in sorted(journal.iterdir()):
        data, text = path.read_bytes(), text_of(path)
        for index in range(len(data)):
            damaged = bytearray(data)
            damaged[index] ^= 1
            path.write_bytes(damaged)
            if path.suffix == ".zst" and text_of(path) == text:
                same += 1
                continue
            assert not verified(journal), f"byte {index} of {path.name}"
            count += 1
        path.unlink()
        assert verified(journal) != good, f"without {path.name}"
        path.write_bytes(data)
    assert verified(journal) == good
    assert count > 2000
    assert same < 20


def test_every_line_is_as_the_page_says(journal: Path) -> None:
    """Canonical JSON, its hash the last 75 bytes; the page names every key and the format."""
    page = (DOCS / "journal-format.md").read_text(encoding="utf-8")
    assert f'`"{FORMAT}"`' in page
    keys: set[str] = set()
    for path in sorted(journal.iterdir()):
        data = path.read_bytes()
        if path.suffix == ".zst":
            frame = zstandard.get_frame_parameters(data)
            assert frame.has_checksum
            data = zstandard.ZstdDecompressor().decompress(data)
            assert frame.content_size == len(data)
        for line in data.splitlines():
            plain = orjson.loads(line)
            assert line[-75:] == f',"hash":"{plain.pop("hash")}"}}'.encode()
            assert line[:-75] + b"}" == orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)
            keys |= plain.keys()
    assert len(keys) >= 12
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []
