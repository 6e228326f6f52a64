"""The run without crashes: a plain fold of the journal's messages in Python and numpy.

It shares no code with the engine but the reading of the journal: it takes from it which messages
were accepted, in which order, and at which of them a reload that completed changed the code.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Collection, Iterable
from typing import Any, Final

import attrs
import numpy as np

from ringflow.events.lifecycle import KernelLaunchRequested
from ringflow.events.messages import (
    ConsumerRegistered,
    MessagesAccepted,
    MessagesSkipped,
    OutputsAcknowledged,
)
from ringflow.events.reload import ReloadCompleted, ReloadDrained
from ringflow.journal.record import Record
from tests.recovery.soak.kernel import CELLS, factor_of
from tests.recovery.soak.witness import OutputId

_FOLD_ID: Final = 1
_MASK: Final = (1 << 64) - 1
_WORD: Final = struct.Struct("<Q")


@attrs.frozen
class Message:
    """One accepted message; ``value`` is None for one that changes nothing."""

    value: int | None
    producer: str
    number: int


@attrs.define
class History:
    """What the journal says of one kernel.

    Attributes:
        messages: in order; the first one has sequence 1.
        changes: the first sequence of each code, with the code's factor.
        positions: (epoch, consumer, output) of each registration and acknowledgement, in order.
        skipped: messages that a person decided never to apply.
        problems: what the messages' numbering broke.
    """

    kernel_id: str
    messages: list[Message] = attrs.field(factory=list)
    changes: list[tuple[int, int]] = attrs.field(factory=list)
    positions: list[tuple[int, str, OutputId]] = attrs.field(factory=list)
    skipped: set[int] = attrs.field(factory=set)
    problems: list[str] = attrs.field(factory=list)
    _drained: dict[str, int] = attrs.field(factory=dict)

    def take(self, record: Record) -> None:
        for event in record.events:
            if getattr(event, "kernel_id", None) == self.kernel_id:
                self._take(record, event)

    def _take(self, record: Record, event: Any) -> None:
        match event:
            case KernelLaunchRequested():
                self.changes.append((1, factor_of(event.version_id)))
            case MessagesAccepted():
                if event.first_sequence != len(self.messages) + 1:
                    self.problems.append(
                        f"record {record.sequence} numbers messages from {event.first_sequence} "
                        f"on, after {len(self.messages)}"
                    )
                rows = zip(event.types, event.payloads, event.producers, event.numbers, strict=True)
                for kind, payload, producer, number in rows:
                    value = _WORD.unpack(payload)[0] if kind == _FOLD_ID else None
                    self.messages.append(Message(value, producer, number))
            case MessagesSkipped():
                self.skipped.update(range(event.first_sequence, event.last_sequence + 1))
            case ReloadDrained():
                self._drained[event.operation_id] = event.applied_sequence
            case ReloadCompleted():
                first = self._drained[event.operation_id] + 1
                self.changes.append((first, factor_of(event.version_id)))
            case ConsumerRegistered():
                after = (event.after_sequence, event.after_index)
                self.positions.append((record.epoch, event.consumer, after))
            case OutputsAcknowledged():
                acknowledged = (event.sequence, event.index)
                self.positions.append((record.epoch, event.consumer, acknowledged))

    def position_before(self, epoch: int, consumer: str) -> OutputId | None:
        """Return where a consumer stood when ``epoch`` began; None: it was not known yet."""
        found = None
        for when, name, position in self.positions:
            if when < epoch and name == consumer:
                found = position
        return found


def history_of(kernel_id: str, records: Iterable[Record]) -> History:
    history = History(kernel_id)
    for record in records:
        history.take(record)
    return history


class Reference:
    """State and outputs after each message, as a run without crashes has them.

    Args:
        skipped: messages that are never applied; all that the history knows by default.
    """

    def __init__(self, history: History, skipped: Collection[int] | None = None) -> None:
        self._history = history
        self._values = [message.value for message in history.messages]
        for sequence in history.skipped if skipped is None else skipped:
            self._values[sequence - 1] = None
        self._words: list[tuple[int, int, int]] = [(0, 0, 0)]
        starts = [start for start, _ in history.changes]
        digest = total = count = 0
        for sequence, value in enumerate(self._values, 1):
            if value is not None:
                factor = history.changes[bisect_right(starts, sequence) - 1][1]
                term = value * factor
                digest = (digest * 6364136223846793005 + term + 1442695040888963407) & _MASK
                total, count = (total + term) & _MASK, count + 1
            self._words.append((digest, total, count))

    @property
    def last(self) -> int:
        return len(self._history.messages)

    def words(self, sequence: int) -> list[int]:
        """Return region ``state`` after message ``sequence``."""
        return [*self._words[sequence], 0]

    def outputs(self, sequence: int) -> list[bytes]:
        """Return the payloads of a message's outputs, by index; a skipped one has none."""
        if sequence in self._history.skipped:
            return []
        digest, total, count = self._words[sequence]
        value = self._values[sequence - 1]
        if value is None:
            return [_WORD.pack(count)]
        return [_WORD.pack(digest)] + ([_WORD.pack(total)] if value & 1 else [])

    def identities(self, after: OutputId, through: OutputId) -> list[OutputId]:
        """Return all outputs after one and up to another, in order."""
        return [
            (sequence, index)
            for sequence in range(max(after[0], 1), min(through[0], self.last) + 1)
            for index in range(len(self.outputs(sequence)))
            if after < (sequence, index) <= through
        ]

    def cells(self, sequences: Iterable[int]) -> dict[int, str]:
        """Return the SHA-256 (hex) of region ``cells`` after each of ``sequences``."""
        wanted, cells, digests = set(sequences), np.zeros(CELLS, np.float32), {}
        half = np.float32(0.5)
        if 0 in wanted:
            digests[0] = hashlib.sha256(cells.tobytes()).hexdigest()
        for sequence, value in enumerate(self._values, 1):
            if value is not None:
                cells = cells * half + np.float32(value & 1023)
            if sequence in wanted:
                digests[sequence] = hashlib.sha256(cells.tobytes()).hexdigest()
        return digests
