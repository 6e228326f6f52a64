"""Checkpoint files from anywhere: damage is named, and never a crash, a hang or a huge claim."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringflow.errors import CorruptError, StorageError
from ringflow.storage import Checkpoint
from ringflow.storage.format_v1 import decode
from tests.storage.encoder import FOREIGN, OWN, Part, PlainFile, u32, u64, with_checksum

FACT_KEYS = ("ringflow.chunks", "ringflow.identity")
DETERMINISTIC = settings(derandomize=True, database=None, max_examples=150)
SMALL = PlainFile(
    entries=[entry for entry in OWN.entries if entry[0] not in FACT_KEYS],
    parts=[OWN.parts[0], Part(kind=1, data=b"control")],
).with_facts()
FILE = SMALL.to_bytes()
BLOCK_BYTES = int.from_bytes(FILE[64:68], "little")
CHUNK_AT = 68 + BLOCK_BYTES
CREATED_AT = range(40, 48)


def patched(at_bytes: int, data: bytes, *, checksum: bool = True) -> bytes:
    made = FILE[:at_bytes] + data + FILE[at_bytes + len(data) :]
    return with_checksum(made) if checksum else made


@pytest.mark.parametrize(
    ("what", "file"),
    [
        ("64", b""),
        ("64", FILE[:63]),
        ("magic", patched(0, b"X")),
        ("version is 0", patched(8, u32(0))),
        ("header size", patched(12, u32(60))),
        ("total size", patched(16, u64(len(FILE) + 1))),
        ("total size", FILE + b"\0"),
        ("total size", FILE[:-1]),
        ("chunks, at most", patched(24, u32(0xFFFFFFFF))),
        ("bytes after its last chunk", patched(24, u32(1))),
        ("3 chunks, at most", patched(24, u32(3))),
        ("compression 9", patched(28, u32(9))),
        ("CRC-32", patched(32, u32(0), checksum=False)),
        ("flags", patched(36, u32(1))),
        ("reserved", patched(63, b"\1")),
        ("metadata says 4294967295", patched(64, u32(0xFFFFFFFF))),
        ("the kernel id takes", patched(68, u32(0xFFFFFFF0))),
        ("the kernel id is not UTF-8", patched(72, b"\xff")),
        ("chunk 0 says 18446744073709551615 bytes, ", patched(CHUNK_AT + 16, u64(2**64 - 1))),
        ("uncompressed", patched(CHUNK_AT + 8, u64(2**63))),
        ("where a chunk's header", patched(CHUNK_AT + 8, u64(44) + u64(44))),
        ("another name", patched(CHUNK_AT + 24, u64(1))),
        ("region 'pressure' has digest", patched(CHUNK_AT + 32, b"\7")),
        ("chunk 1: its data has digest", patched(len(FILE) - 1, b"L")),
    ],
)
def test_damage_is_refused_and_named(what: str, file: bytes) -> None:
    """Each size, count and digest is held against the file; the error says which failed."""
    with pytest.raises(CorruptError, match=what):
        decode(file)


@pytest.mark.parametrize(
    ("what", "file"),
    [("newer ringflow", patched(8, u32(2))), ("zstd", patched(28, u32(2)))],
)
def test_what_this_version_cannot_read_is_not_called_damage(what: str, file: bytes) -> None:
    """A newer file is whole: the error says to use a newer ringflow."""
    with pytest.raises(StorageError, match=what) as caught:
        decode(file)
    assert not isinstance(caught.value, CorruptError)


def test_every_changed_byte_of_the_body_is_found_even_under_a_right_crc() -> None:
    """The digests and the identity cover metadata, chunk headers and data."""
    for at_bytes in range(64, len(FILE)):
        for flip in (0x01, 0x20, 0x80):
            file = patched(at_bytes, bytes([FILE[at_bytes] ^ flip]))
            with pytest.raises(CorruptError):
                decode(file)


def test_every_changed_byte_of_the_header_is_found_but_the_time() -> None:
    """The header is outside the CRC; all but the time of creation is checked by value."""
    for at_bytes in range(64):
        for bit in range(8):
            file = patched(at_bytes, bytes([FILE[at_bytes] ^ 1 << bit]), checksum=False)
            if at_bytes in CREATED_AT:
                assert decode(file)[1] == decode(FILE)[1]
                continue
            with pytest.raises(StorageError):
                decode(file)


def test_every_truncation_is_found() -> None:
    """A file cut anywhere is refused, also with sizes and CRC made to fit the cut."""
    for size_bytes in range(len(FILE)):
        with pytest.raises(CorruptError):
            decode(FILE[:size_bytes])
        if size_bytes >= 64:
            cut = FILE[:16] + u64(size_bytes) + FILE[24:size_bytes]
            with pytest.raises(CorruptError):
                decode(with_checksum(cut))


Description = list[Any]


def described(change: Callable[[Description], object]) -> bytes:
    """Return the small file with another description of its chunks, and the old identity."""
    entries = dict(SMALL.entries)
    entries["ringflow.chunks"] = json.dumps(change(json.loads(entries["ringflow.chunks"])))
    return attrs.evolve(SMALL, entries=sorted(entries.items())).to_bytes()


def but(index: int, **changes: object) -> Callable[[Description], object]:
    """Return a change that sets fields of one chunk; ``None`` removes a field."""

    def change(chunks: Description) -> object:
        merged = {**chunks[index], **changes}
        chunks[index] = {key: value for key, value in merged.items() if value is not None}
        return chunks

    return change


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("doesn't list 2 chunks", lambda chunks: chunks[:1]),
        ("doesn't list 2 chunks", lambda chunks: {"0": 1, "1": 2}),
        ("other fields", lambda chunks: ["a", "b"]),
        ("other fields", but(0, extra=1)),
        ("no text", but(0, name=5)),
        ("no text", but(0, digest=None)),
        ("no list of whole numbers", but(0, shape=[2.0, 3])),
        ("no list of whole numbers", but(0, shape=[True, 6])),
        ("needs 48 bytes", but(0, shape=[4, 3])),
        ("out of range", but(0, shape=[-2, -3])),
        ("dimensions", but(0, shape=[1] * 33)),
        ("dtype 'O'", but(0, dtype="O")),
        ("another name", but(0, name="density")),
        ("another name", but(1, name="control")),
        ("has digest", but(1, digest="0" * 64)),
        ("identity", but(0, name=None)),
        ("identity", but(0, shape=[3, 2])),
    ],
)
def test_descriptions_that_do_not_fit_their_chunks_are_refused(
    what: str, change: Callable[[Description], object]
) -> None:
    """A shape, dtype, name or digest is believed only where the chunk bears it out."""
    with pytest.raises(CorruptError, match=what):
        decode(described(change))


def test_two_regions_of_one_name_are_refused() -> None:
    """A restore could not tell which of the two to take."""
    twice = attrs.evolve(OWN, entries=[], parts=[OWN.parts[0], OWN.parts[0]]).with_facts()
    with pytest.raises(CorruptError, match="one name"):
        decode(twice.to_bytes())


def with_entries(*entries: tuple[str, str]) -> bytes:
    return attrs.evolve(FOREIGN, entries=entries).to_bytes()


@pytest.mark.parametrize(
    ("what", "file"),
    [
        ("is there twice", with_entries(("a", "1"), ("a", "2"))),
        ("is missing", with_entries(("ringflow.chunks", "[]"))),
        ("is missing", with_entries(("ringflow.identity", "00"))),
        ("no JSON", with_entries(("ringflow.chunks", "[" * 50_000), ("ringflow.identity", ""))),
        ("without 'ringflow.epoch'", with_entries(("ringflow.code_version", "x"))),
        ("at most 4096", with_entries(*((str(n), "") for n in range(4097)))),
        ("over the limit", with_entries(("a", "x" * (4 << 20)))),
        (
            "4097 chunks",
            attrs.evolve(FOREIGN, parts=[Part(kind=1, data=b"")] * 4097).to_bytes(),
        ),
    ],
)
def test_hostile_metadata_is_refused(what: str, file: bytes) -> None:
    """Entries that repeat, contradict or overwhelm are refused, not believed."""
    with pytest.raises(CorruptError, match=what):
        decode(file)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("ringflow.epoch", "-1", "no unsigned number"),
        ("ringflow.epoch", "1.5", "no unsigned number"),
        ("ringflow.replay_from", "9" * 5000, "no unsigned number"),
        ("ringflow.replay_from", str(2**64), "no unsigned number"),
        ("ringflow.replay_mode", "maybe", "replay mode"),
    ],
)
def test_recovery_facts_that_cannot_be_are_refused(key: str, value: str, what: str) -> None:
    """Recovery never starts from a sequence or an epoch that is no number."""
    entries = {**dict(SMALL.entries), key: value}
    with pytest.raises(CorruptError, match=what):
        decode(attrs.evolve(SMALL, entries=sorted(entries.items())).to_bytes())


@DETERMINISTIC
@given(st.data())
def test_mutated_files_give_a_storage_error_or_a_checkpoint(data: st.DataObject) -> None:
    """Whatever bytes come, nothing but a StorageError is raised."""
    file = bytearray(data.draw(st.sampled_from([FILE, FOREIGN.to_bytes()])))
    for _ in range(data.draw(st.integers(1, 6))):
        at_bytes = data.draw(st.integers(0, len(file) - 1))
        piece = data.draw(st.binary(min_size=0, max_size=12))
        file[at_bytes : at_bytes + data.draw(st.integers(0, 12))] = piece
    candidate = bytes(file)
    if data.draw(st.booleans()) and len(candidate) >= 64:
        candidate = candidate[:16] + u64(len(candidate)) + candidate[24:]
        candidate = with_checksum(candidate)
    with contextlib.suppress(StorageError):
        Checkpoint.from_bytes(candidate).to_bytes()


@DETERMINISTIC
@given(st.binary(max_size=300))
def test_arbitrary_metadata_gives_a_storage_error_or_a_checkpoint(block: bytes) -> None:
    """A metadata block of any bytes, under a right header and CRC, raises nothing else."""
    body = u32(len(block)) + block
    header = FILE[:16] + u64(64 + len(body)) + u32(0) + FILE[28:64]
    with contextlib.suppress(StorageError):
        Checkpoint.from_bytes(with_checksum(header + body))
