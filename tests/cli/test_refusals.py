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


@pytest.mark.parametrize(
    "words",
    [
        ["simulate", "--runs", "-1"],
        ["simulate", "--hours", "-1"],
        ["simulate", "--length", "0"],
        ["simulate", "--seed", "-1"],
        ["scenario", "run", SCENARIOS, "--seed", "-1"],
    ],
)
def test_numbers_below_the_least_are_refused(
    words: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    """They ran nothing, and that as a success."""
    code, out, said = program(capsys, *words)
    assert (code, out) == (2, "")
    assert str(words[-2]) in said


def test_an_unknown_operation_is_answered_with_the_nearest_ids(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A journal may have thousands of operations: three are named, and what lists all."""
    anyio.run(_migrate, tmp_path / "engine", 6)
    code, _, said = program(capsys, "journal", "explain", tmp_path / "engine", "migratoin-3")
    assert (code, len(_one_line(said)) < 300) == (2, True)
    assert "is no operation's id; the nearest: migration-" in said
    assert said.count("migration-") == 3
    assert "`ringflow journal explain PATH` lists all" in said
    said = program(capsys, "journal", "explain", tmp_path / "engine", "migration")[2]
    assert "is more than one operation's id; they are: migration-" in said
    assert said.count("migration-") == 3
    assert " and 3 more; " in said


async def _migrate(folder: Path, count: int) -> None:
    async with ringflow.open_engine(folder, devices=["host:0", "host:1"]) as engine:
        await engine.launch(adder(), device="host:0")
        for at in range(count):
            await engine.migrate("adder", to=f"host:{(at + 1) % 2}")


def test_a_replay_names_what_there_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a journal that is over nothing can be launched, and no engine be opened otherwise."""
    code, _, said = program(capsys, "replay", folder, "--kernel", "addr")
    assert (code, "known kernels: adder; correct the id\n" in _one_line(said)) == (2, True)
    code, _, said = program(capsys, "replay", folder, "--kernel", "adder", "--device", "host:x")
    assert (code, "; name one of these forms\n" in _one_line(said)) == (2, True)


def test_doctor_says_that_a_folder_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is looked at is where it would be made; a file is no place for one."""
    out = program(capsys, "doctor", "--folder", tmp_path / "to" / "be")[1]
    assert f"{tmp_path / 'to' / 'be'} is not there yet; {tmp_path} is on " in out
    (tmp_path / "afile").write_text("")
    code, out, _ = program(capsys, "doctor", "--folder", tmp_path / "afile")
    assert (code, f"{tmp_path / 'afile'} is no folder; name another" in out) == (1, True)


def test_a_demo_goes_on_with_its_own_settings_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another size can't go on with the kernel's regions: it is refused, not passed over."""
    (tmp_path / "demo.json").write_text('{"scale":0.1,"message_count":90,"devices":["host:0"]}')
    for option in (("--scale", "0.2"), ("--messages", "100"), ("--devices", "host:0,host:2")):
        code, out, said = program(capsys, "demo", "--resume", "--out", tmp_path, *option)
        assert (code, out) == (2, "")
        assert "has scale 0.1, 90 messages and devices host:0; leave" in _one_line(said)


def test_help_is_wrapped_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal is narrower than the source's lines: their ends must not be kept as well."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = program(capsys, "journal", "repair", "--help")
    lines = [line.strip() for line in out.splitlines()]
    assert code == 0
    (at,) = [at for at, line in enumerate(lines) if line.startswith("First without --apply")]
    assert all(len(line) > 70 for line in lines[at : lines.index("", at) - 1])
