"""The demo's own files: they only grow, and a cut line is no line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringflow.demo import DemoError
from ringflow.demo.records import Lines, ReplyLog, Settings, Timing, TimingLog, keep_settings
from ringflow.errors import CorruptError, UsageError
from ringflow.files import SystemFiles

FILES = SystemFiles()


def open_log(path: Path) -> ReplyLog:
    """Open a reply log as the demo does."""
    return ReplyLog(Lines(FILES, path))


def test_replies_are_found_again(tmp_path: Path) -> None:
    """What was recorded before a kill is known after it."""
    log = open_log(tmp_path / "replies.jsonl")
    assert log.add(1, 0, b"one")
    assert log.add(2, 0, b"two")
    log.close()
    again = open_log(tmp_path / "replies.jsonl")
    assert again.payloads == {(1, 0): b"one", (2, 0): b"two"}
    again.close()


def test_a_repeated_reply_is_recorded_once(tmp_path: Path) -> None:
    """The engine may deliver a reply again after a crash: same identity, same bytes."""
    log = open_log(tmp_path / "replies.jsonl")
    assert log.add(1, 0, b"one")
    assert not log.add(1, 0, b"one")
    log.close()
    assert (tmp_path / "replies.jsonl").read_bytes().count(b"\n") == 1


def test_a_repeated_reply_with_other_bytes_ends_the_demo(tmp_path: Path) -> None:
    """A different answer under the same identity is what must never happen."""
    log = open_log(tmp_path / "replies.jsonl")
    log.add(1, 0, b"one")
    with pytest.raises(DemoError, match="message 1 came again"):
        log.add(1, 0, b"two")
    log.close()


def test_every_cut_of_the_last_line_is_survived(tmp_path: Path) -> None:
    """A kill in the middle of a write leaves the lines before it, and the file can grow on."""
    path = tmp_path / "replies.jsonl"
    log = open_log(path)
    log.add(1, 0, b"one")
    first = path.stat().st_size
    log.add(2, 0, b"two")
    log.close()
    whole = path.read_bytes()
    for size in range(first, len(whole)):
        path.write_bytes(whole[:size])
        cut = open_log(path)
        assert set(cut.payloads) == {(1, 0)}
        cut.add(2, 0, b"two")
        cut.close()
        assert path.read_bytes() == whole


def test_a_damaged_line_in_the_middle_is_refused(tmp_path: Path) -> None:
    """Damage is not a cut: the demo says so rather than going on without a reply."""
    path = tmp_path / "replies.jsonl"
    path.write_bytes(b'{"sequence": 1\n{"sequence":2,"index":0,"payload":""}\n')
    with pytest.raises(CorruptError, match="damaged"):
        open_log(path)


def test_timings_are_found_by_operation(tmp_path: Path) -> None:
    """A resumed demo still shows the pauses of the operations before the kill."""
    log = TimingLog(Lines(FILES, tmp_path / "timings.jsonl"))
    log.add("mig-1", Timing(12.5, 3.0))
    log.close()
    again = TimingLog(Lines(FILES, tmp_path / "timings.jsonl"))
    assert again.timings == {"mig-1": Timing(12.5, 3.0)}
    again.close()


def test_resume_keeps_the_settings_of_the_first_run(tmp_path: Path) -> None:
    """The regions' shape is fixed when the kernel is launched."""
    folder = tmp_path / "demo"
    first = keep_settings(FILES, folder, Settings(0.5, 100), resume=False)
    assert keep_settings(FILES, folder, Settings(1.0, 240), resume=True) == first


def test_a_folder_with_a_demo_is_not_overwritten(tmp_path: Path) -> None:
    """Without --resume an old demo is left alone."""
    keep_settings(FILES, tmp_path, Settings(0.5, 100), resume=False)
    with pytest.raises(UsageError, match="--resume"):
        keep_settings(FILES, tmp_path, Settings(0.5, 100), resume=False)


def test_resume_of_nothing_starts_anew(tmp_path: Path) -> None:
    """A kill before the first file leaves nothing to resume; that is no error."""
    settings = Settings(0.5, 100)
    assert keep_settings(FILES, tmp_path / "demo", settings, resume=True) == settings
