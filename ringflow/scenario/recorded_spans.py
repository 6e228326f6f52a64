"""When each recorded input began, ended or was broken off, and which came within which. Pure.

- An input's span is in one epoch. It ends behind the moment that ended it; where none did, with its
  own moment if it was done at once, else with the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, final

from ringflow.scenario.recorded_inputs import Input, Kind, Moment, belongs

PROVING: Final = "reload.restored"
_GATES: Final = ("migration.gate_opened", PROVING)
_TRAPPED: Final = re.compile(r"trapped at message (\d+)")


@final
class Spans:
    """The inputs of a journal as spans of its moments; all numbers are indices.

    Attributes:
        long: the inputs that go on.
        accepted: by kernel and sequence at which moment each message was accepted.
        fed: by kernel and sequence from which kernel, and which message of its, a routed one came.
    """

    def __init__(self, moments: Sequence[Moment], inputs: Sequence[Input]) -> None:
        self._moments, self._inputs = moments, inputs
        self._epoch_ends = _epoch_ends(moments)
        self.long = [at for at, one in enumerate(inputs) if one.kind in (Kind.LONG, Kind.CLOSE)]
        self.accepted = _accepted(moments)
        self.fed = _fed(moments)

    def epoch_end(self, at: int) -> int:
        return self._epoch_ends[self._moments[at].epoch]

    def next_start(self, at: int) -> int:
        after = at + 1
        return self._inputs[after].start if after < len(self._inputs) else len(self._moments)

    def end_of(self, at: int) -> int:
        """Return the moment just past an input's last one in its epoch."""
        one = self._inputs[at]
        if one.end is not None:
            return one.end + 1
        return one.start + 1 if one.kind is not Kind.LONG else self.epoch_end(one.start)

    def limit(self, one: Input) -> int | None:
        """Return the moment at which a request was broken off, None where it came to its end."""
        if one.kind is not Kind.LONG or (one.end is not None and not one.cancelled):
            return None
        return one.cancelled or min(self.epoch_end(one.start), self.closed(one.start))

    def closed(self, at: int) -> int:
        """Return where the engine of a moment's epoch was closed; past all moments if nowhere."""
        ends = (self._inputs[index] for index in self.long)
        return next(
            (
                one.end
                for one in ends
                if one.kind is Kind.CLOSE and one.end is not None and one.end >= at
            ),
            len(self._moments),
        )

    def last_own(self, one: Input, limit: int) -> int:
        """Return the last moment before ``limit`` of what an input led to."""
        first = self._moments[one.start].event
        return max(
            at
            for at in range(one.start, limit)
            if belongs(self._moments[at].event, first)
            # a cancellation itself leads to it
            and not (one.cancelled and self._moments[at].type == "kernel.hold_released")
        )

    def gate(self, owner: int) -> int | None:
        """Return where an operation let its kernel have messages again, None where it did not."""
        one = self._inputs[owner]
        limit = self.limit(one)
        for at in range(one.start, self.end_of(owner) if limit is None else limit):
            moment = self._moments[at]
            if moment.type in _GATES and moment.event["operation_id"] == one.operation:
                moved = limit is not None and moment.type != PROVING
                return None if moved else at  # it does not wait there to be broken off
        return None

    def owner(self, at: int, kernel_id: str) -> int | None:
        """Return the input that a kernel was stopped or held for at a moment."""
        for index in self.long:
            one = self._inputs[index]
            closes = one.kind is Kind.CLOSE
            own = closes or (one.kind is Kind.LONG and one.kernel_id == kernel_id)
            if own and one.start <= at < self.end_of(index):
                return index
        return None

    def is_inside(self, at: int) -> bool:
        """Whether an input came in the middle of another one, or another one in its own."""
        start = self._inputs[at].start
        for other in self.long:
            one = self._inputs[other]
            if other == at:
                continue
            if one.start < start < self.end_of(other):
                return True
        following = self._inputs[at + 1].start if at + 1 < len(self._inputs) else None
        is_long = at in self.long
        return is_long and following is not None and following < self.end_of(at)

    def rolled_back(self, at: int, kernel_id: str) -> int | None:
        """Return the last reload of a kernel before a moment that failed while it proved itself."""
        epoch = self._moments[at].epoch
        found = [
            index
            for index in self.long
            if (one := self._inputs[index]).kernel_id == kernel_id
            and one.end is not None
            and one.end < at
            and self._moments[one.start].epoch == epoch
            and self._moments[one.end].type == "reload.rolled_back"
            and self.gate(index) is not None
        ]
        return found[-1] if found else None

    def trapped_at(self, reload: int) -> int:
        """Return the message at which new code trapped, 0 where it failed otherwise."""
        found = _TRAPPED.search(self._inputs[reload].error)
        return int(found[1]) if found else 0


def _epoch_ends(moments: Sequence[Moment]) -> Mapping[int, int]:
    """Return the index just past each epoch's last moment."""
    return {moment.epoch: at + 1 for at, moment in enumerate(moments)}


def _accepted(moments: Sequence[Moment]) -> Mapping[str, Mapping[int, int]]:
    """Return by kernel and sequence at which moment each message was accepted."""
    found: dict[str, dict[int, int]] = {}
    for at, moment in enumerate(moments):
        if (sequence := _sequence(moment)) is not None:
            found.setdefault(moment.event["kernel_id"], {})[sequence] = at
    return found


def _sequence(moment: Moment) -> int | None:
    keys = {"messages.accepted": "first_sequence", "messages.bulk_accepted": "sequence"}
    key = keys.get(moment.type)
    return None if key is None else int(moment.event[key])


def _fed(moments: Sequence[Moment]) -> Mapping[str, Mapping[int, tuple[str, int]]]:
    """Return by kernel and sequence which kernel's message each routed one came from.

    What a route took stands in one record right behind the messages that it became.
    """
    found: dict[str, dict[int, tuple[str, int]]] = {}
    for at, moment in enumerate(moments):
        if moment.type != "route.taken":
            continue
        sent = [int(one) for one in moment.event["sequences"]]
        before = moments[max(at - len(sent), 0) : at]
        sequences = [one for before_it in before if (one := _sequence(before_it)) is not None]
        if len(sequences) == len(sent):
            of = [(moment.event["source"], one) for one in sent]
            found.setdefault(moment.event["target"], {}).update(zip(sequences, of, strict=True))
    return found
