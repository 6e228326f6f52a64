"""What the program says where the place, the machine or the user's words don't let it go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

import ringflow
from ringflow.version import __version__
from tests.cli.program import program
from tests.engine.kernels import adder
from tests.engine.story import send_all

SCENARIOS = Path(__file__).parent.parent.parent / "scenarios" / "migration"


async def _work(folder: Path) -> None:
    async with ringflow.open_engine(folder) as engine:
        await send_all(await engine.launch(adder()), range(3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine's folder."""
    path = tmp_path_factory.mktemp("refusals") / "engine"
    anyio.run(_work, path)
    return path


def _one_line(said: str) -> str:
    assert said.startswith("ringflow: ")
    assert len(said.splitlines()) == 1
    return said


def test_an_export_to_no_place_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and no file; a folder is wrong use."""
    output = tmp_path / "nowhere" / "x.json"
    code, _, said = program(capsys, "journal", "export", folder, "-o", output)
    assert (code, "could not write" in _one_line(said)) == (1, True)
    code, _, said = program(capsys, "journal", "export", folder, "-o", tmp_path)
    assert (code, "is a folder" in _one_line(said)) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_the_earlier_one_and_nothing_else(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The journal is damaged at its end: nothing of it is exported."""
    output = tmp_path / "x.json"
    assert program(capsys, "journal", "export", folder, "-o", output)[0] == 0
    good = output.read_bytes()
    assert good.count(b"\n") > 3
    damaged = tmp_path / "damaged"
    (damaged / "journal").mkdir(parents=True)
    for path in (folder / "journal").iterdir():
        data = path.read_bytes()
        at = data.rfind(b'"type"')
        (damaged / "journal" / path.name).write_bytes(
            data if at < 0 else data[:at] + b'"tipe"' + data[at + 6 :]
        )
    code, _, said = program(capsys, "journal", "export", damaged, "-o", output)
    assert (code, "hash differs" in _one_line(said)) == (1, True)
    assert output.read_bytes() == good
    assert sorted(one.name for one in tmp_path.iterdir()) == ["damaged", "x.json"]


def test_a_full_disk_behind_standard_output_is_one_line(folder: Path) -> None:
    """As with ``> file`` in a shell."""
    command = [sys.executable, "-c", "import ringflow.cli; ringflow.cli.main()"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, "journal", "export", folder],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, "No space left" in _one_line(done.stderr)) == (1, True)


@pytest.mark.parametrize("words", [["demo", "--out", "out"], ["scenario", "run", SCENARIOS]])
def test_a_backend_that_is_not_installed_is_wrong_use(
    words: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "trio", None)
    code, out, said = program(capsys, *words, "--backend", "trio")
    assert (code, out) == (2, "")
    assert "pip install trio" in _one_line(said)
    assert list(tmp_path.iterdir()) == []
    assert program(capsys, *words, "--backend", "uvloop")[0] == 2


def test_a_demo_in_no_folder_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a file has that name, or the disk can't be written."""
    (tmp_path / "afile").write_text("")
    for place in (tmp_path / "afile", Path("/proc/nothing")):
        code, _, said = program(capsys, "demo", "--scale", "0.1", "--out", place)
        assert (code, "could not make the folder" in _one_line(said)) == (1, True)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert program(capsys, "--version") == (0, f"ringflow {__version__}\n", "")


def test_a_path_that_is_not_there_is_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the exit code of a journal that is damaged."""
    for words in (["journal", "show"], ["journal", "verify"], ["replay"], ["checkpoint", "list"]):
        code, out, said = program(capsys, *words, tmp_path / "nope")
        assert (code, out) == (2, "")
        _one_line(said)
