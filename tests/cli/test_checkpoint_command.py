"""``ringflow checkpoint``: on the folder of an engine that really worked, and on bad files."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import orjson
import pytest

import ringflow
from ringflow.cli.checkpoint_files import read_known
from ringflow.cli.checkpoint_text import when
from ringflow.cli.comparing import chunk_differences
from ringflow.engine.archiving import archive_folder
from ringflow.journal import reader
from ringflow.journal.opening import open_journal
from ringflow.journal.scan import Scan
from ringflow.storage import Checkpoint, CheckpointBuilder
from ringflow.storage.blocks import BLOCK_BYTES
from tests.cli.program import program
from tests.engine.kernels import Add, adder
from tests.engine.story import send_all
from tests.journal import history

Capture = pytest.CaptureFixture[str]


async def _work(folder: Path) -> None:
    async with ringflow.open_engine(folder) as engine:
        kernel = await engine.launch(adder())
        for name in ("before", "after"):
            await send_all(kernel, range(9))
            await (await kernel.send(Add(9))).done()  # a checkpoint holds what is done by then
            await engine.checkpoint("adder", name=name)
        await engine.retire_checkpoint("adder", "before", actor="ops", reason="space")
        await engine.launch(adder("second"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "engine"
    anyio.run(_work, path)
    return path


@pytest.fixture
def engine(made: Path, tmp_path: Path) -> Path:
    """A copy of the engine's folder that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "engine"))


def save(path: Path, builder: CheckpointBuilder) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(builder.build().to_bytes())
    return path


def builder(**regions: Any) -> CheckpointBuilder:
    made = CheckpointBuilder("k", "t").step(7)
    for name, array in regions.items():
        made.device_memory(name, array, dtype=str(array.dtype), shape=array.shape)
    return made


def rows(text: str) -> dict[str, dict[str, Any]]:
    return {row["checkpoint"]: row for row in map(orjson.loads, text.splitlines())}


# list


def test_the_list_has_recovery_points_by_kernel(engine: Path, capsys: Capture) -> None:
    """The retired one is counted, and with --all told with when and why; so is an orphan."""
    code, out, _ = program(capsys, "checkpoint", "list", engine)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "kernel adder"
    (after,) = [line.split() for line in lines if "adder@after" in line]
    assert after[1:4] == ["recovery", "point", "20"]
    assert after[-1] == "pinned"
    assert "kernel second" in lines
    assert "adder@before" not in out
    assert lines[-1] == "1 more were retired or given up; --all lists them"

    shutil.copy(
        engine / "checkpoints" / "adder@after.rkcp", engine / "checkpoints" / "adder@left.rkcp"
    )
    _, out, _ = program(capsys, "checkpoint", "list", engine / "journal", "--all", "--json")
    found = rows(out)
    assert (found["adder@before"]["state"], found["adder@before"]["size_bytes"]) == (
        "retired",
        None,
    )
    assert found["adder@before"]["ended_why"] == "space"
    assert int(found["adder@before"]["ended_at_ns"]) > int(found["adder@before"]["at_ns"]) > 0
    assert found["adder@left"]["state"] == "orphan"
    assert found["adder@left"]["applied_sequence"] == 20
    size = (engine / "checkpoints" / "adder@after.rkcp").stat().st_size
    assert found["adder@after"]["size_bytes"] == found["adder@left"]["size_bytes"] == size
    assert found["adder@after"]["version"] == "adder_v1"


def test_the_list_says_what_is_missing_or_unreadable(engine: Path, capsys: Capture) -> None:
    (engine / "checkpoints" / "adder@after.rkcp").unlink()
    (engine / "checkpoints" / "adder@junk.rkcp").write_bytes(b"junk")
    code, out, _ = program(capsys, "checkpoint", "list", engine)
    assert code == 0
    (after,) = [line for line in out.splitlines() if "adder@after" in line]
    assert "missing" in after
    (junk,) = [line for line in out.splitlines() if "adder@junk" in line]
    assert "its header takes 64" in junk


