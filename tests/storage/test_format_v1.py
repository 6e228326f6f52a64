"""Version 1 files: read as RingKernel writes them, written as it reads them, byte for byte."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pytest

from ringflow.errors import LimitExceededError
from ringflow.storage import (
    CHECKPOINT_MAGIC,
    CHECKPOINT_VERSION_1,
    Checkpoint,
    CheckpointBuilder,
    CheckpointHeader,
    ChunkHeader,
    ChunkType,
    HlcTimestamp,
    RecoveryFacts,
)
from tests.storage.encoder import ACTOR_STATE_ID, FOREIGN, OWN, PRESSURE_ID, PlainFile

GOLDEN = Path(__file__).parent.parent / "golden"


def own_checkpoint() -> Checkpoint:
    return (
        CheckpointBuilder("wave", "wave_2d")
        .step(7)
        .grid_size(8, 2)
        .tile_size(256)
        .hlc(HlcTimestamp(11, 12, 13))
        .custom("note", "before upgrade")
        .recovery(replay_from=8, code_version="c0de", epoch=3, replay_mode="exact")
        .created_at(1_700_000_000_000_000)
        .device_memory("pressure", np.ones((2, 3), np.float32), dtype="float32", shape=(2, 3))
        .device_memory("actor_state", bytes(range(251)) * 262, dtype="uint8", shape=[65762])
        .control_block(bytes(range(64)))
        .build()
    )


def test_constants_are_ringkernels() -> None:
    """The magic reads 10TPKCKR on disk, and the version is 1."""
    assert CHECKPOINT_MAGIC.to_bytes(8, "little") == b"10TPKCKR"
    assert CHECKPOINT_VERSION_1 == 1


def test_writer_agrees_with_an_independent_encoder() -> None:
    """Two writers that share no code give the same bytes for the same checkpoint."""
    assert own_checkpoint().to_bytes() == OWN.to_bytes()


@pytest.mark.parametrize(
    ("name", "content"), [("checkpoint-v1", OWN), ("checkpoint-v1-ringkernel", FOREIGN)]
)
def test_golden_file_is_what_the_description_says(name: str, content: PlainFile) -> None:
    """The files of this version stay readable for ever: their bytes never change."""
    assert (GOLDEN / f"{name}.rkcp").read_bytes() == content.to_bytes()


def test_own_golden_file_reads_back_whole() -> None:
    """Names, dtypes, shapes, data and recovery facts come back from the file."""
    checkpoint = Checkpoint.from_bytes((GOLDEN / "checkpoint-v1.rkcp").read_bytes())
    assert checkpoint == own_checkpoint()
    assert checkpoint.metadata.custom == {"note": "before upgrade"}
    assert checkpoint.metadata.recovery == RecoveryFacts(
        replay_from=8, code_version="c0de", epoch=3, replay_mode="exact"
    )
    pressure = checkpoint.get_device_memory("pressure")
    assert pressure is not None
    assert pressure.chunk_id == PRESSURE_ID
    np.testing.assert_array_equal(pressure.numpy(), np.ones((2, 3), np.float32))
    assert [region.name for region in checkpoint.regions] == ["pressure", "actor_state"]


@pytest.mark.parametrize(("header_size", "short_bytes"), [(56, 8), (64, 0), (56, 0), (64, 8)])
def test_foreign_file_reads_with_and_without_its_size_bug(
    header_size: int, short_bytes: int
) -> None:
    """RingKernel's wrong sizes are taken, and so are the right ones."""
    file = attrs.evolve(FOREIGN, header_size=header_size, short_bytes=short_bytes)
    checkpoint = Checkpoint.from_bytes(file.to_bytes())
    metadata = checkpoint.metadata
    assert (metadata.kernel_id, metadata.kernel_type) == ("wave", "wave_2d")
    assert metadata.current_step == 7
    assert (metadata.grid_size, metadata.tile_size) == ((8, 2, 1), (256, 1, 1))
    assert metadata.hlc_timestamp == HlcTimestamp(11, 12, 13)
    assert metadata.custom == {"zeta": "1", "alpha": "λ"}
    assert metadata.recovery is None
    assert checkpoint.created_at_us == 1_700_000_000_000_000
    assert [int(chunk.chunk_type) for chunk in checkpoint.chunks] == [1, 5, 77, 8]


