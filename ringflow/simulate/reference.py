"""What ``kernels/fold.cu`` must hold and say: a plain fold in Python of the journal's messages.

- It shares nothing with the engine but the reading of the journal: which messages were accepted, in
  which order, and at which of them a reload that completed, or a rollback, changed the code.
- A version's name says its factor: ``fold_3``, ``fold_3_traps``. Other kernels have no reference.
- Pure.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, Final, final

import attrs

from ringflow.events import lifecycle as e
from ringflow.events.messages import (
    BulkMessageAccepted,
    ConsumerForgotten,
    ConsumerRegistered,
    MessagesAccepted,
    MessagesLost,
    MessagesSkipped,
    OutputsAcknowledged,
)
from ringflow.events.reload import ReloadCompleted, ReloadDrained, ReloadRequested
from ringflow.journal.record import Record

FOLD, PROBE, SPIN = 1, 2, 3
MASK: Final = (1 << 64) - 1
_WORD: Final = struct.Struct("<Q")
_VERSION: Final = re.compile(r"fold_(\d+)(_\w+)?")

Words = tuple[int, int, int, int]
"""Hash, sum, count, conversions: the region ``state``."""
OutputId = tuple[int, int]


def factor_of(version_id: str) -> int:
    """Return a version's factor; 0 if it is none of ``fold.cu``."""
    found = _VERSION.fullmatch(version_id)
    return int(found[1]) if found else 0


def folded(words: Words, value: int, factor: int) -> Words:
    """Return the state after one more number."""
    term = value * factor
    digest = (words[0] * 6364136223846793005 + term + 1442695040888963407) & MASK
    return digest, (words[1] + term) & MASK, (words[2] + 1) & MASK, words[3]


@final
@attrs.frozen
class Message:
    """One accepted message."""

    type: int
    payload: bytes
    producer: str
    number: int

    @property
    def value(self) -> int | None:
        """The number that it folds in, None if it folds none."""
        return _WORD.unpack(self.payload)[0] if self.type == FOLD else None


@final
@attrs.frozen
class Change:
    """From message ``first`` on this factor; ``converts``: a convert kernel ran before."""

    first: int
    factor: int
    converts: bool = False


@final
@attrs.define
class Course:
    """One way from the first message on: which code applied what; a rollback begins another one.

    Attributes:
        states: after each message, from 0 on.
    """

    base: Words
    changes: tuple[Change, ...]
    skipped: frozenset[int]
    messages: list[Message]
    states: list[Words] = attrs.field(factory=list)

    def through(self, last: int) -> Words:
        """Return the state after message ``last``."""
        starts = [change.first for change in self.changes]
        if not self.states:
            self.states.append(self.base)
        for sequence in range(len(self.states), last + 1):
            words, value = self.states[-1], self.messages[sequence - 1].value
            if value is not None and sequence not in self.skipped:
                change = self.changes[bisect_right(starts, sequence) - 1]
                words = folded(words, value, change.factor)
            self.states.append(words)
        carried = sum(change.converts for change in self.changes if change.first <= last + 1)
        return (*self.states[last][:3], self.base[3] + carried)

    def outputs(self, sequence: int) -> list[bytes]:
        """Return the payloads of a message's outputs, by index."""
        message = self.messages[sequence - 1]
        digest, total, count, _ = self.through(sequence)
        if message.value is None:
            return [_WORD.pack(count)] if message.type in (PROBE, SPIN) else []
        return [_WORD.pack(digest)] + ([_WORD.pack(total)] if message.value & 1 else [])


