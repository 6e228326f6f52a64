"""What came into a journal from outside: requests, messages, openings, crashes. Pure.

- An input begins at a moment and has everything up to the next one as its consequence.
- What a long one led to (an operation, a launch, a stop, a rollback) ends at a moment of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, final

import attrs

from ringflow.journal.record import RawRecord
from ringflow.limits import EngineLimits

if TYPE_CHECKING:
    from ringflow.code_source import KernelCodeSource

ACCEPTED: Final = "messages.accepted.v1"
TORN: Final = "engine.torn_tail_cut.v1"
_NOT_AGAIN: Final = (TORN, "device.kernels_parked.v1")
"""What was cut was never acknowledged, and only GPUs park kernels."""
_HOST_PATH: Final = "host"
_NO_PATH: Final = "none"
Plain = Mapping[str, Any]


class Kind(Enum):
    SHORT = "done at once"
    LONG = "goes on"
    CRASH = "crash"
    CLOSE = "close"


@attrs.frozen
class Moment:
    """One event with its epoch; ``with_types`` are those of its record."""

    epoch: int
    event: Plain
    with_types: frozenset[str]

    @property
    def type(self) -> str:
        name: str = self.event["type"]
        return name.rsplit(".", 1)[0]


@final
@attrs.frozen(kw_only=True)
class Source:
    """A ``kernel`` or ``code`` command that must come first."""

    line: str
    code: KernelCodeSource


@final
@attrs.frozen(kw_only=True)
class Input:
    """A command of the scenario to be.

    Attributes:
        start: the index of the moment that it caused first.
        end: the index of the one that ended it, None where none did in its epoch.
        result, error: its own line of output; an error's begins with the error's class.
        cancelled: the index at which its cancellation was journaled, 0 where it was not cancelled.
        faults: effects that fail in it.
        hidden: its events are not the same in every run.
        kernel_id: the kernel that it is asked of, "" where there is none.
        operation: the operation's id, "" where it is none.
        sequence: of a message.
        changed: fields of its own events in which the scenario asks for something else.
    """

    start: int
    line: str
    kind: Kind = Kind.SHORT
    name: str = ""
    end: int | None = None
    result: str = ""
    error: str = ""
    cancelled: int = 0
    hidden: bool = False
    kernel_id: str = ""
    operation: str = ""
    sequence: int = 0
    changed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()


def moments(records: Iterable[RawRecord]) -> Iterator[Moment]:
    """Yield a journal's events, as they are on host devices: GPUs get the names of some."""
    names: dict[str, str] = {}
    for record in records:
        types = frozenset(event["type"] for event in record.events)
        for event in record.events:
            if event["type"] in _NOT_AGAIN:
                continue
            for one in _singles(event):
                yield Moment(record.epoch, _on_host(one, names), types)


def _on_host(event: Plain, names: dict[str, str]) -> Plain:
    changed = dict(event)
    for device in event.get("devices", ()):
        known = set(names.values()) | set(event["devices"])
        free = (f"host:{number}" for number in range(1 << 16))
        if device not in names:
            own = device.startswith("host:")
            names[device] = device if own else next(one for one in free if one not in known)
    for key in ("device", "source", "target"):
        if event.get(key) in names:
            changed[key] = names[event[key]]
    if "devices" in event:
        changed["devices"] = [names[device] for device in event["devices"]]
    if event.get("path", _NO_PATH) != _NO_PATH:
        changed["path"] = _HOST_PATH
    return changed


def _singles(event: Plain) -> Iterator[Plain]:
    """Yield an event as a scenario's world writes it: there each message has its own record."""
    if event["type"] != ACCEPTED:
        yield event
        return
    for index in range(len(event["types"])):
        one = {key: [event[key][index]] for key in ("types", "payloads", "producers", "numbers")}
        yield {**event, **one, "first_sequence": int(event["first_sequence"]) + index}


def subject(event: Plain) -> str:
    """Return what a scenario's ``journal`` finds an event's own kind by."""
    if operation := event.get("operation_id"):
        return f"{operation}  "
    kernel = event.get("kernel_id") or event.get("source")
    if kernel:
        return f"{kernel}  {event['type'].split('.')[0]}."
    return "engine  "


def belongs(event: Plain, first: Plain) -> bool:
    """Whether an event is one of what ``first`` began: its own, or its kernel's life."""
    if event.get("operation_id"):
        return bool(event["operation_id"] == first.get("operation_id"))
    same = event.get("kernel_id") == first.get("kernel_id")
    return same and bool(event["type"].startswith("kernel."))


_WITHIN: Final = re.compile(r"has not obeyed \w+ within ([\d.]+) s")
"""The reason of a step that ran into its own deadline."""


def limits_said(moments: Sequence[Moment]) -> str:
    """Return the limits that a journal gives away.

    They are the deadline of a step that ran into it, how many traps halted a kernel, and how many
    recovery points were kept.
    """
    said: dict[str, float] = {}
    for moment in moments:
        if found := _WITHIN.search(str(moment.event.get("reason", ""))):
            said.setdefault("step_timeout_s", float(found[1]))
        if moment.type == "kernel.halted" and int(moment.event["attempts"]):
            said.setdefault("traps_in_a_row", int(moment.event["attempts"]))
    if kept := _points_kept(moments):
        said["recovery_points_kept"] = kept
    usual = EngineLimits()
    told = {key: value for key, value in said.items() if getattr(usual, key) != value}
    return " ".join(
        f"{key}={value}s" if key.endswith("_s") else f"{key}={value}" for key, value in told.items()
    )


def _points_kept(moments: Sequence[Moment]) -> int:
    """Return how many unnamed recovery points were left behind one that retention took; 0: none."""
    points: dict[str, list[str]] = {}
    kept = 0
    for moment in moments:
        mine = points.setdefault(moment.event.get("kernel_id", ""), [])
        if moment.type == "kernel.recovery_point" and not moment.event["pinned"]:
            mine.append(moment.event["checkpoint"])
        elif moment.type == "checkpoint.retired" and moment.event["checkpoint"] in mine:
            if moment.event["reason"] == "limit":
                behind = len(mine) - 1 - mine.index(moment.event["checkpoint"])
                kept = min(kept or behind, behind)
            mine.remove(moment.event["checkpoint"])
    return kept


_BY_ITSELF: Final = (
    "kernel.trapped",
    "kernel.halted",
    "kernel.device_lost",
    "route.taken",
    "route.dropped",
    "messages.lost",
)


def unsteady_epochs(moments: Sequence[Moment]) -> set[int]:
    """Return the epochs in which something happened by itself, and perhaps at another moment."""
    return {
        moment.epoch
        for moment in moments
        if (moment.type in _BY_ITSELF and "engine.opened.v1" not in moment.with_types)
    }
