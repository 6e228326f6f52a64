"""The replay check of a journal whose oldest part was archived: it begins with the base record."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

import ringflow
from ringflow.engine.folding import Fold
from ringflow.engine.replay import replay_records
from ringflow.engine.rerun import rerun_kernel
from ringflow.events.registry import default_codec
from ringflow.journal.reader import read_history, read_records
from ringflow.simulate.files import CrashingFiles
from tests.engine.kernels import adder
from tests.engine.story import send_all
from tests.recovery.test_replay import live, two_lives

FOLDER = Path("/engine")
DEVICES = ["host:0", "host:1"]


@pytest.mark.anyio
async def test_an_archived_journal_is_replayed_from_its_base_record() -> None:
    """It begins there and says so; a changed decision behind it is still found."""
    files = CrashingFiles()
    limits = ringflow.JournalLimits(segment_bytes=2048)
    async with ringflow.open_engine(
        FOLDER, devices=DEVICES, files=files, journal_limits=limits
    ) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, [1, 2, 3])
        await engine.migrate("adder", to="host:1")
        for _ in range(4):
            await send_all(kernel, [4, 5])
            await engine.checkpoint("adder")
        done = await engine.archive(delete=True, actor="ops", reason="test")
        assert done.last_sequence > 10
        await engine.migrate("adder", to="host:0")
        await send_all(kernel, [6])
    base, raw = read_history(FOLDER, files=files)
    codec = default_codec()
    records = [record.decoded(codec) for record in raw]
    report = replay_records(records, base)
    assert report.difference is None
    assert report.begun_at == done.last_sequence == records[0].sequence - 1
    assert report.records == len(records)
    assert report.decisions > 5
    (index,) = (
        index
        for index, record in enumerate(records)
        if any(event.wire_name == "migration.rerouted.v1" for event in record.events)
    )
    records[index] = records[index]._replace(events=records[index].events[:-1])
    found = replay_records(records, base).difference
    assert found is not None
    assert found.sequence == records[index].sequence
    rerun = await rerun_kernel(FOLDER, "adder", files=files)
    assert rerun.equal
    assert [span for span in rerun.spans if span.messages and not span.skipped]


def test_the_restart_of_an_operation_from_before_the_base_is_checked() -> None:
    """Which epoch wrote its last record is unknown only where that is the base's own."""
    files = CrashingFiles()
    anyio.run(live, files)
    after = anyio.run(two_lives, files)
    codec = default_codec()
    raw = list(read_records(FOLDER, files=after))
    for cut in range(1, len(raw)):
        fold = Fold(codec)
        for record in raw[:cut]:
            fold.take(record)
        records = (record.decoded(codec) for record in raw[cut:])
        assert replay_records(records, fold.foundation()).difference is None, cut