@final
@attrs.define
class History:
    """What the journal says of one kernel.

    Attributes:
        messages: those that count, in order; the first one has sequence 1.
        lost: (epoch, first sequence): what was told before that epoch from there on is void.
        positions: (epoch, consumer, output) of each registration and acknowledgement, in order.
        courses: all but the present one, oldest first.
        problems: what the numbering broke.
        is_founded: the state that it began with is known.
    """

    kernel_id: str
    base: Words = (0, 0, 0, 0)
    changes: tuple[Change, ...] = ()
    skipped: frozenset[int] = frozenset()
    messages: list[Message] = attrs.field(factory=list)
    lost: list[tuple[int, int]] = attrs.field(factory=list)
    positions: list[tuple[int, str, OutputId]] = attrs.field(factory=list)
    courses: list[Course] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)
    points: dict[str, tuple[Change, ...]] = attrs.field(factory=dict)
    is_founded: bool = True

    @property
    def is_known(self) -> bool:
        """Whether this is a kernel of ``fold.cu``, in all its codes."""
        factors = [change.factor for change in self.changes]
        return self.is_founded and bool(factors) and all(factors)

    @property
    def last(self) -> int:
        return len(self.messages)

    def position_before(self, epoch: int, consumer: str) -> OutputId:
        """Return where a consumer surely stood when ``epoch`` began, or where it began in it."""
        own = [(when, at) for when, name, at in self.positions if name == consumer]
        earlier = [at for when, at in own if when < epoch]
        return earlier[-1] if earlier else own[0][1] if own else (0, 0)

    def course(self) -> Course:
        """Return the present course."""
        return Course(self.base, self.changes, self.skipped, self.messages)

    def parts(self) -> None:
        """Keep the present course, because another one begins."""
        self.courses.append(self.course())


@final
class Histories:
    """The histories of all kernels, from the journal's records."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.kernels: dict[str, History] = {}
        self._reloads: dict[str, tuple[bool, int]] = {}  # converts, drained after, by operation
        for record in records:
            for event in record.events:
                self._take(event, record)
            for event in record.events:  # a point holds what its record has changed
                if isinstance(event, e.RecoveryPointCommitted):
                    history = self.of(event.kernel_id)
                    history.points[event.checkpoint] = history.changes

    def of(self, kernel_id: str) -> History:
        return self.kernels.setdefault(kernel_id, History(kernel_id))

    def _take(self, event: Any, record: Record) -> None:
        match event:
            case e.KernelLaunchRequested():
                history = self.of(event.kernel_id)
                history.changes = (Change(1, factor_of(event.version_id)),)
            case e.KernelForked():
                self._fork(event)
            case MessagesAccepted():
                rows = zip(event.types, event.payloads, event.producers, event.numbers, strict=True)
                messages = [Message(*row) for row in rows]
                self._accept(self.of(event.kernel_id), event.first_sequence, messages, record)
            case BulkMessageAccepted():
                message = Message(event.message_type, event.payload, event.producer, event.number)
                self._accept(self.of(event.kernel_id), event.sequence, [message], record)
            case MessagesSkipped():
                history = self.of(event.kernel_id)
                history.parts()
                skipped = range(event.first_sequence, event.last_sequence + 1)
                history.skipped |= frozenset(skipped)
            case MessagesLost():
                self.of(event.kernel_id).lost.append((record.epoch, event.first_sequence))
            case ConsumerRegistered():
                begins = (event.after_sequence, event.after_index)
                self.of(event.kernel_id).positions.append((record.epoch, event.consumer, begins))
            case OutputsAcknowledged():
                done = (event.sequence, event.index)
                self.of(event.kernel_id).positions.append((record.epoch, event.consumer, done))
            case ConsumerForgotten():
                history = self.of(event.kernel_id)
                history.positions = [one for one in history.positions if one[1] != event.consumer]
            case ReloadRequested():
                self._reloads[event.operation_id] = (bool(event.convert), 0)
            case ReloadDrained():
                converts, _ = self._reloads[event.operation_id]
                self._reloads[event.operation_id] = converts, event.applied_sequence
            case ReloadCompleted():
                converts, after = self._reloads[event.operation_id]
                history = self.of(event.kernel_id)
                change = Change(after + 1, factor_of(event.version_id), converts)
                history.changes = (*history.changes, change)
            case e.KernelRolledBack():
                history = self.of(event.kernel_id)
                history.parts()
                history.changes = history.points[event.checkpoint]

    def _fork(self, event: e.KernelForked) -> None:
        source, fork = self.of(event.source), self.of(event.kernel_id)
        fork.is_founded = source.is_known and source.last >= event.at_sequence
        if fork.is_founded:  # not so for volatile ones, whose messages nobody has
            changes = source.points[event.checkpoint]
            origin = attrs.evolve(source.course(), changes=changes, states=[])
            fork.base = origin.through(event.at_sequence)

    def _accept(
        self, history: History, first: int, messages: list[Message], record: Record
    ) -> None:
        if first != history.last + 1:
            history.problems.append(
                f"record {record.sequence} numbers messages from {first} on, after {history.last}"
            )
        history.messages += messages
