"""In which order a scenario does what a journal recorded, so that it comes to the same again. Pure.

- A real kernel is somewhere behind what is sent to it; a simulated one has always caught up. How
  far it had come is in the journal wherever its grid was stopped or held: at that *boundary* the
  scenario withholds the messages after it, and gives those up to it first.
- A request that a crash or a cancellation broke off is begun when all that came meanwhile is done,
  goes on to its last event, and is broken off there.
- Everything else keeps its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import attrs

from ringflow.scenario.recorded_inputs import Input, Kind, Moment, unsteady_epochs
from ringflow.scenario.recorded_spans import Spans

Place = tuple[int, int, int]
"""A moment's index, then before (< 0), at (0) or after it, then the order among equals."""
_BEFORE: Final = -1
_FIRST: Final = -2
_AFTER: Final = 1
_HELD: Final = "snapshot.held"


@final
@attrs.frozen(kw_only=True)
class Do:
    """An input's command.

    Attributes:
        begun: others come before it has ended.
        quiet: its events are not its output.
        left_open: fields of an operation's own events that fall anew in each run.
        stop_at: of a restart that a crash broke off: its last event, and whose that is.
        span: the moments from its first to the next input's; every moment is in one span.
    """

    input: Input
    begun: bool
    quiet: bool
    span: tuple[int, int]
    left_open: tuple[str, ...] = ()
    stop_at: Until | None = None


@final
@attrs.frozen
class Until:
    """An event comes: of an operation or a kernel."""

    event: str
    of: str


@final
@attrs.frozen
class Await:
    input: Input


@final
@attrs.frozen
class Cancel:
    input: Input


@final
@attrs.frozen
class Deliver:
    """A kernel gets its messages up to one, None for all."""

    kernel_id: str
    through: int | None


@final
@attrs.frozen
class Handled:
    """A kernel has come to a message: it is stopped or held right after it."""

    kernel_id: str
    sequence: int


@final
@attrs.frozen
class Settle:
    """What was withheld does what it does."""


Act = Do | Until | Await | Cancel | Deliver | Handled | Settle


@attrs.define(eq=False)
class _Cap:
    """Messages after ``applied`` are withheld from ``on`` until ``off``, or until an owner is done.

    Attributes:
        owner: the index of the input in which the boundary lies, None for a halt.
        after: a reload that was rolled back: its code may have handled messages after ``applied``.
        to_its_end: it ends with the owner, not when the boundary has come.
    """

    kernel_id: str
    applied: int
    on: Place
    off: Place
    owner: int | None
    to_its_end: bool = False
    after: int | None = None
    over: bool = False


def in_order(moments: Sequence[Moment], inputs: Sequence[Input]) -> list[Act]:
    """Return what the scenario does, command by command."""
    return _Planner(moments, inputs).acts()


