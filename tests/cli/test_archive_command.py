"""``ringflow journal archive`` and the choices of ``show``: what a person sees of them."""

from __future__ import annotations

from pathlib import Path

import anyio
import orjson
import pytest

from ringflow.clock import ManualClock
from ringflow.journal.opening import open_journal
from tests.cli.test_repair_command import ran
from tests.journal import history


async def _write(folder: Path) -> None:
    clock = ManualClock()
    async with open_journal(folder, clock=clock, limits=history.LIMITS) as journal:
        await history.write(journal, history.launched("k"))
        clock.advance(3600.0)
        await history.write(journal, history.messages("k", 1, 20))
        await history.write(journal, [("kernel/k", [history.retired("k", 1)])])
        await history.write(journal, [("kernel/k", [history.point("k", 15)])])


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A journal of 24 records in several segments."""
    anyio.run(_write, tmp_path / "engine")
    return tmp_path / "engine"


def test_it_says_first_and_does_it_then(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dry run changes nothing; the archive is a journal that the commands read."""
    before = sorted(path.name for path in (engine / "journal").iterdir())
    code, out, _ = ran(capsys, "archive", engine)
    assert code == 0
    assert "would go" in out
    assert "kept from 17 on: kernel 'k', recovery point 'k-15', replays it" in out
    assert sorted(path.name for path in (engine / "journal").iterdir()) == before
    code, out, err = ran(capsys, "archive", engine, "--apply")
    assert code == 2
    assert "delete" in err
    target = tmp_path / "archive"
    code, out, _ = ran(
        capsys, "archive", engine, "--apply", "--to", target, "--actor", "ops", "--json"
    )
    done = orjson.loads(out)
    last = done["plan"]["last_sequence"]
    assert (code, done["applied"]) == (0, True)
    assert 0 < last < 17
    assert ran(capsys, "verify", engine)[0] == 0
    assert ran(capsys, "verify", target)[1].startswith(f"whole: {last} records")
    code, _, err = ran(capsys, "show", engine, "--from", "1")
    assert code == 1
    assert f"sequence 1 was archived, the journal begins with {last + 1}" in err


@pytest.mark.parametrize(
    ("choice", "sequences"),
    [
        (["--type", "kernel.recovery_point.v1"], [2, 24]),
        (["--type", "kernel.launched.v1", "--type", "checkpoint.retired.v1"], [2, 23]),
        (["--stream", "kernel/*", "--from", "2", "--to", "23"], [2, 23]),
        (["--until", "1970-01-01T00:00:01"], []),
        (["--since", "1970-01-01T00:00:01", "--to", "2"], [1, 2]),
    ],
)
def test_show_takes_choices(
    engine: Path,
    choice: list[str],
    sequences: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By type, stream, sequence and time."""
    code, out, _ = ran(capsys, "show", engine, "--json", *choice)
    assert code == 0
    assert [orjson.loads(line)["seq"] for line in out.splitlines()] == sequences