def test_an_archived_journal_still_names_its_recovery_points(
    tmp_path: Path, capsys: Capture
) -> None:
    """What only the base record knows has no time of an event, and takes that of its file."""
    from tests.cli.test_archive_command import _write

    anyio.run(_write, tmp_path / "engine")
    _, out, _ = program(capsys, "checkpoint", "list", tmp_path / "engine", "--json")
    before = rows(out)
    code, _, _ = program(
        capsys, "journal", "archive", tmp_path / "engine", "--apply", "--delete", "--reason", "r"
    )
    assert code == 0
    _, out, _ = program(capsys, "checkpoint", "list", tmp_path / "engine", "--json")
    assert rows(out).keys() == before.keys() == {"k-15"}


def test_an_archive_meanwhile_hides_no_recovery_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the journal begins with and what follows are of one look at it."""

    async def written() -> None:
        async with open_journal(tmp_path, limits=history.LIMITS) as journal:
            await history.write(journal, history.launched("k"))
            await history.write(journal, history.messages("k", 1, 20))
            await history.write(journal, [("kernel/k", [history.point("k", 21)])])
            await history.write(journal, [("kernel/k", [history.retired("k", 1)])])
            await history.write(journal, history.messages("k", 21, 40))

    async def archive() -> None:
        plan = await archive_folder(tmp_path, target=None, delete=True, reason="r")
        assert plan.last_sequence == 24  # the point is in what goes

    def archived_before(*given: Any, **options: Any) -> Scan:
        patch.undo()
        anyio.run(archive)
        return Scan(*given, **options)

    anyio.run(written)
    with monkeypatch.context() as patch:
        patch.setattr(reader, "Scan", archived_before)
        assert read_known(tmp_path).live().keys() == {"k-21"}


def test_a_folder_without_a_journal_is_listed_as_files(tmp_path: Path, capsys: Capture) -> None:
    """Numbers sort as numbers; a folder with nothing in it is an error."""
    for name in ("step_1000", "step_900"):
        save(tmp_path / "own" / f"{name}.rkcp", builder(a=np.arange(3)))
    code, out, _ = program(capsys, "checkpoint", "list", tmp_path / "own", "--json")
    assert code == 0
    assert [(name, row["state"]) for name, row in rows(out).items()] == [
        ("step_900", "file"),
        ("step_1000", "file"),
    ]
    code, _, err = program(capsys, "checkpoint", "list", tmp_path)
    assert code == 2
    assert "no checkpoints and no journal" in err


# show


def test_show_tells_everything(engine: Path, capsys: Capture) -> None:
    """By folder and name, by FOLDER/NAME, by file: the same text, and the same as JSON."""
    file = engine / "checkpoints" / "adder@after.rkcp"
    code, out, _ = program(capsys, "checkpoint", "show", engine, "after")
    assert code == 0
    for other in ([engine / "after"], [engine / "adder@after"], [file]):
        assert program(capsys, "checkpoint", "show", *other)[1] == out
    checkpoint = Checkpoint.from_bytes(file.read_bytes())
    assert checkpoint.identity() in out
    assert "applied   20" in out
    assert "replay mode exact, from message 21, epoch 1" in out
    assert "outbox    empty" in out
    cells = checkpoint.get_device_memory("cells")
    assert cells is not None
    (line,) = [line for line in out.splitlines() if line.startswith("cells")]
    assert line.split() == ["cells", "float32[4096]", "16.0KiB", "1", "blocks", cells.digest]
    _, out, _ = program(capsys, "checkpoint", "show", file, "--json")
    plain = orjson.loads(out)
    assert plain["recovery"]["replay_from"] == 21
    assert [one["name"] for one in plain["chunks"]] == ["", "state", "cells"]


def test_who_names_no_checkpoint_is_told_which_there_are(engine: Path, capsys: Capture) -> None:
    code, _, err = program(capsys, "checkpoint", "show", engine)
    assert (code, "name one of its checkpoints: adder@after" in err) == (2, True)
    code, _, err = program(capsys, "checkpoint", "show", engine, "nothing")
    assert (code, "no checkpoint 'nothing'" in err) == (2, True)
    code, _, err = program(capsys, "checkpoint", "show", engine / "no" / "such")
    assert (code, "no file" in err) == (2, True)
    for kernel in ("a", "b"):
        save(engine / "checkpoints" / f"{kernel}@twice.rkcp", builder())
    code, _, err = program(capsys, "checkpoint", "show", engine, "twice")
    assert (code, "several kernels have" in err) == (2, True)


def test_names_cannot_steer_the_terminal(tmp_path: Path, capsys: Capture) -> None:
    """Escape sequences in a file's texts are shown, not obeyed; times beyond any calendar too."""
    evil = "a\x1b[2Jb\rc"
    made = CheckpointBuilder(evil, evil).custom(evil, evil * 100).created_at(2**64 - 1)
    made.device_memory(evil, b"123")
    file = save(tmp_path / "x.rkcp", made)
    save(tmp_path / "y.rkcp", CheckpointBuilder("k", "t"))
    for command in (["show", file], ["list", tmp_path], ["diff", file, tmp_path / "y"]):
        _, out, err = program(capsys, "checkpoint", *command)
        assert "a\\x1b[2Jb\\rc" in out
        assert "\x1b" not in out + err
        assert "\r" not in out + err
    assert program(capsys, "checkpoint", "list", tmp_path, "--json")[0] == 0
    assert when((2**64 - 1) * 1000).endswith(" ns")
    _, _, err = program(capsys, "checkpoint", "extract", file, "none", "-o", tmp_path / "x.npy")
    assert "\x1b" not in err


