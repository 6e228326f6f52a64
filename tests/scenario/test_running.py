"""Running scenarios: outputs, differences, both backends, kept files, the program and pytest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ringflow.cli import main
from ringflow.scenario.running import run
from ringflow.scenario.script import parse

ROOT = Path(__file__).parents[2]
MOVES = ROOT / "scenarios" / "migration" / "a-kernel-moves-with-its-state.txt"
EXAMPLES = re.findall(
    r"```scenario\n(.*?)```", (ROOT / "docs" / "scenarios.md").read_text(), re.DOTALL
)
STORY = """# A kernel is sent to while it moves.

kernel adder file=adder.cu
----

quiet launch adder on=host:0
----

begin sending send adder Add value=1 count=20
----

begin moving migrate adder to=host:1
----

await sending
----

await moving
----
"""


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_documented_examples_are_right(text: str) -> None:
    """What docs/scenarios.md shows is what happens."""
    outcome = run(parse(text, "example"), folder=ROOT / "docs")
    assert outcome.passed, outcome.report


def test_a_difference_names_file_line_and_both_sides(tmp_path: Path) -> None:
    """The diff shows what was expected and what was found."""
    text = "# why\n\nkernels\n----\nadder running\n\nkernels\n----\n"
    outcome = run(parse(text, "x.txt"), folder=tmp_path)
    assert not outcome.passed
    assert outcome.report.splitlines()[0] == "x.txt:3: kernels"
    assert "-adder running" in outcome.report
    assert "+engine  engine.opened  devices=host:0,host:1" in outcome.report


def test_an_unexpected_error_ends_the_scenario(tmp_path: Path) -> None:
    """The rest is not run; an error that was expected and did not come is one as well."""
    text = "# why\n\ncall ghost Total\n----\n\nkernels\n----\n"
    outcome = run(parse(text, "x.txt"), folder=tmp_path)
    assert outcome.failure.startswith("x.txt:3:1: no kernel 'ghost' is described")
    assert outcome.outputs == ()
    outcome = run(parse("# why\n\nexpect-error settle\n----\n", "x.txt"), folder=tmp_path)
    assert outcome.failure == "x.txt:3:1: an error was expected, there was none"


HEAD = "# why\n\nkernel adder file=kernels/adder.cu\n----\n\nquiet launch adder\n----\n\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [("region adder stat", "UnknownRegionError: no region 'stat'; there are: state, cells")],
)
def test_a_wrong_word_is_named(line: str, said: str) -> None:
    """The scenario ends at the command, with what to do."""
    outcome = run(parse(f"{HEAD}{line}\n----\n", "x.txt"), folder=ROOT / "scenarios")
    assert f"x.txt:9:1: {said}" in outcome.failure


def story(folder: Path) -> Path:
    (folder / "adder.cu").write_text((ROOT / "scenarios/kernels/adder.cu").read_text())
    path = folder / "story.txt"
    path.write_text(STORY)
    return path


def program(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["ringflow", "scenario", "run", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def kept(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_kept_files_are_the_same_under_both_backends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice with one seed: byte-equal journals and checkpoints; another seed, another journal."""
    path = story(tmp_path)
    assert program(monkeypatch, path, "--rewrite") == 0
    for name, options in {
        "a": ["--backend", "asyncio"],
        "b": ["--backend", "trio"],
        "c": ["--seed", "5"],
    }.items():
        program(monkeypatch, path, "--keep", tmp_path / name, *options)
    assert kept(tmp_path / "a") == kept(tmp_path / "b")
    assert any(place.endswith(".rkcp") for place in kept(tmp_path / "a"))
    assert kept(tmp_path / "a") != kept(tmp_path / "c")
    assert "1 of 1 scenarios passed" in capsys.readouterr().out


def test_the_program_compares_and_rewrites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and a diff, then a rewrite, then 0; a rewrite with another seed is refused."""
    path = story(tmp_path)
    assert program(monkeypatch, tmp_path) == 1
    assert "+migration-1  migration.requested" in capsys.readouterr().out
    assert program(monkeypatch, path, "--rewrite", "--seed", "1") == 2
    assert path.read_text() == STORY
    assert program(monkeypatch, path, "--rewrite") == 0
    assert "moved from host:0 to host:1" in path.read_text()
    assert program(monkeypatch, tmp_path) == 0
    assert program(monkeypatch, tmp_path / "nothing") == 2


def test_a_file_that_is_no_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe")
    assert program(monkeypatch, tmp_path / "x.txt") == 2
    assert "x.txt:1:1: it can't be read: 'utf-8' codec" in capsys.readouterr().err


def test_pytest_collects_scenarios_of_users(tmp_path: Path) -> None:
    """A scenario that differs is a failed test whose report is the diff; fixtures are there."""
    (tmp_path / "scenarios").mkdir()
    story(tmp_path / "scenarios")
    (tmp_path / "test_mine.py").write_text(
        "import pytest\n"
        "@pytest.mark.anyio\n"
        "async def test_engine(ringflow_engine, tmp_path, assert_replays):\n"
        "    assert len(ringflow_engine.devices()) == 2\n"
        "    assert_replays(tmp_path / 'state')\n"
        "def test_device(host_device):\n"
        "    assert host_device.name == 'host:0'\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "ringflow.scenario.plugin", "-q", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert "story.txt:9: begin" not in ran.stdout
    assert "story.txt:15: await" in ran.stdout, ran.stdout + ran.stderr
    assert "+moved from host:0 to host:1" in ran.stdout
    assert "1 failed, 3 passed" in ran.stdout, ran.stdout
