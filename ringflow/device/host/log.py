"""What a launch's kernel printed: a ring of messages, put into words by whoever reads it.

- The kernel never waits for a reader; the newest messages overwrite the oldest.
- A message that is being overwritten while it is read counts as lost.
- Conversions are C's; texts longer than a slot lose their end, marked by ``...``.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Iterable
from typing import Final, final

import attrs

from ringflow.device.host import cta
from ringflow.device.host.memory import HostAllocation

SLOTS: Final = 128
SLOT_BYTES: Final = 512
HEAD_BYTES: Final = 64
LOG_BYTES: Final = HEAD_BYTES + SLOTS * SLOT_BYTES
_SLOT: Final = struct.Struct("=Q6I")
_CONVERSION: Final = re.compile(
    r"%(?P<flags>[-+ #0]*)(?P<width>\*|\d*)(?P<point>\.(?P<precision>\*|\d*))?"
    r"(?P<length>[hljztL]*)(?P<kind>.)",
    re.DOTALL,
)


@attrs.frozen
class Message:
    """One printed text.

    Attributes:
        block: index of the block in x, y, z.
        thread: index of the thread in its block, counted through x, y, z.
    """

    block: tuple[int, int, int]
    thread: int
    text: str


class _Arguments:
    """Reads a message's arguments in order; raises ``EOFError`` past the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def text(self) -> str:
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise EOFError
        found = self._data[self._at : end]
        self._at = end + 1
        return found.decode("utf-8", "replace")

    def word(self) -> int:
        if self._at + 8 > len(self._data):
            raise EOFError
        self._at += 8
        return int.from_bytes(self._data[self._at - 8 : self._at], "little")


def _integer(word: int, length: str, *, signed: bool) -> int:
    bits = {"": 32, "h": 16, "hh": 8}.get(length, 64)
    value = word & ((1 << bits) - 1)
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def _double(word: int) -> float:
    value: float = struct.unpack("=d", struct.pack("=Q", word))[0]
    return value


def _formatted(how: str, value: object) -> str:
    text: str = how % value
    return text


def _converted(match: re.Match[str], arguments: _Arguments) -> str:
    kind, length = match["kind"], match["length"]
    width, point, precision = match["width"], match["point"], match["precision"]
    if width == "*":
        width = str(_integer(arguments.word(), "", signed=True))
    if precision == "*":
        chosen = _integer(arguments.word(), "", signed=True)
        point = f".{chosen}" if chosen >= 0 else ""
    if kind == "%":
        return "%"
    how = f"%{match['flags']}{width}{point or ''}"
    if kind == "s":
        return _formatted(f"{how}s", arguments.text())
    word = arguments.word()
    if kind in "di":
        return _formatted(f"{how}d", _integer(word, length, signed=True))
    if kind in "uxXo":
        value = _integer(word, length, signed=False)
        return _formatted(how + ("d" if kind == "u" else kind), value).replace("0o", "0")
    if kind == "c":
        return _formatted(f"{how}c", chr(word & 255))
    if kind in "eEfFgG":
        return _formatted(how + kind, _double(word))
    if kind in "aA":
        return _double(word).hex()
    return f"{word:#x}"  # p, and what C does not have


def words(data: bytes) -> str:
    """Return the text of a message: its format, then its arguments, as the kernel put them."""
    arguments = _Arguments(data)
    try:
        form = arguments.text()
    except EOFError:
        return ""
    pieces: list[str] = []
    at = 0
    for match in _CONVERSION.finditer(form):
        pieces.append(form[at : match.start()])
        at = match.end()
        try:
            pieces.append(_converted(match, arguments))
        except EOFError:
            return "".join(pieces)
        except (ValueError, OverflowError, TypeError):
            pieces.append(match.group())
    return "".join([*pieces, form[at:]])


@final
class KernelLog:
    """The ring that one launch prints to."""

    def __init__(self) -> None:
        self._memory = HostAllocation(LOG_BYTES, label="log")

    @property
    def address(self) -> int:
        return self._memory.address

    def attach(self, contexts: Iterable[int]) -> None:
        """Have CTAs that do not run yet print here; ``contexts`` are their addresses."""
        for context in contexts:
            ctypes.c_uint64.from_address(context + cta.LOG).value = self.address

    def messages(self) -> tuple[list[Message], int]:
        """Return the newest messages, oldest first, and how many were lost before or between."""
        from ringflow.device.native import native

        load = native().load
        printed = load(self.address)
        found: list[Message] = []
        for ticket in range(max(0, printed - SLOTS), printed):
            place = self.address + HEAD_BYTES + ticket % SLOTS * SLOT_BYTES
            if load(place) != 2 * ticket + 2:
                continue
            copied = ctypes.string_at(place, SLOT_BYTES)
            if load(place) == 2 * ticket + 2:
                found.append(_message(copied))
        return found, printed - len(found)

    def text(self) -> str:
        """Return the messages as one text; its first line says how many are missing, if any."""
        found, lost = self.messages()
        head = f"[{lost} messages lost]\n" if lost else ""
        return head + "".join(message.text for message in found)


def _message(slot: bytes) -> Message:
    _, x, y, z, thread, size, truncated = _SLOT.unpack_from(slot)
    text = words(slot[_SLOT.size : _SLOT.size + size])
    return Message((x, y, z), thread, text + "...\n" if truncated else text)
