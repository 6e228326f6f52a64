"""Whether a driver loads code while a kernel runs: who answers, and how long an answer is kept."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ringflow.device.cuda import driver, loading
from ringflow.device.cuda.loading import Loading, loads_while_running

UUID = "GPU-00000000-1111-2222-3333-444444444444"


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One GPU, as far as the parent asks: it starts the driver and reads a UUID."""
    monkeypatch.delenv(loading.OVERRIDE, raising=False)
    monkeypatch.setattr(driver, "start", lambda: (13, 0))
    monkeypatch.setattr(loading, "uuid_of", lambda ordinal: UUID)


class Child:
    """A child of the test's making, which notes that it ran."""

    def __init__(self, folder: Path, body: str) -> None:
        self.folder, self.answers = folder, folder / "answers"
        self.runs = folder / "runs"
        script = folder / "child.py"
        script.write_text(
            "import os, sys, time\n"
            f"open({str(self.runs)!r}, 'a').write(sys.argv[1] + '\\n')\n{body}"
        )
        self.command = (sys.executable, str(script))

    def ask(self, deadline_s: float = 30.0) -> Loading:
        return loads_while_running(
            0, deadline_s=deadline_s, child=self.command, folder=self.answers
        )

    @property
    def asked(self) -> list[str]:
        return self.runs.read_text().split() if self.runs.exists() else []


def test_answer_is_kept_for_driver_and_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One child answers; another GPU, or a new driver, is asked anew."""
    child = Child(tmp_path, "print('loads while running')")
    assert child.ask() == Loading(True, "a trial did so")
    assert child.ask().works
    assert child.asked == [UUID]
    monkeypatch.setattr(driver, "start", lambda: (13, 1))
    child.ask()
    other = UUID.replace("4444", "5555")
    monkeypatch.setattr(loading, "uuid_of", lambda ordinal: other)
    child.ask()
    assert child.asked == [UUID, UUID, other]


def test_an_answer_that_cannot_be_kept_leaves_nothing(tmp_path: Path) -> None:
    """It is asked for again; no half-written file stays."""
    child = Child(tmp_path, "print('loads while running')")
    child.ask()
    (kept,) = child.answers.iterdir()
    kept.unlink()
    kept.mkdir()  # no file can take its place
    for _ in range(2):
        assert child.ask().works
    assert list(child.answers.iterdir()) == [kept]
    assert len(child.asked) == 3


def test_load_that_waits_is_a_no_that_is_kept(tmp_path: Path) -> None:
    """The child saw the load return only after the kernel had ended."""
    child = Child(tmp_path, "print('waits for kernels')")
    assert not child.ask().works
    assert "waited" in child.ask().reason
    assert len(child.asked) == 1


def test_child_that_hangs_is_killed_and_means_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a signal that it can't ignore; the answer is kept, so nobody waits for it again."""
    started: list[subprocess.Popen[str]] = []

    class Noted(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    child = Child(tmp_path, "while True: time.sleep(1)")
    answer = child.ask(deadline_s=0.5)
    assert not answer.works
    assert "hung" in answer.reason
    assert child.ask() == answer
    assert [process.returncode for process in started] == [-signal.SIGKILL]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit('no such GPU')", "no such GPU"),
        ("os.abort()", "exit status -6"),
        ("print('something else')", "exit status 0"),
        ("print('loads while running'); sys.exit(3)", "exit status 3"),
    ],
)
def test_child_that_fails_is_a_no_for_now(tmp_path: Path, body: str, reason: str) -> None:
    """Nothing was learnt, so it is asked again the next time."""
    child = Child(tmp_path, body)
    answer = child.ask()
    assert not answer.works
    assert reason in answer.reason
    child.ask()
    assert len(child.asked) == 2


def test_damaged_answer_is_asked_anew(tmp_path: Path) -> None:
    """A file cut short, or of another form, is as good as none."""
    child = Child(tmp_path, "print('loads while running')")
    child.ask()
    (kept,) = child.answers.iterdir()
    for text in ("", '{"works": tr', '{"works": 1}', "[]"):
        kept.write_text(text)
        assert child.ask().works
    assert len(child.asked) == 5


def test_answer_that_cannot_be_kept_is_given_all_the_same(tmp_path: Path) -> None:
    """The folder's name is a file's."""
    child = Child(tmp_path, "print('loads while running')")
    child.answers.write_text("in the way")
    assert child.ask().works


def test_user_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No child is asked where the environment answers."""
    child = Child(tmp_path, "print('loads while running')")
    for word, works in (("no", False), ("yes", True)):
        monkeypatch.setenv(loading.OVERRIDE, word)
        assert child.ask().works is works
    assert child.asked == []


def test_child_says_what_it_was_given_wrongly(capsys: pytest.CaptureFixture[str]) -> None:
    """It is a program: one argument."""
    assert loading.main([]) == 2
    assert "usage" in capsys.readouterr().err
