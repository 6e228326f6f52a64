"""A second writer of version 1 files, made from the format's description alone.

It shares no code with the package, so that a mistake in one of them shows.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from typing import Any

import attrs
import xxhash


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def text(value: str) -> bytes:
    return u32(len(value.encode())) + value.encode()


@attrs.frozen(kw_only=True)
class Part:
    """A chunk: type, id, data, and what ringflow says about it."""

    kind: int
    data: bytes
    id: int = 0
    facts: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class PlainFile:
    """The content of a version 1 file; ``entries`` are written in the order given."""

    kernel_id: str = "wave"
    kernel_type: str = "wave_2d"
    step: int = 7
    grid: tuple[int, int, int] = (8, 2, 1)
    tile: tuple[int, int, int] = (256, 1, 1)
    hlc: tuple[int, int, int] = (11, 12, 13)
    entries: Sequence[tuple[str, str]] = ()
    parts: Sequence[Part] = ()
    created_at_us: int = 1_700_000_000_000_000
    header_size: int = 56
    short_bytes: int = 8

    def metadata(self) -> bytes:
        block = text(self.kernel_id) + text(self.kernel_type) + u64(self.step)
        block += b"".join(u32(n) for n in (*self.grid, *self.tile))
        block += b"".join(u64(n) for n in self.hlc)
        block += u32(len(self.entries))
        return block + b"".join(text(key) + text(value) for key, value in self.entries)

    def to_bytes(self) -> bytes:
        body = u32(len(self.metadata())) + self.metadata()
        for part in self.parts:
            size = u64(len(part.data))
            body += u32(part.kind) + u32(0) + size + size + u64(part.id) + part.data
        return self.header(body) + body

    def header(self, body: bytes) -> bytes:
        made = b"10TPKCKR" + u32(1) + u32(self.header_size)
        made += u64(64 + len(body) - self.short_bytes) + u32(len(self.parts)) + u32(0)
        made += u32(zlib.crc32(body)) + u32(0) + u64(self.created_at_us) + bytes(16)
        assert len(made) == 64
        return made

    def with_facts(self) -> PlainFile:
        """Add ringflow's two entries about the chunks: their description and the identity."""
        described = []
        blocks = []
        for part in self.parts:
            pieces = [part.data[at : at + 65536] for at in range(0, len(part.data), 65536)]
            digests = b"".join(xxhash.xxh3_128(piece).digest() for piece in pieces)
            described.append({"digest": hashlib.sha256(digests).hexdigest(), **part.facts})
            blocks.append(u32(part.kind) + u32(0) + u64(part.id) + u64(len(part.data)) + digests)
        chunks = json.dumps(described, sort_keys=True, separators=(",", ":"))
        full = attrs.evolve(self, entries=sorted([*self.entries, ("ringflow.chunks", chunks)]))
        content = full.metadata()
        hashed = b"ringflow checkpoint identity 1\0" + u64(len(content)) + content
        identity = hashlib.sha256(hashed + b"".join(blocks)).hexdigest()
        return attrs.evolve(full, entries=sorted([*full.entries, ("ringflow.identity", identity)]))


def with_checksum(file: bytes) -> bytes:
    """Return the file with the CRC that its bytes have now."""
    return file[:32] + u32(zlib.crc32(file[64:])) + file[36:]


ACTOR_STATE_ID = 0x542F03691AD5552D
PRESSURE_ID = 0xACA6A1F20A241E2A

# As RingKernel writes one: entries in no order, no names, a chunk of a type nobody knows.
FOREIGN = PlainFile(
    entries=[("zeta", "1"), ("alpha", "λ")],
    parts=[
        Part(kind=1, data=bytes(range(128))),
        Part(kind=5, id=PRESSURE_ID, data=b"\x00\x00\x80\x3f" * 6),
        Part(kind=77, id=3, data=b"raw"),
        Part(kind=8, data=b""),
    ],
)

# As ringflow writes one: 2 x 3 float32, a second region of more than one block, an outbox.
OWN = PlainFile(
    entries=[
        ("note", "before upgrade"),
        ("ringflow.code_version", "c0de"),
        ("ringflow.epoch", "3"),
        ("ringflow.replay_from", "8"),
        ("ringflow.replay_mode", "exact"),
    ],
    parts=[
        Part(
            kind=5,
            id=PRESSURE_ID,
            data=b"\x00\x00\x80\x3f" * 6,
            facts={"dtype": "float32", "name": "pressure", "shape": [2, 3]},
        ),
        Part(
            kind=5,
            id=ACTOR_STATE_ID,
            data=bytes(range(251)) * 262,
            facts={"dtype": "uint8", "name": "actor_state", "shape": [65762]},
        ),
        Part(kind=1, data=bytes(range(64))),
    ],
).with_facts()
