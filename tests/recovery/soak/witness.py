"""What a worker writes down outside of the engine, to be held against the engine afterwards.

- Each line and each effect is one ``write`` to a file: SIGKILL keeps or loses it whole.
- An effect's record is its own position: both are stored in one step.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any, Final, Protocol

import attrs

OutputId = tuple[int, int]
_EFFECT: Final = struct.Struct("<QII8s8x")


@attrs.frozen
class Effect:
    """One output that the exactly-once consumer has dealt with."""

    sequence: int
    index: int
    payload: bytes

    @property
    def identity(self) -> OutputId:
        return self.sequence, self.index


class Log(Protocol):
    """Where a worker writes down what it saw."""

    def note(self, kind: str, **facts: Any) -> None: ...


class EffectStore(Protocol):
    """The exactly-once consumer's store: each effect is its own position."""

    stored: list[Effect]

    @property
    def position(self) -> OutputId: ...
    def store(self, effect: Effect) -> None: ...


class Witness:
    """Appends JSON lines; one ``life`` is one process."""

    def __init__(self, path: Path, *, life: int) -> None:
        self._life = life
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, kind: str, **facts: Any) -> None:
        line = json.dumps({"kind": kind, "life": self._life, **facts})
        os.write(self._descriptor, line.encode() + b"\n")


class Effects:
    """``EffectStore`` in a file."""

    def __init__(self, path: Path) -> None:
        self.stored = read_effects(path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    @property
    def position(self) -> OutputId:
        return self.stored[-1].identity if self.stored else (0, 0)

    def store(self, effect: Effect) -> None:
        data = _EFFECT.pack(effect.sequence, effect.index, len(effect.payload), effect.payload)
        os.write(self._descriptor, data)
        self.stored.append(effect)


class MemoryLog:
    """``Log`` in memory, for lives that share a process."""

    def __init__(self) -> None:
        self.life = 1
        self.notes: list[dict[str, Any]] = []

    def note(self, kind: str, **facts: Any) -> None:
        plain = json.loads(json.dumps(facts))
        self.notes.append({"kind": kind, "life": self.life, **plain})


class MemoryEffects:
    """``EffectStore`` in memory."""

    def __init__(self) -> None:
        self.stored: list[Effect] = []

    @property
    def position(self) -> OutputId:
        return self.stored[-1].identity if self.stored else (0, 0)

    def store(self, effect: Effect) -> None:
        self.stored.append(effect)


def read_effects(path: Path) -> list[Effect]:
    data = path.read_bytes() if path.exists() else b""
    whole = len(data) // _EFFECT.size * _EFFECT.size
    return [
        Effect(sequence, index, payload[:size])
        for sequence, index, size, payload in _EFFECT.iter_unpack(data[:whole])
    ]


def read_notes(path: Path) -> list[dict[str, Any]]:
    """Return all whole lines."""
    text = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in text.split(b"\n")[:-1]]
