"""Sealed segments: a segment's text as one zstandard frame.

Files are not trusted: whatever a frame claims, no more is unpacked than the caller asks for.
"""

from __future__ import annotations

import io
from typing import Final

import attrs
import zstandard

SEALED_SUFFIX: Final = ".zst"
_LEVEL: Final = 1  # hashes and payloads don't shrink; higher levels take longer for 2 % more
_WINDOW_BYTES_MAX: Final = 2**23
_PIECE_BYTES: Final = 2**17


@attrs.frozen
class SegmentText:
    """What a segment's file holds.

    Attributes:
        data: the text, or as much of it as could be read.
        damage: why there is no more, empty if that is all.
    """

    data: bytes
    damage: str = ""


def pack(text: bytes) -> bytes:
    """Return ``text`` as one frame that says its size and has a checksum."""
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(text)


def unpack(packed: bytes, *, limit_bytes: int) -> SegmentText:
    """Return the text of a frame; over ``limit_bytes`` by at most one piece, if there is more."""
    pieces: list[bytes] = []
    size = 0
    unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)
    try:
        claimed = zstandard.get_frame_parameters(packed).content_size
        with unpacker.stream_reader(io.BytesIO(packed), read_across_frames=True) as stream:
            while size <= limit_bytes and (piece := stream.read(_PIECE_BYTES)):
                pieces.append(piece)
                size += len(piece)
    except zstandard.ZstdError as error:
        return SegmentText(b"".join(pieces), f"the sealed file is damaged ({error})")
    whole = size > limit_bytes or size == claimed
    return SegmentText(b"".join(pieces), "" if whole else "the sealed file is cut off")
