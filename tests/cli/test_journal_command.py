"""``ringflow journal``: readable, verifiable, and exact about damage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import orjson
import pytest

from ringflow.cli import main
from ringflow.events.lifecycle import KernelLaunched
from ringflow.events.messages import MessagesAccepted, OutputsAcknowledged
from ringflow.events.migration import MigrationGateOpened, MigrationRequested
from ringflow.journal.opening import open_journal


async def _write(folder: Path) -> None:
    async with open_journal(folder) as journal:
        journal.append("kernel/wave", [KernelLaunched(kernel_id="wave", device="host:0")])
        for number in range(1, 9, 2):
            journal.append(
                "messages/wave",
                [
                    MessagesAccepted(
                        kernel_id="wave",
                        first_sequence=number,
                        types=(1, 1),
                        payloads=(b"1234", b"56"),
                        producers=("p", "p"),
                        numbers=(number, number + 1),
                    )
                ],
            )
            journal.append(
                "messages/wave",
                [
                    OutputsAcknowledged(
                        kernel_id="wave", consumer="plotter", sequence=number, index=0
                    )
                ],
            )
        journal.append(
            "kernel/wave",
            [
                MigrationRequested(
                    operation_id="mig-1",
                    kernel_id="wave",
                    source="host:0",
                    target="host:1",
                    actor="ops",
                    reason="driver update",
                ),
                MigrationGateOpened(
                    operation_id="mig-1", kernel_id="wave", pause_ns=2_500_000, parked_count=3
                ),
            ],
        )


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine's folder inside ``tmp_path`` that holds a small journal."""
    anyio.run(_write, tmp_path / "engine")
    return tmp_path / "engine"


@pytest.fixture
def segment(engine: Path) -> Path:
    """The journal's only segment."""
    (path,) = (engine / "journal").glob("*.jsonl")
    return path


class Ran:
    """What one run of the program said."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> None:
        self.code: int | str | None = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["ringflow", "journal", *map(str, arguments)])
            try:
                main()
            except SystemExit as error:
                self.code = error.code
        self.out, self.err = capsys.readouterr()


def test_show_tells_the_story_with_traffic_in_one_line(
    engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line an event; eight records of messages and acknowledgements are one line."""
    ran = Ran(capsys, "show", engine)
    lines = ran.out.splitlines()
    assert ran.code == 0
    assert len(lines) == 4
    assert "#1 " in lines[0]
    assert "kernel.launched.v1  kernel_id=wave  device=host:0" in lines[0]
    assert "#2-9" in lines[1]
    assert "messages 1 to 8 accepted (8 in 4 records, 24 B)" in lines[1]
    assert "'plotter' acknowledged outputs up to 7" in lines[1]
    assert "source=host:0  target=host:1  reason='driver update'" in lines[2]
    assert "pause=2.500ms" in lines[3]


def test_show_can_list_every_record_of_one_stream(
    engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Filters by stream and sequence; ``--all`` puts nothing together."""
    ran = Ran(capsys, "show", engine, "--all", "--stream", "messages/*", "--from", "4")
    assert [line.split()[1] for line in ran.out.splitlines()] == [f"#{n}" for n in range(4, 10)]
    ran = Ran(capsys, "tail", engine, "-n", "2", "--all")
    assert [line.split()[1] for line in ran.out.splitlines()] == ["#9", "#10", "#10"]


def test_json_lines_are_those_of_the_journal(
    engine: Path, segment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine gets what is in the file, record by record."""
    ran = Ran(capsys, "show", engine, "--json")
    stored = [orjson.loads(line) for line in segment.read_bytes().splitlines()]
    assert [orjson.loads(line) for line in ran.out.splitlines()] == stored[1:-1]


@pytest.mark.parametrize("depth", ["demo", "engine", "journal"])
def test_any_folder_around_the_journal_will_do(
    engine: Path, depth: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo's folder, the engine's, or the journal's."""
    folder = {"demo": engine.parent, "engine": engine, "journal": engine / "journal"}[depth]
    ran = Ran(capsys, "verify", folder)
    assert ran.code == 0
    assert ran.out.startswith("whole: 10 records of 2 streams in 1 segments, epoch 1")
    head = Ran(capsys, "head", folder)
    assert head.out.split() == ["10", ran.out.split()[-1]]


def test_one_changed_byte_in_the_middle_is_named(
    engine: Path, segment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Verify exits non-zero with segment, line and sequence; show stops right before."""
    data = bytearray(segment.read_bytes())
    at = data.index(b'"seq":5,')
    data[at + 30] ^= 1
    segment.write_bytes(data)
    ran = Ran(capsys, "verify", engine)
    assert ran.code == 1
    assert segment.name in ran.err
    assert "line 6, sequence 5" in ran.err
    ran = Ran(capsys, "verify", engine, "--json")
    assert ran.code == 1
    damage = orjson.loads(ran.out)
    assert (damage["whole"], damage["line"], damage["sequence"]) == (False, 6, 5)
    ran = Ran(capsys, "show", engine, "--json")
    assert ran.code == 1
    assert [orjson.loads(line)["seq"] for line in ran.out.splitlines()] == [1, 2, 3, 4]
    assert "sequence 5" in ran.err


def test_a_torn_tail_is_reported_and_no_damage(
    engine: Path, segment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was never acknowledged is the next opening's to cut; reading changes nothing."""
    data = segment.read_bytes()[:-10]
    segment.write_bytes(data)
    ran = Ran(capsys, "verify", engine)
    assert ran.code == 0
    assert "torn tail" in ran.out
    assert orjson.loads(Ran(capsys, "verify", engine, "--json").out)["torn"][0]["size_bytes"] > 0
    assert segment.read_bytes() == data
    assert sorted(path.name for path in (engine / "journal").iterdir()) == [segment.name]


@pytest.mark.parametrize(
    "options",
    [
        ["--stream", "kernle/wave"],
        ["--from", "99999"],
        ["--since", "2100-01-01", "--json"],
        ["--until", "1970-01-02T00:00:00.5+02:00"],
    ],
)
def test_where_nothing_matches_it_is_said(
    options: list[str], engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr: the output stays empty, for programs that read it."""
    ran = Ran(capsys, "show", engine, *options)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith("no record is as asked for")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--from", "200", "--to", "100"], "--from 200 comes after --to 100"),
        (["--since", "11:51"], "--since '11:51' is no date and time; write it as 2026-"),
        (["--until", "soon"], "--until 'soon' is no date and time; write it as 2026-"),
    ],
)
def test_what_can_match_nothing_is_refused(
    options: list[str], said: str, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(capsys, "show", engine, *options)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_a_folder_without_a_journal_says_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr, no traceback."""
    ran = Ran(capsys, "show", tmp_path)
    assert ran.code == 2
    assert ran.err.startswith("ringflow: no journal in")
    assert ran.err.count("\n") == 1


def test_help_imports_nothing_heavy() -> None:
    """``--help`` answers before numpy, LLVM, CUDA or a command's own parts are imported."""
    code = (
        "import sys; sys.argv = ['ringflow', 'journal', '--help']\n"
        "from ringflow.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'llvmlite', 'cuda', 'matplotlib', 'ringflow.cli.story'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.splitlines()[-1] == "[]"
