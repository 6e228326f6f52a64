"""Recorded journals as scenarios: run again, they come to the same."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from rich.console import Console
from typer.testing import CliRunner

from ringflow.cli import build_app
from ringflow.cli.writing import write_file
from ringflow.demo.run import Options, run_demo
from ringflow.errors import RingflowError, UsageError
from ringflow.files import SystemFiles
from ringflow.journal.reader import read_records
from ringflow.scenario.recorded_folder import check_recording, record_folder
from ringflow.scenario.recorded_inputs import moments, subject
from ringflow.scenario.running import Outcome, run, run_file
from ringflow.scenario.script import parse
from ringflow.scenario.short import Names, short
from ringflow.simulate.files import CrashingFiles
from tests.cli.program import program
from tests.journal.sample import FOLDER
from tests.journal.test_archive import archived, written
from tests.simulate.story import eventful_world

SCENARIOS = Path(__file__).parents[2] / "scenarios"
TOLD = (
    "delivery/a-consumer-gets-every-reply-once",
    "delivery/a-producer-s-number-counts-once",
    "gpus/a-kernel-moves-between-gpus-and-the-host",
    "gpus/a-load-parks-the-kernels-of-its-gpu",
    "lifecycle/a-crash-while-a-kernel-is-held",
    "lifecycle/a-halted-kernel-can-be-stopped",
    "lifecycle/a-kernel-is-forked-as-it-was",
    "lifecycle/a-rollback-undoes-messages",
    "migration/a-cancelled-migration-changes-nothing",
    "migration/a-crash-before-rerouted-puts-the-kernel-on-the-source",
    "migration/a-failing-transfer-leaves-the-kernel-on-the-source",
    "migration/a-kernel-that-never-answers-is-not-moved",
    "recovery/a-clean-close-restarts-from-its-last-checkpoint",
    "reload/a-conversion-that-traps-keeps-the-old-code",
    "reload/a-crash-on-probation-brings-the-old-code-back",
    "reload/a-rollback-that-fails-halts-the-kernel",
    "routes/a-halted-target-keeps-its-sends-waiting",
    "snapshot/a-failed-copy-fails-the-snapshot",
)


def write(contents: Mapping[str, bytes], folder: Path) -> Path:
    """Write a world's files; return their folder."""
    for place, content in contents.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def told(folder: Path) -> dict[str, list[str]]:
    """Return what each kernel and operation did, in its own order."""
    names, found = Names(), dict[str, list[str]]()
    for moment in moments(read_records(folder)):
        line = short(moment.event, names)
        found.setdefault(names.shorten(subject(moment.event)), []).append(line)
    return found


def kinds_told(folder: Path) -> dict[str, list[str]]:
    """Return the events' names of each kernel and operation, in its own order."""
    return {name: [line.split("  ")[1] for line in lines] for name, lines in told(folder).items()}


def run_again(folder: Path, seed: int = 0) -> Outcome:
    return run(parse(record_folder(folder), "recorded.txt"), folder=folder, seed=seed)


@pytest.mark.parametrize("name", TOLD)
def test_a_recorded_world_does_the_same_again(name: str, tmp_path: Path) -> None:
    """Every command's output is what the journal says, and the new journal tells the same."""
    first = write(run_file(SCENARIOS / f"{name}.txt").contents, tmp_path / "first")
    outcome = run_again(first)
    assert outcome.passed, outcome.report
    assert told(write(outcome.contents, tmp_path / "again")) == told(first)


def test_a_world_whose_work_overlapped_does_the_same_again(tmp_path: Path) -> None:
    """Two kernels, a migration, a reload and a snapshot at once: each takes its own steps again."""
    first = write(eventful_world(3).contents(), tmp_path / "first")
    outcome = run_again(first)
    assert outcome.passed, outcome.report
    assert kinds_told(write(outcome.contents, tmp_path / "again")) == kinds_told(first)


