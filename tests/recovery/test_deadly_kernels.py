"""Kernels that kill the process: the openings say so, and memcheck is the way out."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import pytest

import ringflow
from ringflow.engine.folding import Fold
from ringflow.engine.state import EngineState
from ringflow.events.codec import Event
from ringflow.events.engine import EngineClosed, EngineOpened
from ringflow.events.lifecycle import KernelLaunchRequested
from ringflow.events.messages import MessagesAccepted, MessagesLost
from ringflow.events.registry import default_codec
from ringflow.journal.opening import open_journal
from tests.engine.deadly import run_until_killed
from tests.engine.kernels import Add, expected_state
from tests.engine.story import state_of
from tests.recovery.test_halted_kernels import until_halted


def test_a_message_that_kills_the_process_is_told_of_and_got_rid_of(folder: Path) -> None:
    """Each start is killed; the third after the message's own says what to do, and that does it."""
    told = [run_until_killed(folder) for _ in range(4)]
    assert [code for code, _ in told] == [-signal.SIGSEGV] * 4
    assert [error.count("RINGFLOW_HOST_MEMCHECK=1") for _, error in told] == [0, 0, 0, 1]
    assert f"the last 2 engines of '{folder}' died" in told[-1][1]

    async def get_out() -> None:
        device = ringflow.open_device("host:0", memcheck=True)
        async with ringflow.open_engine(folder, devices=[device]) as engine:
            await until_halted(engine)
            halted, innocent = engine.kernels()
            assert halted.kernel_id == "deadly"
            assert "a null pointer" in halted.reason
            assert innocent.state == "running"
            await engine.resume("deadly", "skip", actor="ops", reason="it kills the process")
            assert (await state_of(engine.kernel("deadly")))[:3] == expected_state([3])
            assert engine.health()["died_in_a_row"] == 0
        device.close()
        async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
            await engine.kernel("deadly").send(Add(4))
            assert (await state_of(engine.kernel("deadly")))[:3] == expected_state([3, 4])
            assert (await state_of(engine.kernel("innocent")))[:3] == expected_state([1, 2])

    anyio.run(get_out)


OPENED = EngineOpened(version="1", devices=(), tables_digest="")
LAUNCHED = KernelLaunchRequested(
    kernel_id="k",
    device="host:0",
    spec_digest="",
    version_id="1",
    grid=(1, 1, 1),
    actor="",
    reason="",
)
ACCEPTED = MessagesAccepted(
    kernel_id="k", first_sequence=1, types=(1,), payloads=(b"",), producers=("",), numbers=(0,)
)
LOST = MessagesLost(kernel_id="k", first_sequence=1, last_sequence=0, reason="")


@pytest.mark.parametrize(
    ("events", "count"),
    [
        ([OPENED], 1),
        ([OPENED, LOST, OPENED, LOST, OPENED], 3),
        ([OPENED, OPENED, ACCEPTED], 0),
        ([OPENED, OPENED, ACCEPTED, OPENED], 1),
        ([OPENED, OPENED, EngineClosed()], 0),
    ],
)
def test_engines_that_died_without_progress_are_counted(events: list[Event], count: int) -> None:
    """A message that is accepted, and an end in order, are progress; what a crash lost is none."""
    state = EngineState()
    for event in [LAUNCHED, *events]:
        state.apply(event)
    assert state.fruitless == count


def test_the_count_is_the_same_from_a_journal(tmp_path: Path) -> None:
    """Accepted messages are folded from their plain fields there."""

    async def fold_of(*events: Event) -> EngineState:
        folder = tmp_path / str(len(events))
        async with open_journal(folder) as journal:
            every: list[Event] = [OPENED, LAUNCHED, *events]
            for event in every:
                journal.append(f"{type(event).__name__}", [event])
        fold = Fold(default_codec())
        async with open_journal(folder, replay=fold):
            return fold.state

    assert anyio.run(fold_of, OPENED, OPENED).fruitless == 3
    assert anyio.run(fold_of, OPENED, OPENED, ACCEPTED).fruitless == 0
