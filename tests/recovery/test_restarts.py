"""What a restart does with every state of every machine that is not final.

One story is run once. Its journal, cut after a record, is what a crash at that moment leaves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import Enum
from typing import Any

import anyio
import attrs
import pytest

import ringflow
from ringflow.engine.state import EngineState
from ringflow.events.messages import MessagesAccepted
from ringflow.events.registry import default_codec
from ringflow.journal.reader import read_records
from ringflow.journal.record import Record
from ringflow.simulate.files import CrashingFiles
from ringflow.statemachines import hot_reload, lifecycle, migration, snapshot
from ringflow.statemachines.lifecycle import LifecycleState as L
from ringflow.statemachines.migration import MigrationState as M
from ringflow.statemachines.table import RestartRule
from tests.engine.doubles import FaultyDevice
from tests.engine.kernels import Add, Trap, adder, code, expected_state
from tests.engine.story import state_of
from tests.recovery.crashes import FOLDER, crash, engine_on, events_of

pytestmark = pytest.mark.anyio

RESTARTS: tuple[tuple[str, dict[Any, RestartRule]], ...] = (
    ("lifecycle", dict(lifecycle.RESTART)),
    ("migration", dict(migration.RESTART)),
    ("reload", dict(hot_reload.RESTART)),
    ("snapshot", dict(snapshot.RESTART)),
)
CASES = [
    (machine, state, rule)
    for machine, rules in RESTARTS
    for state, rule in rules.items()
    if state is not M.REROUTING  # it is left in the record that enters it
]
ENDS = {
    RestartRule.ROLL_BACK: "rolled_back",
    RestartRule.COMPLETE: "completed",
    RestartRule.ABANDON: "failed",
}


@attrs.frozen
class Story:
    """A journal's records, and the files as they were at the end."""

    files: CrashingFiles
    records: tuple[Record, ...]


async def _busy(kernel: ringflow.KernelHandle, stop: anyio.Event) -> None:
    """Send numbers to a kernel until it is told to stop."""
    value = 0
    while not stop.is_set():
        value += 1
        await (await kernel.send(Add(value))).done()


async def _tell(files: CrashingFiles) -> Story:
    """Bring kernels and operations into all of their states; the power fails at the end."""
    limits = ringflow.EngineLimits(recovery_points_kept=99, traps_in_a_row=1)
    source = FaultyDevice("host:0")
    devices: list[Any] = [source, FaultyDevice("host:1")]
    async with engine_on(files, devices, limits=limits) as engine:
        kernel = await engine.launch(adder("busy"), device="host:0")
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_busy, kernel, stop)
            await engine.checkpoint("busy")
            source.fails_in = "copy_to_peer"
            with contextlib.suppress(ringflow.OperationFailedError):
                await engine.migrate("busy", to="host:1")
            await engine.migrate("busy", to="host:1")
            await engine.migrate("busy", to="host:0")
            with contextlib.suppress(ringflow.OperationFailedError):
                await engine.reload("busy", code("adder_bad"), probation_messages=1000)
            await engine.reload("busy", code("adder_double"), probation_messages=3)
            stop.set()
        doomed = await engine.launch(adder("doomed"), device="host:0")
        await (await doomed.send(Add(1))).done()
        await engine.stop("doomed")
        poisoned = await engine.launch(adder("poisoned"), device="host:0")
        await (await poisoned.send(Add(1))).done()
        with pytest.raises(ringflow.KernelStateError):
            await poisoned.call(Trap(), timeout_s=30)
        await events_of(engine, "kernel.halted.v1")
        after = crash(files)
    codec = default_codec()
    folder = FOLDER / "journal"
    records = tuple(one.decoded(codec) for one in read_records(folder, files=after))
    return Story(after, records)


@pytest.fixture(scope="module")
def story() -> Story:
    return anyio.run(_tell, CrashingFiles())


