"""Checkpoint, its parts and its builder as values."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringflow.errors import CorruptError, UsageError
from ringflow.storage import (
    Checkpoint,
    CheckpointBuilder,
    CheckpointMetadata,
    ChunkType,
    DataChunk,
    HlcTimestamp,
    block_digests,
)

DETERMINISTIC = settings(derandomize=True, database=None, max_examples=60)
HEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def filled() -> CheckpointBuilder:
    return (
        CheckpointBuilder("wave", "wave_2d")
        .device_memory("height", HEIGHT, dtype="float32", shape=HEIGHT.shape)
        .custom_chunk("outbox", b"reply")
        .control_block(b"control")
        .h2k_queue(b"in")
        .k2h_queue(b"out")
    )


def test_add_methods_fill_a_checkpoint_as_the_builder_does() -> None:
    """A checkpoint that is filled by hand equals one that was built."""
    checkpoint = Checkpoint(CheckpointMetadata(kernel_id="wave", kernel_type="wave_2d"))
    checkpoint.add_device_memory("height", HEIGHT, dtype="float32", shape=(2, 3))
    checkpoint.add_custom("outbox", b"reply")
    checkpoint.add_control_block(b"control")
    checkpoint.add_h2k_queue(b"in")
    checkpoint.add_k2h_queue(b"out")
    assert checkpoint == filled().build()
    assert checkpoint.to_bytes() == filled().build().to_bytes()


def test_chunks_are_found_by_type_and_name() -> None:
    """get_chunk gives the first, get_chunks all, the others go by name."""
    checkpoint = filled().build()
    checkpoint.add_hlc_state(b"clock")
    checkpoint.add_hlc_state(b"later")
    first = checkpoint.get_chunk(ChunkType.HLC_STATE)
    assert first is not None
    assert bytes(first.data) == b"clock"
    assert len(checkpoint.get_chunks(ChunkType.HLC_STATE)) == 2
    assert checkpoint.get_chunk(ChunkType.TELEMETRY) is None
    outbox = checkpoint.get_custom("outbox")
    assert outbox is not None
    assert bytes(outbox.data) == b"reply"
    assert checkpoint.get_device_memory("outbox") is None


def test_identity_of_a_chunk_is_type_and_id_where_types_repeat() -> None:
    """Regions are told apart by id; there is one control block."""
    height = filled().build().regions[0]
    assert height.identity == (ChunkType.DEVICE_MEMORY, height.chunk_id)
    assert DataChunk(chunk_type=1, data=b"", chunk_id=9).identity == (1, None)


def test_identity_follows_the_content_and_nothing_else() -> None:
    """Data, layout, step and recovery facts change it; the time of creation doesn't."""
    identity = filled().build().identity()
    assert filled().created_at(123).build().identity() == identity
    others = [
        filled().step(1),
        filled().custom("a", "b"),
        filled().recovery(replay_from=1, code_version="x", epoch=1, replay_mode="exact"),
        filled().device_memory("empty", b""),
        CheckpointBuilder("wave", "wave_2d").device_memory("height", HEIGHT),
    ]
    found = {identity, *(other.build().identity() for other in others)}
    assert len(found) == len(others) + 1


def test_identity_survives_the_file() -> None:
    """A checkpoint that was read has the identity of the one that was written."""
    checkpoint = filled().build()
    assert Checkpoint.from_bytes(checkpoint.to_bytes()).identity() == checkpoint.identity()


def test_digests_of_a_device_are_believed_by_the_writer_and_checked_by_the_reader() -> None:
    """Digests read back from the device's memory catch a copy that went wrong on its way."""
    good = CheckpointBuilder("k", "t").device_memory("h", b"data", digests=block_digests(b"data"))
    assert good.build() == Checkpoint.from_bytes(good.build().to_bytes())
    bad = CheckpointBuilder("k", "t").device_memory("h", b"dada", digests=block_digests(b"data"))
    with pytest.raises(CorruptError, match="region 'h' has digest"):
        Checkpoint.from_bytes(bad.build().to_bytes())


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("already", lambda builder: builder.device_memory("height", b"")),
        ("empty name", lambda builder: builder.device_memory("", b"")),
        (
            "needs 16 bytes",
            lambda builder: builder.device_memory("a", b"", dtype="int32", shape=[4]),
        ),
        ("dtype 'void'", lambda builder: builder.device_memory("a", b"", dtype="void")),
        ("digests", lambda builder: builder.device_memory("a", b"x", digests=b"short")),
        ("contiguous", lambda builder: builder.device_memory("a", HEIGHT.T)),
        ("ringflow's own", lambda builder: builder.custom("ringflow.epoch", "7")),
        ("UTF-8", lambda builder: builder.custom("a", "\ud800")),
        ("current_step", lambda builder: builder.step(-1)),
        ("grid_size", lambda builder: builder.grid_size(1 << 32)),
        ("physical", lambda builder: builder.hlc(HlcTimestamp(1 << 64))),
        ("out of range", lambda builder: builder.created_at(-1)),
        (
            "replay mode",
            lambda builder: builder.recovery(
                replay_from=1, code_version="x", epoch=1, replay_mode="some"
            ),
        ),
    ],
)
def test_contradictions_are_refused_when_they_are_made(what: str, change: Any) -> None:
    """What no file could hold is a usage error before anything is saved."""
    with pytest.raises(UsageError, match=what):
        change(filled()).build()


def test_numpy_views_are_read_only_and_share_memory() -> None:
    """A region's array is the chunk's bytes, not a copy, and can't change them."""
    view = filled().build().regions[0].numpy()
    assert np.shares_memory(view, HEIGHT)
    assert not view.flags.writeable
    with pytest.raises(UsageError, match="no dtype"):
        filled().build().chunks[1].numpy()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
METADATA = st.builds(
    CheckpointMetadata,
    kernel_id=TEXT,
    kernel_type=TEXT,
    current_step=U64,
    grid_size=st.tuples(U32, U32, U32),
    tile_size=st.tuples(U32, U32, U32),
    hlc_timestamp=st.builds(HlcTimestamp, U64, U64, U64),
    custom=st.dictionaries(TEXT, TEXT, max_size=4),
)
REGIONS = st.dictionaries(TEXT.filter(bool), st.binary(max_size=100), max_size=4)
OTHERS = st.lists(
    st.builds(DataChunk, chunk_type=U32, chunk_id=U64, flags=U32, data=st.binary(max_size=50)),
    max_size=3,
)


@DETERMINISTIC
@given(metadata=METADATA, regions=REGIONS, others=OTHERS, created_at_us=U64)
def test_any_checkpoint_survives_its_file(
    metadata: CheckpointMetadata,
    regions: dict[str, bytes],
    others: list[DataChunk],
    created_at_us: int,
) -> None:
    """Reading gives what was written, and writing that gives the same bytes."""
    checkpoint = Checkpoint(metadata, created_at_us=created_at_us)
    for name, data in regions.items():
        checkpoint.add_device_memory(name, data, dtype="uint8", shape=(len(data),))
    for chunk in others:
        checkpoint.add_chunk(chunk)
    file = checkpoint.to_bytes()
    again = Checkpoint.from_bytes(file)
    assert again == checkpoint
    assert again.to_bytes() == file


def test_metadata_is_a_value() -> None:
    """A copy of the caller's dict is kept, so that later changes don't reach it."""
    custom = {"a": "1"}
    metadata = CheckpointMetadata(kernel_id="k", kernel_type="t", custom=custom)
    custom["a"] = "2"
    assert metadata.custom == {"a": "1"}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        metadata.current_step = 2  # type: ignore[misc]