# verify


def test_verify_of_a_whole_folder(engine: Path, capsys: Capture) -> None:
    code, out, _ = program(capsys, "checkpoint", "verify", engine)
    assert code == 0
    assert "whole: recovery point adder@after, 2 regions" in out
    assert out.splitlines()[-1].endswith("checkpoints, 0 not as they should be")


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["flipped", "missing", "replaced", "spec", "code"])
def test_verify_names_what_differs(engine: Path, capsys: Capture, how: str) -> None:
    """Damage, a missing file, a whole file that is another one, what it is rebuilt with."""
    file = engine / "checkpoints" / "adder@after.rkcp"
    _, out, _ = program(
        capsys, "journal", "show", engine, "--json", "--type", "kernel.recovery_point.v1"
    )
    events = [one for line in out.splitlines() for one in orjson.loads(line)["events"]]
    (event,) = [one for one in events if "identity" in one and one["checkpoint"] == "adder@after"]
    if how == "flipped":
        _flip(file, -5)
        wanted = "CRC-32"
    elif how == "missing":
        file.unlink()
        wanted = "no file"
    elif how == "replaced":
        save(file, builder(state=np.arange(4)))
        wanted = f"the journal says '{event['identity']}'; its kernel is 'k'"
    else:
        _flip(engine / "objects" / event[f"{how}_digest"], 0)
        wanted = f"its {how}, object {event[f'{how}_digest']}, is damaged"
    code, out, _ = program(capsys, "checkpoint", "verify", engine)
    assert code == 1
    (line,) = [
        one for one in out.splitlines() if one.startswith("differs: recovery point adder@after")
    ]
    assert wanted in line
    if how != "missing":
        code, alone, _ = program(capsys, "checkpoint", "verify", engine, "after")
        assert (code, alone) == (1, line + "\n")
        code, out, _ = program(capsys, "checkpoint", "verify", engine / "after", "--json")
        assert (code, orjson.loads(out)["whole"]) == (1, False)
    by_itself = program(capsys, "checkpoint", "verify", file)[0]
    assert by_itself == {"flipped": 1, "missing": 2}.get(how, 0)