@final
class _Planner:
    def __init__(self, moments: Sequence[Moment], inputs: Sequence[Input]) -> None:
        self._moments, self._inputs = moments, inputs
        self._unsteady = unsteady_epochs(moments)
        self._spans = Spans(moments, inputs)
        self._sends = {(one.kernel_id, one.sequence): at for at, one in enumerate(inputs)}
        self._places: list[Place] = [(one.start, 0, at) for at, one in enumerate(inputs)]
        self._caps: list[_Cap] = []
        self._bounded: dict[int, int] = {}
        self._proving: set[int] = set()
        self._handled: dict[int, list[Handled]] = {}
        self._acts: list[Act] = []
        self._open: dict[int, Input] = {}
        self._breaking: dict[int, int] = {}
        self._withheld: dict[str, int] = {}

    def acts(self) -> list[Act]:
        self._break_off_late()
        for at in range(len(self._moments)):
            self._consider_boundary(at)
            self._consider_halt(at)
        self._proving = {cap.after for cap in self._caps if cap.after is not None}
        self._caps += [
            _Cap(
                self._inputs[at].kernel_id,
                self._bounded[at],
                self._places[at],
                self._places[at],
                at,
            )
            for at in self._proving - {cap.owner for cap in self._caps}
        ]
        order = sorted(range(len(self._inputs)), key=self._places.__getitem__)
        following = [*order[1:], None]
        for at, after in zip(order, following, strict=True):
            self._do(at, self._places[after] if after is not None else (len(self._moments), 0, 0))
        self._end_until(len(self._moments))
        self._break_off_until((len(self._moments), 0, 0))
        self._deliver((len(self._moments), 0, 0))
        return self._acts

    # Where inputs stand

    def _break_off_late(self) -> None:
        """Place what was broken off where that happened, or where its kernel had to go on."""
        for at, one in enumerate(self._inputs):
            if one.kind is Kind.CLOSE and one.end is not None:
                self._places[at] = (one.end, 0, at)
            elif (limit := self._spans.limit(one)) is not None:
                gate = self._spans.gate(at)
                late = (limit, _BEFORE, at)
                self._places[at] = late if gate is None else (gate, _AFTER, at)

    def _consider_boundary(self, at: int) -> None:
        moment = self._moments[at]
        proved = moment.type == "kernel.recovery_point" and moment.event["reason"] == "reload"
        if moment.type not in ("kernel.quiesced", _HELD) and not proved:
            return
        kernel_id = moment.event["kernel_id"]
        owner = self._spans.owner(at, kernel_id)
        if owner is None:
            return
        if proved:
            self._keep_back(at, kernel_id, owner, int(moment.event["replay_from"]) - 1)
            return
        applied = int(moment.event["applied_sequence"])
        place, gate = self._places[owner], self._spans.gate(owner)
        if applied and applied in self._spans.accepted.get(kernel_id, {}):
            self._handled.setdefault(owner, []).append(Handled(kernel_id, applied))
        self._bounded[owner] = applied
        first = applied if gate is None else applied + _parked(self._moments[gate])
        for sequence, accepted in self._spans.accepted.get(kernel_id, {}).items():
            index = self._sends.get((kernel_id, sequence))
            if index is None or self._moments[accepted].epoch != moment.epoch:
                continue
            if sequence <= first and self._places[index] > place:
                self._places[index] = (place[0], _FIRST, index)
            elif sequence > first and gate is not None and self._places[index] < place:
                self._places[index] = (place[0], _AFTER, index)
        self._bring(kernel_id, applied, place, moment.epoch)
        on = self._place_of(kernel_id, applied + 1, at)
        if gate is not None and self._spans.limit(self._inputs[owner]) is not None:
            on = place if on is None else min(on, place)
        if on is not None and on <= place:
            after = self._spans.rolled_back(at, kernel_id)
            if after is not None and self._spans.trapped_at(after) <= applied:
                after = None
            self._caps.append(_Cap(kernel_id, applied, on, place, owner, after=after))

    def _bring(self, kernel_id: str, applied: int, place: Place, epoch: int) -> None:
        """Place before ``place`` what other kernels were sent that became messages up to there."""
        wanted: dict[str, int] = {}
        for sequence, (source, sent) in self._spans.fed.get(kernel_id, {}).items():
            if sequence <= applied and source != kernel_id:
                wanted[source] = max(sent, wanted.get(source, 0))
        for source, through in wanted.items():
            for sequence, accepted in self._spans.accepted.get(source, {}).items():
                index = self._sends.get((source, sequence))
                if (
                    index is not None
                    and sequence <= through
                    and self._moments[accepted].epoch == epoch
                    and self._places[index] > place
                ):
                    self._places[index] = (place[0], _FIRST, index)

    def _keep_back(self, at: int, kernel_id: str, owner: int, applied: int) -> None:
        """Keep new code from more messages than it had handled when it was found good."""
        on, off = self._place_of(kernel_id, applied + 1, at), self._places[owner]
        if on is not None and on[0] < at:
            self._caps.append(_Cap(kernel_id, applied, on, off, owner, to_its_end=True))

    def _place_of(self, kernel_id: str, sequence: int, before: int) -> Place | None:
        """Return where a message is sent; where its epoch begins if that is a later one."""
        accepted = self._spans.accepted.get(kernel_id, {}).get(sequence)
        if accepted is None:
            return None
        epoch = self._moments[before].epoch
        if self._moments[accepted].epoch != epoch:
            opened = [
                at
                for at, one in enumerate(self._inputs)
                if one.line == "restart" and self._moments[one.start].epoch == epoch
            ]
            return self._places[opened[0]] if accepted < before and opened else None
        index = self._sends.get((kernel_id, sequence))
        source, sent = self._spans.fed.get(kernel_id, {}).get(sequence, ("", 0))
        index = self._sends.get((source, sent)) if index is None else index
        return (accepted, 0, 0) if index is None else self._places[index]

    def _consider_halt(self, at: int) -> None:
        """Let what was asked after a message that halted its kernel be asked before it does."""
        moment = self._moments[at]
        poison = int(moment.event.get("message_sequence", 0))
        if moment.type != "kernel.halted" or not poison:
            return
        kernel_id = moment.event["kernel_id"]
        on = self._place_of(kernel_id, poison, at)
        if on is None:
            return
        between = (one for one in self._inputs if on[0] < one.start < at)
        if any(one.kernel_id == kernel_id for one in between):
            self._caps.append(_Cap(kernel_id, poison - 1, on, (at, _BEFORE, 0), None))

    # What is done there

    def _do(self, at: int, following: Place) -> None:
        one, place = self._inputs[at], self._places[at]
        self._end_until(place[0])
        self._break_off_until(place)
        self._deliver(place)
        self._acts += self._handled.get(at, ())
        owned, limit = [cap for cap in self._caps if cap.owner == at], self._spans.limit(one)
        begun = one.kind is Kind.LONG and bool(
            owned
            or limit is not None
            or at in self._proving
            or (one.end is not None and following[0] <= one.end)
        )
        span = one.start, self._spans.next_start(at)
        quiet = (
            begun or bool(self._open or self._breaking) or one.hidden or self._spans.is_inside(at)
        )
        moved = place[0] != one.start and one.kind is not Kind.CLOSE
        quiet = quiet or moved or self._moments[one.start].epoch in self._unsteady
        self._acts.append(
            Do(
                input=one,
                begun=begun,
                quiet=quiet,
                span=span,
                left_open=self._left_open(one, limit),
                stop_at=self._recovered(at),
            )
        )
        gate = self._spans.gate(at) if begun else None
        if gate is not None:
            self._acts.append(Until(self._moments[gate].type, one.operation))
        if limit is not None:
            self._breaking[at] = limit
        elif begun:
            self._open[at] = one
            self._pass(at, owned, has_gate=gate is not None)
        if one.kind in (Kind.CRASH, Kind.CLOSE):
            self._open.clear()
            for cap in self._caps:
                cap.over = cap.over or cap.off <= place

    def _left_open(self, one: Input, limit: int | None) -> tuple[str, ...]:
        """Return the fields that fall anew: how much of a route's is there when the gate opens."""
        waits = limit is not None or one.kernel_id in self._spans.fed
        moves = waits and one.line.startswith("migrate ")
        return (*one.changed, "parked_count") if moves else one.changed

    def _recovered(self, at: int) -> Until | None:
        """Return where a restart was broken off, None if somebody was served after it."""
        one, after = self._inputs[at], self._inputs[at + 1 : at + 2]
        if one.line != "restart" or not any(other.kind is Kind.CRASH for other in after):
            return None
        last = self._moments[self._spans.epoch_end(one.start) - 1]
        of = last.event.get("operation_id") or last.event.get("kernel_id") or ""
        return Until(last.type, of)

    def _break_off_until(self, place: Place) -> None:
        """Break off what a crash or a cancellation had broken off before ``place``."""
        for at, limit in list(self._breaking.items()):
            if limit > place[0]:
                continue
            del self._breaking[at]
            one, gate = self._inputs[at], self._spans.gate(at)
            last = self._spans.last_own(one, limit)
            if last != gate:
                for cap in self._caps:  # what lies behind the gate came of the messages
                    cap.over = cap.over or (cap.owner == at and gate is not None)
                self._deliver(place)
                event = self._moments[last].event
                of = event.get("operation_id") or one.kernel_id
                self._acts.append(Until(self._moments[last].type, of))
            if one.cancelled:
                self._acts.append(Cancel(one))
                for cap in self._caps:
                    cap.over = cap.over or cap.owner == at

    def _pass(self, at: int, caps: Sequence[_Cap], *, has_gate: bool) -> None:
        """Let an operation's boundary come, and then the messages after it."""
        one = self._inputs[at]
        if at in self._bounded and not has_gate:
            held = one.line.startswith("snapshot ")
            self._acts.append(
                Until(_HELD, one.operation) if held else Until("kernel.quiesced", one.kernel_id)
            )
        for cap in caps:  # code that fails is to fail when all that came meanwhile is there
            cap.over = not cap.to_its_end and at not in self._proving
        self._deliver(self._places[at])

    def _end_until(self, at: int) -> None:
        """Await what had ended before the moment ``at``."""
        for index, one in list(self._open.items()):
            if one.end is not None and one.end < at:
                del self._open[index]
                if index in self._proving:  # its messages are handled again, so far as they were
                    for cap in self._caps:
                        cap.over = cap.over or cap.owner == index
                    self._deliver((one.end, 0, 0))
                    self._proving.remove(index)
                    self._acts.append(Until("reload.step_failed", one.operation))
                    self._deliver((one.end, 0, 0))
                self._acts.append(Await(one))
                for cap in self._caps:
                    cap.over = cap.over or cap.owner == index

    def _deliver(self, place: Place) -> None:
        """Withhold from each kernel what it had not got at ``place``."""
        wanted: dict[str, int] = {}
        halted: list[str] = []
        for cap in self._caps:
            if cap.owner is None and cap.off <= place and not cap.over:
                cap.over = True
                halted.append(cap.kernel_id)
            if cap.on <= place and not cap.over and cap.after not in self._proving:
                known = wanted.get(cap.kernel_id, cap.applied)
                wanted[cap.kernel_id] = min(known, cap.applied)
        for kernel_id in dict.fromkeys([*self._withheld, *wanted]):
            through = wanted.get(kernel_id)
            if through != self._withheld.get(kernel_id):
                self._acts.append(Deliver(kernel_id, through))
        self._withheld = wanted
        self._acts += [Settle()] * bool(halted)


def _parked(gate: Moment) -> int:
    """Return how many messages waited there; the journal may have them behind it."""
    return int(gate.event["parked_count"])
