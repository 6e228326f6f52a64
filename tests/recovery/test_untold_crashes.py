"""What a crash cost a kernel is told when that kernel comes back, however late that is.

An opening that can't start it, or may not, knows no more of it than the crash left behind; that
such an opening is closed in order says nothing of the kernel.
"""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

import ringflow
from ringflow.engine.archiving import archive_folder
from ringflow.engine.folding import Fold as StateFold
from ringflow.engine.state_snapshots import StateSnapshots, take_snapshot
from ringflow.events.engine import EngineOpened
from ringflow.events.registry import default_codec
from ringflow.files import OpenFile
from ringflow.journal.opening import open_journal
from ringflow.journal.reader import verify
from ringflow.simulate.files import CrashingFiles
from ringflow.storage import ObjectStore
from ringflow.workers import in_thread
from tests.engine.arrays import Fold, arrays
from tests.engine.kernels import Trap, adder, expected_state
from tests.engine.story import send_all
from tests.engine.test_routes import folded, pair, sent, state_of
from tests.recovery.crashes import FOLDER, crash, engine_on, events_of
from tests.recovery.test_durability_modes import apply
from tests.recovery.test_halted_kernels import ONCE, halt, until_halted

pytestmark = pytest.mark.anyio

CHECKPOINTS: Final = FOLDER / "checkpoints"


def taken_away(files: CrashingFiles, kernel_id: str) -> dict[Path, bytes]:
    """Delete a kernel's checkpoints; return them."""
    found = {
        path: data
        for path, data in files.snapshot().items()
        if path.parent == CHECKPOINTS and path.name.startswith(f"{kernel_id}@")
    }
    assert found
    for path in found:
        files.delete(path)
    return found


async def stranded_by_files(files: CrashingFiles, kernel_id: str) -> None:
    """Open and close in order without the kernel's checkpoints."""
    away = taken_away(files, kernel_id)
    async with engine_on(files) as engine:
        assert "no usable recovery point" in engine.health()["halted"][kernel_id]
    for path, data in away.items():
        files.poke(path, data)


async def stranded_by_devices(files: CrashingFiles, kernel_id: str) -> None:
    """Open and close in order without any device."""
    async with engine_on(files, ()) as engine:
        assert "no device left" in engine.health()["halted"][kernel_id]


STRANDED: Final = {"files": stranded_by_files, "devices": stranded_by_devices}