def _prefixes(story: Story) -> Iterator[tuple[int, EngineState]]:
    """Yield the state after each record, with the record's number."""
    state = EngineState()
    for record in story.records:
        for event in record.events:
            state.apply(event)
        yield record.sequence, state


def _moment(story: Story, machine: str, wanted: Enum) -> tuple[int, str]:
    """Return the first record after which something is in the state, and its id."""
    for sequence, state in _prefixes(story):
        if machine == "lifecycle":
            found = [one.kernel_id for one in state.kernels.values() if one.state is wanted]
        else:
            found = [one.operation_id for one in state.operations.values() if one.state is wanted]
        if found:
            return sequence, found[0]
    raise AssertionError(f"the story never comes to {machine} {wanted.value}")


def _cut(story: Story, sequence: int) -> CrashingFiles:
    """Return the files with the journal cut after a record."""
    files = CrashingFiles()
    for path, content in story.files.snapshot().items():
        if path.parent.name == "journal":  # one segment: a header, then a line for each record
            content = b"".join(content.splitlines(keepends=True)[: 1 + sequence])
        files.make_folder(path.parent)
        files.poke(path, content)
    return files


def _accepted(story: Story, kernel_id: str, sequence: int) -> list[int]:
    """Return the values that the kernel had accepted by a record."""
    return [
        int.from_bytes(payload, "little")
        for record in story.records[:sequence]
        for event in record.events
        if isinstance(event, MessagesAccepted) and event.kernel_id == kernel_id
        for payload in event.payloads
    ]


@pytest.mark.parametrize(
    ("machine", "state", "rule"),
    CASES,
    ids=[f"{machine}-{state.value}" for machine, state, _ in CASES],
)
async def test_a_restart_does_what_the_rule_of_the_state_says(
    story: Story, machine: str, state: Enum, rule: RestartRule
) -> None:
    """The kernel is in one place, works on with every message, and the journal says so."""
    sequence, name = _moment(story, machine, state)
    async with engine_on(_cut(story, sequence)) as engine:
        kernels = {status.kernel_id: status for status in engine.kernels()}
        if machine == "lifecycle" and rule is not RestartRule.ROLL_BACK:
            assert kernels[name].state == LIFE_ENDS[state]
            if state is L.STOPPING:
                (stopped,) = await events_of(engine, "kernel.stopped.v1")
                assert stopped.applied_sequence == 1
            return
        status = kernels["busy"]
        assert status.state == "running"
        if machine != "lifecycle":
            (operation,) = [one for one in engine.operations() if one.operation_id == name]
            assert operation.state == ENDS[rule]
        if machine == "migration":
            assert status.device == ("host:1" if rule is RestartRule.COMPLETE else "host:0")
        if machine == "snapshot":
            assert operation.details["checkpoint"] not in _checkpoints(engine)
        assert status.version_id == "adder_v1"
        kernel = engine.kernel("busy")
        values = _accepted(story, "busy", sequence)
        assert (await state_of(kernel))[:3] == expected_state(values)
        await (await kernel.send(Add(77))).done()
        assert (await state_of(kernel))[:3] == expected_state([*values, 77])
        await engine.checkpoint("busy")


def _checkpoints(engine: ringflow.Engine) -> list[str]:
    return [point.checkpoint for point in engine.recovery_points("busy")]


LIFE_ENDS: dict[Enum, str] = {L.LAUNCHING: "failed", L.STOPPING: "stopped", L.HALTED: "halted"}


async def test_every_moment_of_the_story_leaves_kernels_that_work(story: Story) -> None:
    """Also between the states: whatever record was the last one, the folder opens."""
    for sequence in range(1, len(story.records), 7):
        async with engine_on(_cut(story, sequence)) as engine:
            assert not engine.health()["running_operations"]
            assert {status.state for status in engine.kernels()} <= {
                "running",
                "stopped",
                "failed",
                "halted",
            }
            for operation in engine.operations():
                assert operation.state in (*ENDS.values(), "saved", "cancelled")