@pytest.mark.anyio
async def test_the_demo_s_journal_takes_the_same_steps_again(tmp_path: Path) -> None:
    """Moves, a conversion and a roll-back while messages flow, each behind the same message."""
    options = Options(folder=tmp_path / "demo", scale=0.1, message_count=90)
    (tmp_path / "demo").mkdir()
    assert (await run_demo(options, Console(file=StringIO()))).good
    outcome = await anyio.to_thread.run_sync(run_again, tmp_path / "demo")
    assert outcome.passed, outcome.report
    again = kinds_told(write(outcome.contents, tmp_path / "again"))
    assert again == kinds_told(tmp_path / "demo")


def test_what_people_wrote_is_told_as_they_wrote_it(tmp_path: Path) -> None:
    """Quotes, backslashes, line feeds, and keys that look like digests."""
    one, other = "1f" * 20, "2e" * 20
    text = f"""# Texts of all kinds.

kernel adder file={SCENARIOS / "kernels/adder.cu"}
----

launch adder on=host:0 actor={other} reason="say \\"no\\",\\nC:\\\\new"
----

snapshot adder key={one} actor="\\""
----

snapshot adder key={other}
----

acknowledge adder "a \\"reader\\""
----
"""
    ran = run(parse(text), folder=tmp_path)
    assert not ran.failure, ran.failure
    first = write(ran.contents, tmp_path / "first")
    recorded = record_folder(first)
    asked = [line for line in text.splitlines() if line.startswith(("launch", "snap", "ack"))]
    assert [line for line in recorded.splitlines() if line in asked] == asked
    outcome = run(parse(recorded, "recorded.txt"), folder=first)
    assert outcome.passed, outcome.report
    assert told(write(outcome.contents, tmp_path / "again")) == told(first)


def test_a_lost_gpu_is_refused(tmp_path: Path) -> None:
    """The host devices that stand for GPUs in a recording can't be lost."""
    lost = SCENARIOS / "gpus/a-lost-gpu-leaves-its-kernels-to-the-others.txt"
    folder = write(run_file(lost).contents, tmp_path)
    with pytest.raises(UsageError, match="kernel 'other' lost its device, and the host devices"):
        record_folder(folder)


def test_what_is_gone_is_said(tmp_path: Path) -> None:
    """Without its stored files a journal gives no kernel, and the scenario says so."""
    contents = run_file(SCENARIOS / f"{TOLD[0]}.txt").contents
    journal = {place: one for place, one in contents.items() if place.startswith("journal")}
    text = record_folder(write(journal, tmp_path))
    assert "# kernel adder's spec is gone: what it did is left out" in text.splitlines()
    assert "\nlaunch" not in text


def test_a_journal_without_its_beginning_is_refused(tmp_path: Path) -> None:
    """What is archived can't be done again; the error says what to record from."""
    files = CrashingFiles()
    anyio.run(written, files)
    anyio.run(archived, files)
    contents = files.snapshot()
    inside = {path: one for path, one in contents.items() if path.is_relative_to(FOLDER)}
    folder = write({str(path.relative_to(FOLDER)): one for path, one in inside.items()}, tmp_path)
    with pytest.raises(UsageError, match="before it was archived"):
        record_folder(folder)


def test_the_program_writes_a_scenario_that_passes(tmp_path: Path) -> None:
    """``ringflow scenario record``, then ``run``."""
    name = "migration/a-kernel-moves-with-its-state"
    first = write(run_file(SCENARIOS / f"{name}.txt").contents, tmp_path / "first")
    file = tmp_path / "recorded.txt"
    made = CliRunner().invoke(build_app(), ["scenario", "record", str(first), "-o", str(file)])
    assert made.exit_code == 0, made.output
    assert "migrate adder to=host:1 actor=ops" in file.read_text()
    ran = CliRunner().invoke(build_app(), ["scenario", "run", str(file)])
    assert ran.output == "1 of 1 scenarios passed\n"


def test_messages_that_only_a_route_carries_are_recorded(tmp_path: Path) -> None:
    """The kernel that sends them doesn't take them."""
    text = f"""# A log that its kernel does not take.

kernel adder file={SCENARIOS / "kernels/adder.cu"} routes="log(Entry:9(at:u32,to:u64),Add)"
----

launch adder
----
"""
    first = write(run(parse(text), folder=tmp_path).contents, tmp_path / "first")
    outcome = run_again(first)
    assert outcome.passed, outcome.report