@pytest.mark.parametrize("durability", ["async", "volatile"])
@pytest.mark.parametrize("way", STRANDED)
async def test_a_kernel_that_was_stranded_tells_what_the_crash_cost(
    way: str, durability: str
) -> None:
    """At the opening that starts it, once; the orderly ends before that one were not its own."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(adder(durability=durability), device="host:0")
        await apply(kernel, [1, 2])
        await engine.checkpoint("adder")
        await apply(kernel, [3])
        await events_of(engine, "messages.accepted.v1")
        files = crash(files)
    for _ in range(2):
        await STRANDED[way](files, "adder")
    async with engine_on(files) as engine:
        (lost,) = await events_of(engine, "messages.lost.v1")
        first = 3 if durability == "volatile" else 4
        assert (lost.first_sequence, lost.last_sequence) == (first, 0)
    async with engine_on(files) as engine:
        assert len(await events_of(engine, "messages.lost.v1")) == 1


@pytest.mark.parametrize("durability", ["async", "volatile"])
@pytest.mark.parametrize("ends", ["in order", "in a crash"])
async def test_a_kernel_that_was_halted_tells_what_the_crash_cost(
    ends: str, durability: str
) -> None:
    """When a person brings it back, whatever engines ended before that."""
    files = CrashingFiles()
    async with engine_on(files, limits=ONCE) as engine:
        kernel = await engine.launch(adder(durability=durability), device="host:0")
        await apply(kernel, [1, 2])
        await engine.checkpoint("adder")
        await halt(kernel)
        await events_of(engine, "kernel.halted.v1")
        files = crash(files)
    async with engine_on(files) as engine:
        assert await events_of(engine, "messages.lost.v1") == []
        if ends == "in a crash":
            files = crash(files)
    async with engine_on(files) as engine:
        assert await events_of(engine, "messages.lost.v1") == []
        await engine.resume("adder", "skip")
        (lost,) = await events_of(engine, "messages.lost.v1")
        assert lost.last_sequence == 0
        assert (await state_of(engine.kernel("adder")))[1] in (3, 1003)
    async with engine_on(files) as engine:
        assert len(await events_of(engine, "messages.lost.v1")) == 1


@pytest.mark.parametrize("durability", ["async", "volatile"])
@pytest.mark.parametrize("ran", [False, True])
async def test_a_crash_costs_a_kernel_nothing_that_was_halted_all_along(
    ran: bool, durability: str
) -> None:
    """It ran in no engine that crashed; one that a person had brought back before did."""
    files = CrashingFiles()
    async with engine_on(files, limits=ONCE) as engine:
        kernel = await engine.launch(adder(durability=durability), device="host:0")
        await apply(kernel, [1, 2])
        await engine.checkpoint("adder")
        await halt(kernel)
    async with engine_on(files) as engine:
        told = len(await events_of(engine, "messages.lost.v1"))
        if ran:
            await engine.resume("adder", "skip")
        files = crash(files)
    async with engine_on(files) as engine:
        if not ran:
            await engine.resume("adder", "skip")
        assert len(await events_of(engine, "messages.lost.v1")) == told + ran
        assert (await state_of(engine.kernel("adder")))[2] >= 2


async def test_what_two_crashes_cost_a_stranded_kernel_is_told_once() -> None:
    """The second one found it where the first had left it; a third, after it ran, is told again."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        await send_all(await engine.launch(adder(durability="volatile"), device="host:0"), [1])
        files = crash(files)
    taken_away(files, "adder")
    async with engine_on(files) as engine:
        assert "adder" in engine.health()["halted"]
        files = crash(files)  # the checkpoints are there again: nothing had synced their end
    await stranded_by_files(files, "adder")
    for count in (1, 2):
        async with engine_on(files) as engine:
            assert len(await events_of(engine, "messages.lost.v1")) == count
            files = crash(files)


@pytest.mark.parametrize("kept_by", ["a base record", "a snapshot"])
async def test_what_stands_for_the_journal_keeps_what_is_untold(kept_by: str) -> None:
    """The orderly end of the opening that could not start the kernel is in what is folded anew."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        await send_all(await engine.launch(adder(durability="volatile"), device="host:0"), [1])
        files = crash(files)
    await stranded_by_files(files, "adder")
    last = verify(FOLDER, files=files).last_sequence
    if kept_by == "a base record":
        await archive_folder(FOLDER, target=None, delete=True, files=files)
    else:
        async with open_journal(FOLDER, files=files) as journal:
            take_snapshot(journal, StateSnapshots(files, FOLDER), default_codec())
    fold = StateFold(default_codec(), StateSnapshots(files, FOLDER).load())
    async with open_journal(FOLDER, files=files, replay=fold):
        assert fold.begun_at == last
        assert fold.state.closed
    async with engine_on(files) as engine:
        assert len(await events_of(engine, "messages.lost.v1")) == 1


async def test_a_start_that_fails_after_it_told_does_not_tell_again() -> None:
    """The data of a message is missing: it is put back, and the kernel goes on from there."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        kernel = await engine.launch(arrays(durability="async"), device="host:0")
        await (await kernel.send(Fold(7), data=b"data" * 1000)).durable()
        files = crash(files)
    objects = ObjectStore(FOLDER / "objects", files=files)
    digest = objects.put(b"data" * 1000)
    files.delete(FOLDER / "objects" / digest)
    async with engine_on(files) as engine:
        assert digest in engine.health()["halted"]["arrays"]
        assert len(await events_of(engine, "messages.lost.v1")) == 1
    objects.put(b"data" * 1000)
    async with engine_on(files) as engine:
        assert engine.health()["ok"]
        assert len(await events_of(engine, "messages.lost.v1")) == 1


