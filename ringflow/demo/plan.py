"""The demo's operations, in order, and which of them a journal shows as done.

- Pure: what is left to do after a restart follows from the operations that the engine lists.
- An operation that a restart rolled back is not done and is tried again; the third version's
  reload is done once its own trap has rolled it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import attrs

from ringflow.errors import UsageError

Kind = Literal["migration", "reload"]


@attrs.frozen
class Phase:
    """An operation that the demo performs.

    Attributes:
        target: the device to migrate to, or the version to reload.
        share: part of the script after whose replies the operation starts.
        ending: the state in which the operation has to end.
    """

    kind: Kind
    target: str
    share: float
    ending: str = "completed"

    @property
    def title(self) -> str:
        return f"{'migrate to' if self.kind == 'migration' else 'reload'} {self.target}"

    def starts_at(self, message_count: int) -> int:
        """Return how many replies there must be before the operation starts."""
        return int(self.share * message_count)


@attrs.frozen
class Seen:
    """An operation as the engine's journal has it; ``failure`` says why it rolled back."""

    operation_id: str
    kind: str
    state: str
    target: str
    failure: str = ""


DEVICES: Final = ("host:0", "host:1")


def check_devices(devices: Sequence[str]) -> None:
    """Raise ``UsageError`` if the demo's story can't be told on these devices."""
    if not 2 <= len(devices) <= 3 or len(set(devices)) != len(devices):
        raise UsageError(
            f"the demo needs two or three different devices, not {', '.join(devices) or 'none'}: "
            "where it begins, where it moves to, and where it moves last if that is not the first"
        )
    if len(devices) == 2 and devices[1].startswith("cuda:"):
        raise UsageError(
            f"version 3 traps on {devices[1]!r}, and a trap takes a GPU along: the kernel is back "
            f"on {devices[0]!r} then and needs a third device to move to, such as host:0"
        )


def plan_for(devices: Sequence[str] = DEVICES) -> tuple[Phase, ...]:
    """Return the demo's operations: out, a good reload, a bad one, and on or back."""
    away, last = devices[1], devices[2] if len(devices) > 2 else devices[0]
    return (
        Phase("migration", away, 0.15),
        Phase("reload", "v2", 0.35),
        Phase("reload", "v3", 0.60, ending="rolled_back"),
        Phase("migration", last, 0.80),
    )


PLAN: Final = plan_for()


def fulfils(seen: Seen, phase: Phase) -> bool:
    """Return whether an operation is the phase, ended as it should."""
    same = (seen.kind, seen.target, seen.state) == (phase.kind, phase.target, phase.ending)
    return same and (phase.ending == "completed" or "trap" in seen.failure.lower())


def done_phases(operations: Iterable[Seen], plan: Sequence[Phase] = PLAN) -> tuple[Seen, ...]:
    """Return the operations that did the first phases of the plan, in the plan's order.

    Args:
        operations: all of the kernel's operations, oldest first.
    """
    done: list[Seen] = []
    for seen in operations:
        if len(done) < len(plan) and fulfils(seen, plan[len(done)]):
            done.append(seen)
    return tuple(done)
