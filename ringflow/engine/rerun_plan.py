"""What a rerun needs of a journal: a kernel's messages, its kept recovery points, its codes. Pure.

- A span leads from one kept recovery point to the next; the code may change on the way.
- What messages and code alone don't lead over is an obstacle, and has a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

import attrs

from ringflow.device.posting import Posting
from ringflow.engine.skipped import is_in
from ringflow.engine.state import EngineState
from ringflow.engine.state_codec import decode_state
from ringflow.errors import UnknownKernelError, UsageError
from ringflow.events import lifecycle as life_events
from ringflow.events.messages import BulkMessageAccepted, MessagesAccepted, MessagesLost
from ringflow.events.payloads import LeftOutPayload
from ringflow.events.reload import ReloadCompleted
from ringflow.journal.foundation import Foundation
from ringflow.journal.record import Record
from ringflow.statemachines.hot_reload import Reload
from ringflow.statemachines.lifecycle import RecoveryPoint


@attrs.frozen(kw_only=True)
class CodeChange:
    """A reload on the way: ``point`` names the code that handles messages from ``first`` on."""

    first: int
    point: RecoveryPoint


@attrs.frozen(kw_only=True)
class Span:
    """From the state of ``start`` to that of ``end``.

    Attributes:
        messages: those in between, in order.
        changes: of the code, in order.
        obstacle: why messages and code alone don't lead there; empty if they do.
    """

    start: RecoveryPoint
    end: RecoveryPoint
    messages: tuple[Posting, ...]
    changes: tuple[CodeChange, ...]
    obstacle: str


@attrs.define
class _Step:
    """What came with one recovery point, since the one before."""

    point: RecoveryPoint
    change: CodeChange | None
    obstacle: str


@attrs.define
class _History:
    """A fold of the journal, for one kernel."""

    kernel_id: str
    posting_of: Callable[[BulkMessageAccepted], Posting]
    state: EngineState = attrs.field(factory=EngineState)
    messages: dict[int, Posting] = attrs.field(factory=dict)
    steps: list[_Step] = attrs.field(factory=list)
    _obstacle: str = ""

    def begin(self, base: Foundation) -> None:
        """Begin with the recovery points of a base record; what led to them is not there."""
        self.state = decode_state(base.state)
        if (life := self.state.kernels.get(self.kernel_id)) is not None:
            self.steps = [
                _Step(point, None, "what led there was archived") for point in life.recovery_points
            ]

    def take(self, record: Record) -> None:
        for event in record.events:
            self.state.apply(event)
            if getattr(event, "kernel_id", "") != self.kernel_id:
                continue
            match event:
                case MessagesAccepted():
                    rows = zip(event.types, event.payloads, strict=True)
                    for sequence, (kind, payload) in enumerate(rows, event.first_sequence):
                        if isinstance(payload, LeftOutPayload):
                            self._obstacle = f"message {sequence} was left out of the journal"
                        self.messages[sequence] = Posting(sequence, kind, payload)
                case BulkMessageAccepted(payload=LeftOutPayload()):
                    self._obstacle = f"message {event.sequence} was left out of the journal"
                case BulkMessageAccepted():
                    self.messages[event.sequence] = self.posting_of(event)
                case MessagesLost():
                    self._obstacle = f"messages from {event.first_sequence} on were lost"
                case life_events.RecoveryPointCommitted():
                    self._take_point(event)
                case ReloadCompleted():
                    self._take_change(event)

    def _take_point(self, event: life_events.RecoveryPointCommitted) -> None:
        if event.reason in ("restore", "rollback"):
            self._obstacle = f"another state was put in its place by {event.reason}()"
        point = self.state.kernels[self.kernel_id].recovery_points[-1]
        self.steps.append(_Step(point, None, self._obstacle))
        self._obstacle = ""

    def _take_change(self, event: ReloadCompleted) -> None:
        reload = self.state.operations[event.operation_id]
        assert isinstance(reload, Reload)
        step = self.steps[-1]  # it came in the same record
        step.change = CodeChange(first=reload.applied_sequence + 1, point=step.point)
        if reload.convert:
            step.obstacle = f"the reload to {reload.new_version!r} converted regions"

    def span(self, start: int, end: int) -> Span:
        """Return the span between two of ``steps``."""
        first, last = self.steps[start].point, self.steps[end].point
        between = self.steps[start + 1 : end + 1]
        obstacles = [step.obstacle for step in between if step.obstacle]
        if last.replay_from < first.replay_from:
            obstacles.append("the kernel went back to an earlier message")
        skipped = self.state.marks[self.kernel_id].skipped
        wanted = [
            sequence
            for sequence in range(first.replay_from, last.replay_from)
            if not is_in(skipped, sequence)
        ]
        missing = [sequence for sequence in wanted if sequence not in self.messages]
        if missing and not obstacles:
            obstacles.append(f"message {missing[0]} is not in the journal")
        return Span(
            start=first,
            end=last,
            messages=tuple(self.messages[one] for one in wanted if one in self.messages),
            changes=tuple(step.change for step in between if step.change is not None),
            obstacle="; ".join(obstacles),
        )


@attrs.frozen(kw_only=True)
class RerunPlan:
    """All spans of a kernel, oldest first; ``grid`` in blocks."""

    kernel_id: str
    grid: tuple[int, int, int]
    spans: tuple[Span, ...]


def plan_rerun(
    records: Iterable[Record],
    kernel_id: str,
    *,
    posting_of: Callable[[BulkMessageAccepted], Posting],
    base: Foundation | None = None,
) -> RerunPlan:
    """Return the spans between the recovery points that are kept.

    Args:
        posting_of: gives a message whose data is an object.
        base: what stands for records that were archived.
    Raises:
        UnknownKernelError: the journal does not have it.
        UsageError: it has fewer than two recovery points.
    """
    history = _History(kernel_id, posting_of)
    if base is not None:
        history.begin(base)
    for record in records:
        history.take(record)
    kernels: Mapping[str, object] = history.state.kernels
    if kernel_id not in kernels:
        raise UnknownKernelError(kernel_id, tuple(kernels), advice="correct the id")
    life = history.state.kernels[kernel_id]
    kept = [index for index, step in enumerate(history.steps) if step.point in life.recovery_points]
    if len(kept) < 2:
        raise UsageError(
            f"kernel {kernel_id!r} has {len(kept)} recovery points, a rerun leads from one to the "
            "next; take a checkpoint first"
        )
    x, y, z = life.grid
    return RerunPlan(
        kernel_id=kernel_id,
        grid=(x, y, z),
        spans=tuple(history.span(start, end) for start, end in pairwise(kept)),
    )