async def test_a_kernel_that_came_back_beside_a_stranded_one_tells_nothing_more() -> None:
    """Each kernel's end is its own: only the one that was left out has something to tell."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        for name in ("late", "soon"):
            kernel = await engine.launch(adder(name, durability="volatile"), device="host:0")
            await send_all(kernel, [1])
        files = crash(files)
    await stranded_by_files(files, "late")
    async with engine_on(files) as engine:
        lost = await events_of(engine, "messages.lost.v1")
        assert [event.kernel_id for event in lost] == ["soon", "late"]


@pytest.mark.parametrize("way", STRANDED)
async def test_a_stranded_source_sends_a_volatile_target_nothing_twice(way: str) -> None:
    """What the target may have taken before the crash is not sent again."""
    files = CrashingFiles()
    async with engine_on(files) as engine:
        a, b = await pair(engine, durability="volatile")
        await send_all(a, range(10))
        assert (await folded(a, b))[2] == 10
        await engine.checkpoint("b")
        await send_all(a, range(10, 15))
        assert (await folded(a, b))[2] == 15
        files = crash(files)
    await STRANDED[way](files, "a")
    async with engine_on(files) as engine:
        a, b = engine.kernel("a"), engine.kernel("b")
        assert await folded(a, b) == expected_state(sent(list(range(10))))
        await send_all(a, [50, 51])
    async with engine_on(files) as engine:
        a, b = engine.kernel("a"), engine.kernel("b")
        await send_all(a, [52])
        assert await folded(a, b) == expected_state(sent([*range(10), 50, 51, 52]))


async def test_a_halted_source_sends_a_volatile_target_nothing_twice() -> None:
    """Neither of what it had sent before it was halted and the engine crashed."""
    files = CrashingFiles()
    async with engine_on(files, limits=ONCE) as engine:
        a, b = await pair(engine, durability="volatile")
        await send_all(a, range(10))
        assert (await folded(a, b))[2] == 10
        await engine.checkpoint("b")
        await a.send(Trap())
        await until_halted(engine)
        await events_of(engine, "kernel.halted.v1")
        files = crash(files)
    async with engine_on(files):
        pass
    async with engine_on(files) as engine:
        await engine.resume("a", "skip")
        a, b = engine.kernel("a"), engine.kernel("b")
        await send_all(a, [50])
        assert await folded(a, b) == expected_state(sent([*range(10), 50]))


class SlowFiles(CrashingFiles):
    """A double on which the sync of an opening lasts until ``let_go``."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.let_go = threading.Event(), threading.Event()
        self.let_go.set()

    def create(self, path: Path) -> OpenFile:  # type: ignore[override]
        return _Slow(super().create(path), self)


class _Slow:
    def __init__(self, file: OpenFile, files: SlowFiles) -> None:
        self._file, self._files, self._opens = file, files, False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._opens = EngineOpened.wire_name.encode() in bytes(data)
        self._file.write(data)

    def datasync(self) -> None:
        if self._opens:
            self._files.reached.set()
            assert self._files.let_go.wait(60)
        self._file.datasync()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


async def test_no_kernel_works_before_the_opening_is_durable(folder: Path) -> None:
    """A crash would not be known for one otherwise: what came before it was closed in order."""
    files, opened, done = SlowFiles(), anyio.Event(), anyio.Event()
    async with engine_on(files) as engine:
        await engine.launch(adder(durability="volatile"), device="host:0")
    files.let_go.clear()
    files.reached.clear()

    async def work() -> None:
        async with engine_on(files):
            opened.set()
            await done.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        try:
            assert await in_thread(partial(files.reached.wait, 60))
            for _ in range(2):  # as much as the opening has yet to do, and more
                async with ringflow.open_engine(folder, devices=["host:0"]) as other:
                    if not other.kernels():
                        await other.launch(adder(), device="host:0")
                    await state_of(other.kernel("adder"))
            assert not opened.is_set()
        finally:
            files.let_go.set()
            done.set()
    assert opened.is_set()