def test_foreign_region_is_found_by_the_hash_of_its_name() -> None:
    """A file without names still gives a region to who knows its name."""
    checkpoint = Checkpoint.from_bytes(FOREIGN.to_bytes())
    pressure = checkpoint.get_device_memory("pressure")
    assert pressure is not None
    assert bytes(pressure.data) == b"\x00\x00\x80\x3f" * 6
    assert checkpoint.get_device_memory("actor_state") is None


def test_unknown_chunk_type_is_kept_raw() -> None:
    """A chunk of a type from the future survives reading and writing."""
    again = Checkpoint.from_bytes(Checkpoint.from_bytes(FOREIGN.to_bytes()).to_bytes())
    unknown = again.get_chunk(77)
    assert unknown is not None
    assert (bytes(unknown.data), unknown.chunk_id) == (b"raw", 3)


def test_header_is_written_as_ringkernel_writes_it() -> None:
    """header_size 56 and a total 8 short are what its reader was seen to produce."""
    file = own_checkpoint().to_bytes()
    header = CheckpointHeader.from_bytes(file)
    assert (header.header_size, header.total_size) == (56, len(file) - 8)
    assert (header.compression, header.flags, header.reserved) == (0, 0, bytes(16))
    assert header.to_bytes() == file[:64]
    header.validate(file_bytes=len(file))


def test_chunk_header_round_trips() -> None:
    """The 32 bytes hold type, flags, both sizes and the id in this order."""
    header = ChunkHeader(
        chunk_type=5, flags=1, uncompressed_size=2, compressed_size=3, chunk_id=ACTOR_STATE_ID
    )
    data = header.to_bytes()
    assert data.hex() == "0500000001000000020000000000000003000000000000002d55d51a69032f54"
    assert ChunkHeader.from_bytes(data) == header


def test_equal_content_gives_equal_bytes_whatever_the_order_of_entries() -> None:
    """Custom entries are sorted: no hash map's order reaches the file."""
    left = CheckpointBuilder("k", "t").custom("b", "2").custom("a", "1").build()
    right = CheckpointBuilder("k", "t").custom("a", "1").custom("b", "2").build()
    assert left.to_bytes() == right.to_bytes()


def test_pieces_are_views_of_the_callers_data() -> None:
    """Writing a region copies none of it."""
    data = np.zeros(1 << 16, np.uint8)
    checkpoint = CheckpointBuilder("k", "t").device_memory("big", data).build()
    big = [piece for piece in checkpoint.pieces() if len(piece) == data.nbytes]
    assert len(big) == 1
    assert np.shares_memory(np.frombuffer(big[0], np.uint8), data)


def test_reading_copies_no_data() -> None:
    """A chunk that was read is a view of the file's bytes."""
    file = np.frombuffer(own_checkpoint().to_bytes(), np.uint8)
    region = Checkpoint.from_bytes(file).regions[1]
    assert np.shares_memory(np.frombuffer(region.data, np.uint8), file)


def test_total_size_is_the_files_length() -> None:
    """total_size counts header, metadata and all chunks."""
    checkpoint = own_checkpoint()
    assert checkpoint.total_size() == len(checkpoint.to_bytes())
    assert checkpoint.data_bytes == 24 + 65762 + 64


def test_limits_refuse_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that no reader would take is never written."""
    monkeypatch.setattr("ringflow.storage.format_v1.MAX_CHECKPOINT_SIZE", 1000)
    large = CheckpointBuilder("k", "t").device_memory("big", bytes(1001)).build()
    with pytest.raises(LimitExceededError, match="smaller regions"):
        large.pieces()
    many = Checkpoint(large.metadata)
    for _ in range(4097):
        many.add_control_block(b"")
    with pytest.raises(LimitExceededError, match="4097"):
        many.pieces()
    wide = CheckpointBuilder("k", "t").custom("key", "x" * (4 << 20)).build()
    with pytest.raises(LimitExceededError, match="custom chunk"):
        wide.pieces()


def test_chunk_types_have_the_numbers_of_the_format() -> None:
    """The numbers are the file's."""
    assert [int(kind) for kind in ChunkType] == [1, 2, 3, 4, 5, 6, 7, 8, 100]
