"""Kills workers from outside, at random times and at places in the journal that are drawn.

The looks at the journal's files are polls: what another process writes sends no event.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import attrs

from tests.recovery.soak.worker import ENGINE

ROOT: Final = Path(__file__).parents[3]
DEADLINE_S: Final = 120.0
LONGEST_LIFE_S: Final = 4.0
EVENTS: Final = (
    "engine.opened.v1",
    "kernel.launched.v1",
    "kernel.quiesce_started.v1",
    "kernel.quiesced.v1",
    "kernel.resumed.v1",
    "kernel.trapped.v1",
    "kernel.halted.v1",
    "kernel.halt_resolved.v1",
    "kernel.rolled_back.v1",
    "kernel.recovery_point.v1",
    "checkpoint.retired.v1",
    "migration.requested.v1",
    "migration.target_prepared.v1",
    "migration.source_quiesced.v1",
    "migration.checkpointed.v1",
    "migration.state_transferred.v1",
    "migration.rerouted.v1",
    "migration.gate_opened.v1",
    "migration.completed.v1",
    "reload.compiled.v1",
    "reload.drained.v1",
    "reload.swapped.v1",
    "reload.restored.v1",
    "reload.step_failed.v1",
    "reload.rolled_back.v1",
    "reload.completed.v1",
    "snapshot.held.v1",
    "snapshot.copied.v1",
    "snapshot.saved.v1",
    "consumer.acknowledged.v1",
)


@attrs.frozen
class Plan:
    """When a worker is killed: after a time, or once the journal holds something new.

    Attributes:
        new_bytes: so many bytes of new records must be there; 0: none are waited for.
        event: a new record with an event of this wire name must be there.
        after_s: how long after that.
    """

    new_bytes: int = 0
    event: str = ""
    after_s: float = 0.0


def draw(choice: random.Random) -> Plan:
    """Draw a plan: by time since its start or its first record, by offset, or by event."""
    match choice.randrange(10):
        case 0:
            return Plan(after_s=choice.uniform(0.2, 2.0))
        case 1 | 2:
            return Plan(new_bytes=1, after_s=choice.uniform(0.0, 1.5))
        case 3 | 4 | 5:
            return Plan(new_bytes=round(10 ** choice.uniform(2, 5.5)))
        case _:
            return Plan(event=choice.choice(EVENTS), after_s=choice.choice((0.0, 0.0, 0.002)))


class JournalWatch:
    """Sees what is written to a journal's newest segment, as its bytes come."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = self._newest()
        self._at = self.new_bytes = 0
        self._text = b""
        self.look()  # what is there already is not new
        self.new_bytes, self._text = 0, b""

    def _newest(self) -> Path | None:
        return max(self._folder.glob("*.jsonl"), default=None)

    def _read(self, at: int) -> bytes:
        assert self._path is not None
        try:
            with self._path.open("rb") as file:
                file.seek(at)
                return file.read().rstrip(b"\0")
        except FileNotFoundError:  # a torn one is deleted by the next opening
            return b""

    def look(self) -> None:
        if (newest := self._newest()) != self._path:
            self._path, self._at = newest, 0
        if self._path is not None:
            data = self._read(self._at)
            self._at += len(data)
            self.new_bytes += len(data)
            self._text = self._text[-100:] + data

    def reached(self, plan: Plan) -> bool:
        self.look()
        if plan.event:
            return f'"{plan.event}"'.encode() in self._text
        return plan.new_bytes == 0 or self.new_bytes >= plan.new_bytes


def start(folder: Path, life: int, seed: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "tests.recovery.soak.worker",
        str(folder),
        str(life),
        str(seed),
    ]
    with (folder / f"stderr-{life}.txt").open("wb") as errors:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
        )


def live_and_die(folder: Path, life: int, seed: int, plan: Plan) -> None:
    """Run one worker and kill it as planned; raises ``AssertionError`` if it ends by itself."""
    watch = JournalWatch(folder / ENGINE / "journal")
    with start(folder, life, seed) as process:
        try:
            end = time.monotonic() + DEADLINE_S
            while not watch.reached(plan) and time.monotonic() < end:
                _check_alive(process, folder, life)
                time.sleep(0.0005)
                if watch.new_bytes:
                    end = min(end, time.monotonic() + LONGEST_LIFE_S)
            time.sleep(plan.after_s)
            _check_alive(process, folder, life)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def live_and_settle(folder: Path) -> None:
    """Run the last worker, which only reads, to its orderly end."""
    with start(folder, 0, 0) as process:
        try:
            code = process.wait(DEADLINE_S)
        finally:
            process.kill()
    assert code == 0, f"the last worker ended with {code}:\n{stderr_of(folder, 0)}"


def _check_alive(process: subprocess.Popen[bytes], folder: Path, life: int) -> None:
    code = process.poll()
    assert code is None, f"life {life} ended by itself with {code}:\n{stderr_of(folder, life)}"


def stderr_of(folder: Path, life: int) -> str:
    return (folder / f"stderr-{life}.txt").read_text(errors="replace")[-4000:]