def test_a_damaged_orphan_is_reported_and_no_error(engine: Path, capsys: Capture) -> None:
    (engine / "checkpoints" / "adder@junk.rkcp").write_bytes(b"junk")
    code, out, _ = program(capsys, "checkpoint", "verify", engine)
    assert code == 0
    assert "differs: orphan adder@junk: checkpoint has 4 bytes" in out


# diff


def test_diff_finds_each_kind_of_difference(tmp_path: Path, capsys: Capture) -> None:
    """Facts, an added and a removed region, another layout, blocks, and the first element."""
    grid = np.zeros((300, 400), np.float32)
    other = grid.copy()
    other[211, 37], other[299, 399] = 1.5, -2.0
    a = save(tmp_path / "a.rkcp", builder(grid=grid, old=np.arange(3), cut=np.arange(9)))
    b = save(
        tmp_path / "b.rkcp",
        builder(grid=other, new=np.arange(2, dtype=np.int8), cut=np.arange(8)).step(8),
    )
    code, out, _ = program(capsys, "checkpoint", "diff", a, b)
    assert code == 1
    lines = out.splitlines()
    at = (211 * 400 + 37) * 4 + 2
    assert lines[:-1] == [
        "current_step: 7 | 8",
        f"region grid: 2 of 8 blocks differ; first at element [211, 37], byte {at}: 0.0 | 1.5",
        "region old: removed, int64[3]",
        "region cut: int64[9] | int64[8]; 1 of 1 blocks differ; first at the end, byte 64: "
        "goes on | ends",
        "region new: added, int8[2]",
    ]
    _, out, _ = program(capsys, "checkpoint", "diff", a, b, "--json")
    plain = orjson.loads(out)
    assert plain["same"] is False
    assert plain["chunks"][0]["first"]["index"] == [211, 37]
    code, out, _ = program(capsys, "checkpoint", "diff", a, a)
    assert code == 0
    assert out.startswith("the same: identity ")


def test_bytes_decide_and_not_numbers() -> None:
    """Zeros of both signs differ and are shown as they are; one NaN equals itself."""
    left = builder(a=np.array([np.nan, 0.0]), s=np.array(3.0)).build()
    right = builder(a=np.array([np.nan, -0.0]), s=np.array(4.0)).build()
    found = {one.label: one.first for one in chunk_differences(left, right)}
    assert found["a"] is not None
    assert (found["a"].index, found["a"].left, found["a"].right) == ((1,), "0.0", "-0.0")
    assert found["s"] is not None
    assert found["s"].index == ()
    signal = np.array([0x7FF8000000000001]).view(np.float64)
    quiet = np.array([0x7FF8000000000002]).view(np.float64)
    (one,) = chunk_differences(builder(a=signal).build(), builder(a=quiet).build())
    assert one.first is not None
    assert (one.first.left, one.first.right) == ("0x010000000000f87f", "0x020000000000f87f")


