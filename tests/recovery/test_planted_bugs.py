"""Bugs that are planted on purpose: the soak's checks find each of them, by name.

One crash of a file-system double and one restart, in one process, through the soak's own consumers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

import ringflow
from ringflow.device.posting import Posting
from ringflow.engine import checkpoints, restoring
from ringflow.engine.inbox import Inbox
from ringflow.engine.outputs import Outputs
from ringflow.events.registry import default_codec
from ringflow.journal.lanes import Lanes
from ringflow.journal.reader import read_records
from ringflow.simulate.files import CrashingFiles
from tests.recovery.soak import kernel as k
from tests.recovery.soak import worker
from tests.recovery.soak.checks import EXACT, evidence, problems
from tests.recovery.soak.witness import MemoryEffects, MemoryLog

pytestmark = pytest.mark.anyio

FOLDER: Final = Path("/engine")
DEVICES: Final = ("host:0", "host:1")


async def two_lives(*, before_crash: Callable[[CrashingFiles], None] = lambda files: None) -> Any:
    """Work, crash, come back and read everything; return what the checks say."""
    files, log, effects = CrashingFiles(), MemoryLog(), MemoryEffects()
    async with ringflow.open_engine(FOLDER, devices=DEVICES, files=files) as engine:
        kernel = await worker.find_kernel(engine, log)
        await worker.note_opened(engine, kernel, log)
        async with anyio.create_task_group() as tasks:
            async with kernel.replies(consumer=EXACT):
                pass  # it reads nothing before the crash
            tasks.start_soon(worker.consume_lazily, kernel, log)
            await send(kernel, log, count=50)
            await engine.checkpoint(kernel.id)
            before_crash(files)
            await send(kernel, log, count=10)  # too few outputs for one more acknowledgement
            tasks.cancel_scope.cancel()
        after = files.after_crash()
        files.crash_before_step(0)
    log.life = 2
    async with ringflow.open_engine(FOLDER, devices=DEVICES, files=after) as engine:
        kernel = await worker.find_kernel(engine, log)
        await worker.note_opened(engine, kernel, log)
        with anyio.move_on_after(60):  # what is lost for good would be waited for
            await worker.settle(engine, kernel, effects, log)
    codec = default_codec()
    records = [record.decoded(codec) for record in read_records(FOLDER, files=after)]
    return problems(evidence(records, log.notes, effects.stored))


async def send(kernel: ringflow.KernelHandle, log: MemoryLog, *, count: int) -> None:
    """Send from two producers at once, so that batches hold more than one message."""

    async def produce(producer: str) -> None:
        number = kernel.last_number(producer)
        for one in range(number + 1, number + count + 1):
            fold = k.Fold(k.value_of(producer, one))
            receipt = await kernel.send(fold, producer=producer, number=one)
            log.note("acknowledged", producer=producer, number=one, sequence=receipt.sequence)
        await receipt.done()

    async with anyio.create_task_group() as tasks:
        for producer in k.PRODUCERS[::2]:
            tasks.start_soon(produce, producer)


async def test_without_a_planted_bug_nothing_is_found() -> None:
    """The scenario is sound, so what is found below comes from what was planted."""
    assert await two_lives() == []


async def test_a_skipped_fsync_is_found() -> None:
    """Acknowledged messages are gone."""

    def lie(files: CrashingFiles) -> None:
        files.lies = True

    assert "acknowledged_messages_are_there" in names(await two_lives(before_crash=lie))


async def test_a_lost_outbox_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies from before the checkpoint never come."""
    monkeypatch.setattr(checkpoints, "encode_outbox", lambda outputs: b"")
    found = names(await two_lives())
    assert {"nothing_is_missed_after_a_restart", "effects_come_exactly_once"} <= found


async def test_messages_out_of_order_on_the_way_to_the_kernel_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two neighbours of one batch change places: another state, other replies."""
    straight = Inbox.next_parked

    def swapped(inbox: Inbox, count: int, *, through: int) -> list[Posting]:
        batch = straight(inbox, count, through=through)
        if len(batch) > 3:
            one, other = batch[1:3]
            swap = Posting(one.sequence, other.type, other.payload)
            batch[1:3] = swap, Posting(other.sequence, one.type, one.payload)
        return batch

    monkeypatch.setattr(Inbox, "next_parked", swapped)
    found = names(await two_lives())
    assert {"states_are_those_without_crashes", "outputs_are_equal_under_their_identity"} <= found


async def test_a_reordered_batch_of_the_journal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal itself refuses to be read: its streams' versions have a gap."""
    straight = Lanes._take
    monkeypatch.setattr(Lanes, "_take", lambda lanes, size: straight(lanes, size)[::-1])
    with pytest.raises(ringflow.CorruptJournalError, match="version"):
        await two_lives()


async def test_messages_applied_twice_after_a_restart_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A recovery point that is taken for one message older than it is."""
    straight = restoring.Rebuilt

    def older(instance: Any, checkpoint: Any, applied_sequence: int) -> restoring.Rebuilt:
        return straight(instance, checkpoint, max(0, applied_sequence - 1))

    monkeypatch.setattr(restoring, "Rebuilt", older)
    with pytest.raises(AssertionError, match="came again with other bytes"):
        await two_lives()


async def test_outputs_that_come_twice_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A position that is forgotten gives acknowledged outputs again."""

    def older(outputs: Outputs, outbox: Any, *, positions: Any, **rest: Any) -> None:
        straight(outputs, outbox, positions=dict.fromkeys(positions, (0, 0)), **rest)

    straight = Outputs.recover
    monkeypatch.setattr(Outputs, "recover", older)
    assert "nothing_is_missed_after_a_restart" in names(await two_lives())


def names(found: list[str]) -> set[str]:
    """Return which checks found something."""
    return {one.split(":")[0] for one in found}
