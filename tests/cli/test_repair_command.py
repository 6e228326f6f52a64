"""``ringflow journal repair`` and ``verify --head``: what a person does with a damaged journal."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import anyio
import orjson
import pytest

from ringflow.cli import main
from ringflow.events.lifecycle import KernelLaunched
from ringflow.journal.opening import open_journal


async def _write(folder: Path) -> None:
    async with open_journal(folder) as journal:
        for number in range(4):
            journal.append("kernel/k", [KernelLaunched(kernel_id="k", device=f"host:{number}")])


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A journal of four records in one segment."""
    anyio.run(_write, tmp_path / "engine")
    return tmp_path / "engine"


def ran(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[object, str, str]:
    """Return exit code, output and errors of one run of the program."""
    code: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ringflow", "journal", *map(str, arguments)])
        try:
            main()
        except SystemExit as error:
            code = error.code
    return (code, *capsys.readouterr())


def damage(engine: Path) -> None:
    (segment,) = (engine / "journal").glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b"host:2", b"host:7"))


def test_repair_says_first_and_does_when_told(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dry run, refusal without a name, then the repair; afterwards the journal is whole."""
    code, out, _ = ran(capsys, "repair", engine)
    assert (code, out) == (0, "no damage: nothing to repair\n")
    damage(engine)
    before = sorted((engine / "journal").iterdir())
    code, out, _ = ran(capsys, "repair", engine)
    assert code == 1
    assert "line 4: the line's hash differs" in out
    assert "records 1 to 2 would be kept" in out
    assert "1 whole records would be cut" in out
    assert "go to checkpoints/repair-00000002/ at the next opening" in out
    assert sorted((engine / "journal").iterdir()) == before
    code, _, err = ran(capsys, "repair", engine, "--apply")
    assert code == 2
    assert "actor" in err
    who = ("--apply", "--actor", "ops", "--reason", "bad disk")
    copy = shutil.copytree(engine, tmp_path / "copy")
    code, out, _ = ran(capsys, "repair", copy, *who)
    assert (code, "records 1 to 2 were kept; " in out) == (0, True)
    code, out, _ = ran(capsys, "repair", engine, *who, "--json")
    assert code == 0
    plan = orjson.loads(out)["plan"]
    assert (engine / "journal" / plan["backup"]).is_dir()
    code, out, _ = ran(capsys, "verify", engine)
    assert code == 0
    code, out, _ = ran(capsys, "show", engine)
    assert "engine.journal_repaired.v1" in out
    assert "reason='bad disk'" in out


def test_a_published_head_is_proven_or_missed(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a hash, as the output of ``head``, as a file of it, also as JSON."""
    _, head, _ = ran(capsys, "head", engine)
    _, as_json, _ = ran(capsys, "head", engine, "--json")
    (tmp_path / "published").write_text(head)
    (tmp_path / "published.json").write_text(as_json)
    given: list[str | Path] = [
        head,
        head.split()[1],
        tmp_path / "published",
        tmp_path / "published.json",
    ]
    for one in given:
        code, out, _ = ran(capsys, "verify", engine, "--head", one)
        assert code == 0
        assert "is at sequence 4" in out
    code, out, _ = ran(capsys, "verify", engine, "--head", given[0], "--json")
    assert orjson.loads(out)["head_sequence"] == 4
    code, _, err = ran(capsys, "verify", engine, "--head", "f" * 64)
    assert code == 1
    assert "rewritten or cut" in err
    code, _, err = ran(capsys, "verify", engine, "--head", "nowhere")
    assert code == 2
    assert "64 hexadecimal digits" in err