REFUSED = """# A launch that fails once it is journaled.

kernel ends regions=state:uint64[1]
extern "C" __global__ void ends(void*, unsigned long long*) {}
----

expect-error launch ends
----
"""


def test_a_launch_that_failed_is_recorded_with_its_error(tmp_path: Path) -> None:
    """It is of some class below ``DeviceError``, or of another one: the journal names it."""
    ran = run(parse(REFUSED), folder=tmp_path)
    assert not ran.failure, ran.failure
    first = write(ran.contents, tmp_path / "first")
    errors = [
        moment.event["error"]
        for moment in moments(read_records(first))
        if moment.type == "kernel.launch_failed"
    ]
    assert errors == ["KernelStalledError"]
    outcome = run_again(first)
    assert outcome.passed, outcome.report


def test_a_reload_after_a_rollback_is_recorded_with_what_it_changes(tmp_path: Path) -> None:
    """The rolled-back kernel has its earlier messages again, so the second reload adds as well."""
    kernels = SCENARIOS / "kernels"
    more = "Add:1(value:u64) Total:2 Spin:3(rounds:u64) Trap:4 More:9"
    text = f"""# A reload, undone, and once more.

kernel adder file={kernels / "adder.cu"}
----

launch adder
----

code twice file={kernels / "adder_twice.cu"}
----

reload adder code=twice messages="{more}"
----

rollback adder before_reload=yes
----

reload adder code=twice messages="{more}"
----

send adder More
----
"""
    ran = run(parse(text), folder=tmp_path)
    assert not ran.failure, ran.failure
    first = write(ran.contents, tmp_path / "first")
    outcome = run_again(first)
    assert outcome.passed, outcome.report
    assert told(write(outcome.contents, tmp_path / "again")) == told(first)


@pytest.mark.parametrize(
    ("found", "wrong", "said"),
    [
        ("value=7", "value=8", "comes to something else than its journal. What no journal tells"),
        ("adder Add", "adder Ade", "can't be run to its end; --no-check writes it all the same."),
    ],
)
def test_a_recording_that_does_not_pass_is_told_as_what_it_is(
    found: str, wrong: str, said: str, tmp_path: Path
) -> None:
    """Another outcome, or a command that fails; neither is wrong use."""
    text = f"""# why

kernel adder file={SCENARIOS / "kernels/adder.cu"}
----

quiet launch adder
----

call adder Add value=7
----
adder  messages.accepted  message 1 of type 1, 8B
reply 1.0: 7
"""
    check_recording(text, tmp_path)
    with pytest.raises(RingflowError, match=re.escape(said)) as raised:
        check_recording(text.replace(found, wrong), tmp_path)
    assert not isinstance(raised.value, UsageError)


def test_a_recording_that_cannot_be_written_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program says why, and a file that was there still is what it was."""
    first = write(run_file(SCENARIOS / f"{TOLD[0]}.txt").contents, tmp_path / "first")
    file = tmp_path / "recorded.txt"
    file.write_text("old")

    def record(output: Path) -> tuple[object, str]:
        given = ("scenario", "record", first, "--no-check", "-o", output)
        code, _, said = program(capsys, *given)
        return code, said

    assert record(first) == (2, f"ringflow: {str(first)!r} is a folder; name the file to write\n")
    code, said = record(tmp_path / "none" / "recorded.txt")
    assert (code, "could not write" in said) == (1, True)

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SystemFiles, "rename", full)
        code, said = record(file)
    assert (code, "No space left" in said) == (1, True)
    assert file.read_text() == "old"
    assert record(file)[0] == 0
    assert file.read_text() == record_folder(first)


def test_what_is_no_file_is_written_into(tmp_path: Path) -> None:
    """Such as a pipe to another program."""
    pipe, got = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_file(pipe, [b"some", b"thing"])
    reader.join()
    assert got == [b"something"]
    assert pipe.is_fifo()
