"""Projections hold each record exactly once, wherever they were cut off."""

from __future__ import annotations

import anyio
import orjson
import pytest

from ringflow.errors import ConflictError, CorruptError, UsageError
from ringflow.journal.api import Record
from ringflow.journal.projections import FileProjections, projecting
from ringflow.simulate.files import CrashingFiles, Loss
from tests.journal.sample import FOLDER, JOURNAL, Noted, opened, write_durably

pytestmark = pytest.mark.anyio


class Texts:
    """Every text in order; a record that is lost or applied twice shows."""

    name = "texts"

    def __init__(self, version: int = 1) -> None:
        self.version = version
        self.texts: list[str] = []
        self.applied = 0

    def apply(self, record: Record) -> None:
        self.applied += 1
        for event in record.events:
            assert isinstance(event, Noted)
            if event.text == "bad":
                raise ValueError("the program can't read this")
            self.texts.append(event.text)

    def dump(self) -> bytes:
        return orjson.dumps(self.texts)

    def load(self, state: bytes | None) -> None:
        self.texts = [] if state is None else orjson.loads(state)


def numbers(start: int, end: int) -> list[str]:
    return [str(number) for number in range(start, end)]


async def test_it_goes_on_where_it_was_stored() -> None:
    """History, live, the end of the block, and another opening: each text once."""
    files = CrashingFiles()
    store = FileProjections(FOLDER, files=files)
    async with opened(files) as journal:
        await write_durably(journal, numbers(0, 5))
        first = Texts()
        async with projecting(journal, first, store) as running:
            with anyio.fail_after(20):
                await running.until(5)
                await write_durably(journal, numbers(5, 8))
                await running.until(8)
        assert first.texts == numbers(0, 8)
        assert store.positions() == {"texts": 8}
        await write_durably(journal, numbers(8, 10))
    async with opened(files) as journal:
        second = Texts()
        async with projecting(journal, second, store) as running:
            with anyio.fail_after(20):
                await running.until(10)
        assert second.texts == numbers(0, 10)
        assert second.applied == 2


@pytest.mark.parametrize("loss", list(Loss))
async def test_after_a_crash_each_record_is_in_the_state_once(loss: Loss) -> None:
    """Before each step of storing it: what was applied and not stored is applied again."""
    step = 0
    while True:
        files = CrashingFiles()
        crashed = False
        async with opened(files) as journal:
            await write_durably(journal, numbers(0, 7))
            files.crash_before_step(len(files.steps) + step)
            try:
                store = FileProjections(FOLDER, files=files)
                async with projecting(journal, Texts(), store, every_records=3) as running:
                    with anyio.fail_after(20):
                        await running.until(7)
            except OSError:
                crashed = True
        after = files.after_crash(loss)
        async with opened(after) as journal:
            again = Texts()
            store = FileProjections(FOLDER, files=after)
            async with projecting(journal, again, store) as running:
                with anyio.fail_after(20):
                    await running.until(7)
            assert again.texts == numbers(0, 7)
        if not crashed:
            break
        step += 1
    assert step > 8


async def test_what_it_did_not_ask_for_moves_it_on() -> None:
    """Its position passes records of other streams, so that these can be archived."""
    files = CrashingFiles()
    store = FileProjections(FOLDER, files=files)
    async with opened(files) as journal:
        await write_durably(journal, ["mine"], stream="a")
        await write_durably(journal, ["theirs"] * 4, stream="b")
        projection = Texts()
        async with projecting(journal, projection, store, streams="a") as running:
            with anyio.fail_after(20):
                await running.until(1)
                await write_durably(journal, ["more"], stream="a")
                await running.until(6)
        assert projection.texts == ["mine", "more"]
        assert store.positions() == {"texts": 6}


async def test_new_code_is_built_anew() -> None:
    """A stored state of another version is not loaded."""
    files = CrashingFiles()
    store = FileProjections(FOLDER, files=files)
    async with opened(files) as journal:
        await write_durably(journal, numbers(0, 3))
        for version in (1, 2):
            projection = Texts(version)
            async with projecting(journal, projection, store) as running:
                with anyio.fail_after(20):
                    await running.until(3)
            assert (projection.texts, projection.applied) == (numbers(0, 3), 3)


async def test_an_error_of_the_program_ends_it_and_stores_nothing() -> None:
    """It comes out of the block as it is; the journal works on."""
    files = CrashingFiles()
    store = FileProjections(FOLDER, files=files)
    async with opened(files) as journal:
        await write_durably(journal, ["good", "bad"])
        with pytest.raises(ValueError, match="can't read this"):
            async with projecting(journal, Texts(), store):
                await anyio.sleep_forever()
        assert store.positions() == {}
        with pytest.raises(KeyError, match="the block's own"):
            async with projecting(journal, Texts(), store, streams="none"):
                raise KeyError("the block's own")
        await write_durably(journal, ["more"])


async def test_the_state_of_another_journal_is_refused() -> None:
    """A journal put back from an older copy, or another one, never meets a later state."""
    files, other = CrashingFiles(), CrashingFiles()
    store = FileProjections(FOLDER, files=files)
    async with opened(files) as journal:
        await write_durably(journal, numbers(0, 4))
        async with projecting(journal, Texts(), store) as running:
            with anyio.fail_after(20):
                await running.until(4)
    for texts in (["0"], numbers(5, 12)):
        async with opened(other) as journal:
            await write_durably(journal, texts)
            with pytest.raises(ConflictError, match="of another journal"):
                async with projecting(journal, Texts(), store):
                    raise AssertionError("it ran")


async def test_an_idle_run_forgets_nothing() -> None:
    """With nothing new to apply, what is stored still names the last record that it holds."""
    files = CrashingFiles()
    store = FileProjections(FOLDER, files=files)
    async with opened(files) as journal:
        await write_durably(journal, numbers(0, 3))
        stored = []
        for _ in range(2):
            async with projecting(journal, Texts(), store) as running:
                with anyio.fail_after(20):
                    await running.until(3)
            stored.append(store.load("texts"))
        assert stored[0] == stored[1] is not None
        assert stored[1].hash == list(journal.records())[-1].hash


async def test_damage_and_bad_names_are_told() -> None:
    """Every changed byte of the stored state is noticed."""
    files = CrashingFiles()
    store = FileProjections(FOLDER, files=files)
    async with opened(files) as journal:
        await write_durably(journal, numbers(0, 2))
        async with projecting(journal, Texts(), store) as running:
            with anyio.fail_after(20):
                await running.until(2)
    path = JOURNAL.parent / "projections" / "texts.json"
    whole = files.read(path)
    for index in range(len(whole) - 1):
        files.poke(path, whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with pytest.raises(CorruptError, match="delete it, it is then built anew"):
            store.load("texts")
    with pytest.raises(UsageError, match="can't name a projection"):
        store.load("../texts")
