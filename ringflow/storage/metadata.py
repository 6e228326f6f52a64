"""A checkpoint's metadata and its bytes in the metadata block of version 1.

- Custom entries are written sorted by key, so that equal content gives equal bytes.
- What version 1 has no field for is kept under ``ringflow.*`` keys, lifted into fields when read.
- Every length and count is checked against the bytes that are there before it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Final, Literal, cast, get_args

import attrs

from ringflow.errors import CorruptError, LimitExceededError, UsageError
from ringflow.spec import ReplayMode

METADATA_BYTES_MAX: Final = 4 << 20
CUSTOM_ENTRIES_MAX: Final = 4096
CHUNKS_KEY: Final = "ringflow.chunks"
IDENTITY_KEY: Final = "ringflow.identity"
_REPLAY_FROM_KEY: Final = "ringflow.replay_from"
_CODE_VERSION_KEY: Final = "ringflow.code_version"
_EPOCH_KEY: Final = "ringflow.epoch"
_REPLAY_MODE_KEY: Final = "ringflow.replay_mode"
_RECOVERY_KEYS: Final = (_CODE_VERSION_KEY, _EPOCH_KEY, _REPLAY_FROM_KEY, _REPLAY_MODE_KEY)

_FIXED: Final = struct.Struct("<Q3I3I3Q")
_U32: Final = struct.Struct("<I")
_U64_END: Final = 1 << 64

Dim3 = tuple[int, int, int]


def _check_range(owner: object, field: attrs.Attribute[int], value: int) -> None:
    if not isinstance(value, int) or not 0 <= value < _U64_END:
        raise UsageError(f"{field.name} is {value!r}; it must be an integer from 0 to 2**64 - 1")


def _check_dim3(owner: object, field: attrs.Attribute[Dim3], value: Dim3) -> None:
    if len(value) != 3 or any(not isinstance(n, int) or not 0 <= n < 1 << 32 for n in value):
        raise UsageError(f"{field.name} is {value!r}; it must be three integers below 2**32")


def _dim3(given: Sequence[int]) -> Dim3:
    return cast(Dim3, tuple(given))


def _copied(given: Mapping[str, str]) -> dict[str, str]:
    return dict(given)


def _check_text(value: str) -> None:
    try:
        value.encode()
    except (UnicodeEncodeError, AttributeError) as error:
        raise UsageError(f"metadata text {value!r} is no str of UTF-8; convert it") from error


@attrs.frozen
class HlcTimestamp:
    """A hybrid logical clock's reading: physical time in µs, a counter, and the node's id."""

    physical: int = attrs.field(default=0, validator=_check_range)
    logical: int = attrs.field(default=0, validator=_check_range)
    node_id: int = attrs.field(default=0, validator=_check_range)


@attrs.frozen(kw_only=True)
class RecoveryFacts:
    """What recovery must know beside the state.

    Attributes:
        replay_from: the sequence of the first message that the state does not hold yet.
        code_version: digest or id of the code that the state belongs to.
        epoch: the engine's epoch in which the checkpoint was taken.
        replay_mode: whether messages may be applied again from here (``exact``) or not.
    """

    replay_from: int = attrs.field(validator=_check_range)
    code_version: str
    epoch: int = attrs.field(validator=_check_range)
    replay_mode: ReplayMode = attrs.field()

    @replay_mode.validator
    def _check_mode(self, field: attrs.Attribute[str], value: str) -> None:
        if value not in get_args(ReplayMode):
            raise UsageError(f"replay mode {value!r} is none of {', '.join(get_args(ReplayMode))}")

    def entries(self) -> dict[str, str]:
        return {
            _CODE_VERSION_KEY: self.code_version,
            _EPOCH_KEY: str(self.epoch),
            _REPLAY_FROM_KEY: str(self.replay_from),
            _REPLAY_MODE_KEY: self.replay_mode,
        }


@attrs.frozen(kw_only=True)
class CheckpointMetadata:
    """Whose state a checkpoint holds, and when it was taken.

    Attributes:
        current_step: sequence of the last message (or step) that the state holds.
        grid_size: blocks in x, y, z.
        tile_size: threads of a block in x, y, z.
        custom: the user's own entries; keys under ``ringflow.`` are ringflow's.
        recovery: ``None`` in files that no engine wrote.
    """

    kernel_id: str
    kernel_type: str
    current_step: int = attrs.field(default=0, validator=_check_range)
    grid_size: Dim3 = attrs.field(default=(1, 1, 1), converter=_dim3, validator=_check_dim3)
    tile_size: Dim3 = attrs.field(default=(1, 1, 1), converter=_dim3, validator=_check_dim3)
    hlc_timestamp: HlcTimestamp = HlcTimestamp()
    custom: Mapping[str, str] = attrs.field(factory=dict, converter=_copied)
    recovery: RecoveryFacts | None = None

    def __attrs_post_init__(self) -> None:
        for text in (self.kernel_id, self.kernel_type, *chain(*self.entries().items())):
            _check_text(text)
        taken = sorted({CHUNKS_KEY, IDENTITY_KEY, *_RECOVERY_KEYS} & set(self.custom))
        if taken:
            raise UsageError(f"custom key {taken[0]!r} is ringflow's own; choose another")

    def entries(self) -> dict[str, str]:
        """Return the custom entries with the recovery facts among them."""
        return {**self.custom, **(self.recovery.entries() if self.recovery else {})}


def _text(value: str) -> bytes:
    data = value.encode()
    return _U32.pack(len(data)) + data


def _check_limit(what: str, value: int, limit: int) -> None:
    if value > limit:
        raise LimitExceededError(what, value, limit, "put large data into a custom chunk")


def encode_metadata(metadata: CheckpointMetadata, extra: Mapping[str, str]) -> bytes:
    """Return the metadata block without its length word, ``extra`` among the custom entries.

    Raises:
        LimitExceededError: more than 4096 custom entries, or more than 4 MiB of metadata.
    """
    hlc = metadata.hlc_timestamp
    fixed = _FIXED.pack(
        metadata.current_step,
        *metadata.grid_size,
        *metadata.tile_size,
        hlc.physical,
        hlc.logical,
        hlc.node_id,
    )
    entries = sorted({**metadata.entries(), **extra}.items())
    _check_limit("the count of custom entries", len(entries), CUSTOM_ENTRIES_MAX)
    pieces = [_text(metadata.kernel_id), _text(metadata.kernel_type), fixed]
    pieces.append(_U32.pack(len(entries)))
    pieces.extend(_text(text) for entry in entries for text in entry)
    _check_limit("the metadata's size in bytes", sum(map(len, pieces)), METADATA_BYTES_MAX)
    return b"".join(pieces)


class _Cursor:
    """Reads a metadata block from front to end."""

    def __init__(self, block: memoryview) -> None:
        self._block = block
        self._at_bytes = 0

    @property
    def left_bytes(self) -> int:
        return len(self._block) - self._at_bytes

    def take(self, size_bytes: int, what: str) -> memoryview:
        if size_bytes > self.left_bytes:
            raise CorruptError(
                f"checkpoint metadata: {what} takes {size_bytes} bytes, {self.left_bytes} are "
                "left; restore the file from a copy"
            )
        taken = self._block[self._at_bytes : self._at_bytes + size_bytes]
        self._at_bytes += size_bytes
        return taken

    def number(self, what: str) -> int:
        return int(_U32.unpack(self.take(4, what))[0])

    def text(self, what: str) -> str:
        size_bytes = self.number(f"the length of {what}")
        try:
            return str(self.take(size_bytes, what), "utf-8")
        except UnicodeDecodeError as error:
            raise CorruptError(
                f"checkpoint metadata: {what} is not UTF-8; restore the file from a copy"
            ) from error


def _entries(cursor: _Cursor) -> dict[str, str]:
    count = cursor.number("the count of custom entries")
    if count * 8 > cursor.left_bytes or count > CUSTOM_ENTRIES_MAX:
        raise CorruptError(
            f"checkpoint metadata: {count} custom entries, at most {CUSTOM_ENTRIES_MAX} may lie in "
            f"the {cursor.left_bytes} bytes left; restore the file from a copy"
        )
    entries: dict[str, str] = {}
    for _ in range(count):
        key = cursor.text("a custom key")
        if key in entries:
            raise CorruptError(f"checkpoint metadata: custom key {key[:80]!r} is there twice")
        entries[key] = cursor.text(f"the value of {key[:80]!r}")
    return entries


def _whole(text: str, key: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) < _U64_END):
        raise CorruptError(f"checkpoint metadata: {key!r} is {text[:40]!r}, no unsigned number")
    return int(text)


def _recovery(entries: dict[str, str]) -> RecoveryFacts | None:
    present = [key for key in _RECOVERY_KEYS if key in entries]
    if not present:
        return None
    for key in _RECOVERY_KEYS:
        if key not in entries:
            raise CorruptError(f"checkpoint metadata: {present[0]!r} is there without {key!r}")
    mode = entries.pop(_REPLAY_MODE_KEY)
    if mode not in get_args(ReplayMode):
        raise CorruptError(f"checkpoint metadata: replay mode {mode[:40]!r} is not known")
    return RecoveryFacts(
        replay_from=_whole(entries.pop(_REPLAY_FROM_KEY), _REPLAY_FROM_KEY),
        code_version=entries.pop(_CODE_VERSION_KEY),
        epoch=_whole(entries.pop(_EPOCH_KEY), _EPOCH_KEY),
        replay_mode=cast(Literal["exact", "checkpoint"], mode),
    )


def decode_metadata(block: memoryview) -> tuple[CheckpointMetadata, dict[str, str]]:
    """Return the metadata, and the entries that speak of the chunks (``CHUNKS_KEY`` and so on).

    Args:
        block: uint8[n], the metadata block without its length word.
    Raises:
        CorruptError: a length, a count, a text or a fact is not what it can be.
    """
    if len(block) > METADATA_BYTES_MAX:
        raise CorruptError(
            f"checkpoint metadata has {len(block)} bytes, over the limit of {METADATA_BYTES_MAX}; "
            "restore the file from a copy"
        )
    cursor = _Cursor(block)
    kernel_id = cursor.text("the kernel id")
    kernel_type = cursor.text("the kernel type")
    step, gx, gy, gz, tx, ty, tz, physical, logical, node_id = _FIXED.unpack(
        cursor.take(_FIXED.size, "the fixed fields")
    )
    entries = _entries(cursor)
    if cursor.left_bytes:
        raise CorruptError(
            f"checkpoint metadata: {cursor.left_bytes} bytes follow the last custom entry; "
            "restore the file from a copy"
        )
    extra: dict[str, str] = {
        key: entries.pop(key) for key in (CHUNKS_KEY, IDENTITY_KEY) if key in entries
    }
    recovery = _recovery(entries)
    metadata = CheckpointMetadata(
        kernel_id=kernel_id,
        kernel_type=kernel_type,
        current_step=step,
        grid_size=(gx, gy, gz),
        tile_size=(tx, ty, tz),
        hlc_timestamp=HlcTimestamp(physical, logical, node_id),
        custom=entries,
        recovery=recovery,
    )
    return metadata, extra