def test_the_first_difference_is_the_first_one() -> None:
    """Against numpy, with differences at random places in several blocks."""
    rng = np.random.default_rng(5)
    for _ in range(30):
        a = rng.integers(0, 9, (7, 11, 3 * BLOCK_BYTES // 77 // 2)).astype(np.int16)
        b = a.copy()
        for index in rng.integers(0, a.size, rng.integers(1, 4)):
            b.flat[index] += 256
        (found,) = chunk_differences(builder(a=a).build(), builder(a=b).build())
        assert found.first is not None
        assert found.first.index == tuple(int(axis[0]) for axis in np.nonzero(a != b))
        pad = [np.pad(one.view(np.uint8).ravel(), (0, -a.nbytes % BLOCK_BYTES)) for one in (a, b)]
        differ = (pad[0] != pad[1]).reshape(-1, BLOCK_BYTES).any(axis=1)
        assert (found.differing_blocks, found.blocks) == (int(differ.sum()), len(differ))


# extract


def test_extract_gives_the_array(engine: Path, tmp_path: Path, capsys: Capture) -> None:
    """With dtype and shape, as numpy loads it; a name that is none is answered with the list."""
    target = tmp_path / "cells"  # nothing is added to the name
    code, out, _ = program(capsys, "checkpoint", "extract", engine / "after", "cells", "-o", target)
    assert code == 0
    assert "float32[4096]" in out
    file = engine / "checkpoints" / "adder@after.rkcp"
    chunk = Checkpoint.from_bytes(file.read_bytes()).get_device_memory("cells")
    assert chunk is not None
    loaded = np.load(target, allow_pickle=False)
    assert (loaded.dtype, loaded.shape) == (np.float32, (4096,))
    assert loaded.tobytes() == bytes(chunk.data)
    code, _, err = program(capsys, "checkpoint", "extract", file, "none", "-o", target)
    assert (code, "there are: state, cells" in err) == (2, True)
    code, _, err = program(capsys, "checkpoint", "extract", file, "cells", "-o", tmp_path)
    assert (code, "is a folder" in err) == (2, True)
    raw = save(tmp_path / "raw.rkcp", CheckpointBuilder("k", "t").device_memory("a", b"\1\2\3"))
    empty = save(tmp_path / "empty.rkcp", builder(a=np.zeros((4, 0, 3))))
    for path, shape in ((raw, (3,)), (empty, (4, 0, 3))):
        assert program(capsys, "checkpoint", "extract", path, "a", "-o", target)[0] == 0
        assert np.load(target).shape == shape


# Files that nobody vouches for


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, capsys: Capture) -> None:
    """A pipe that nobody writes to, an endless device, a sparse file of a terabyte."""
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / "sparse"):
        code, _, err = program(capsys, "checkpoint", "show", path)
        assert code == 1
        assert "no regular file" in err or "over the limit" in err


def test_a_large_file_of_junk_is_refused_by_its_header(tmp_path: Path, capsys: Capture) -> None:
    """It is not read into memory first."""
    import tracemalloc

    with (tmp_path / "junk.rkcp").open("wb") as file:
        file.truncate(1 << 30)
    tracemalloc.start()
    try:
        code, out, _ = program(capsys, "checkpoint", "verify", tmp_path / "junk.rkcp")
        listed, _, _ = program(capsys, "checkpoint", "list", tmp_path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (code, "this is no checkpoint file" in out, listed) == (1, True, 0)
    assert peak_bytes < 64 << 20


def test_no_damage_ends_in_a_traceback(engine: Path, tmp_path: Path, capsys: Capture) -> None:
    """Random bytes with a CRC that fits: each command ends with 0 or 1 and a sentence."""
    import zlib

    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    good = (engine / "checkpoints" / "adder@after.rkcp").read_bytes()
    file, whole = tmp_path / "x.rkcp", save(tmp_path / "w.rkcp", builder(a=np.arange(3)))
    refused = 0
    for _ in range(60):
        data = bytearray(good)
        end = 600 if chance.random() < 0.8 else len(data)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(end)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0x1B))
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        if len(data) > 64:
            data[32:36] = zlib.crc32(data[64:]).to_bytes(4, "little")
        file.write_bytes(data)
        for command in (
            ("show", file),
            ("show", file, "--json"),
            ("verify", file),
            ("diff", file, whole),
            ("list", tmp_path),
            ("extract", file, "state", "-o", tmp_path / "x.npy"),
        ):
            code, out, err = program(capsys, "checkpoint", *command)
            assert code in (0, 1, 2), command
            assert "\x1b" not in out + err
            assert len(err.splitlines()) <= 1
        refused += program(capsys, "checkpoint", "verify", file)[0] == 1
    assert refused > 30
