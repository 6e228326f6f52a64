"""How a recorded operation went: its end, its error, and what has to fail so that it fails again.

- Pure. An operation's course is what its own epoch has of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, final

import attrs

from ringflow.scenario.recorded_inputs import Moment
from ringflow.scenario.short import first_line

_INJECTED: Final = re.compile(r"injected in ([\w:*-]+\.\w+)")
_DEVICE_STEPS: Final[Mapping[str, str]] = {
    "PrepareTarget": "{target}.load",
    "DigestSource": "{device}.digest_blocks",
    "TransferState": "{target}.copy_in",
    "RestoreTarget": "{target}.launch",
    "ValidateCode": "{device}.load",
    "RestoreCode": "{device}.launch",
    "CopyState": "{device}.copy_out",
    "SaveCheckpoint": "checkpoints.write",
}
"""What to let fail where a step failed for a reason that a world does not have by itself."""
_OWN_REASONS: Final = (
    "trap", "has not obeyed", "not done within", "memory differs", "kept regions", "variables ",
    "takes parameters", "convert kernel", "state outside of its regions",
)  # fmt: skip
"""What kernels and their code do to a step by themselves."""
_RESULTS: Final[Mapping[str, str]] = {
    "migration": "moved from {source} to {target}",
    "reload": "reloaded from {old_version} to {new_version}",
    "snapshot": "saved {checkpoint}",
}
_ENDS: Final = ("completed", "saved", "rolled_back", "failed", "cancelled")


@final
@attrs.define(eq=False)
class Course:
    """How an operation went.

    Attributes:
        end: the index of the moment that ended it, None where none did in its epoch.
        ended: that moment's name, "" where there is none.
        cancelled: the index at which its cancellation was journaled, 0 where it was not cancelled.
        failure: the step that failed, with its reason; "" where none did.
        faults: effects that fail in it.
        changed: fields of its own events in which the scenario asks for something else.
    """

    end: int | None = None
    ended: str = ""
    cancelled: int = 0
    failure: str = ""
    faults: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_input(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return what an ``Input`` has of it; ``event`` is its request."""
        operation, error = event["operation_id"], ""
        if self.ended in ("rolled_back", "failed"):
            what = f"operation '{operation}' ended {self.ended}: {self.failure}"
            error = first_line(f"OperationFailedError: {what}")
        done = self.ended in ("completed", "saved")
        return {
            "name": operation,
            "operation": operation,
            "result": _RESULTS[kind_of(event)].format(**event) if done else "",
            "error": error,
            "cancelled": self.cancelled,
            "faults": self.faults,
            "changed": self.changed,
            "notes": self.notes,
            "hidden": bool(self.changed),
        }


def kind_of(event: Mapping[str, Any]) -> str:
    """Return ``"migration"``, ``"reload"`` or ``"snapshot"``."""
    return str(event["type"].split(".")[0])


def injected(text: str) -> tuple[str, ...]:
    """Return the effects that a world let fail, by a reason that it gave."""
    return tuple(_INJECTED.findall(text))


def course_of(moments: Sequence[Moment], at: int, device: str) -> Course:
    """Return how the operation went that was asked for at a moment.

    Args:
        device: where its kernel was.
    """
    event, course, step = moments[at].event, Course(), ""
    for index, name in _own(moments, at):
        told = moments[index].event
        if name == "completed" and told.get("retire_failure"):
            course.changed = ("retire_failure",)
            course.notes = ("the source's memory was not given back; here it is",)
        if told.get("cancelled") or name == "cancelled":
            course.cancelled = course.cancelled or index
        if name == "step_failed" or (kind_of(event) == "snapshot" and name == "failed"):
            course.failure, step = f"{told['step']}: {told['reason']}", told["step"]
        elif name == "failed":
            course.failure += f"; {told['reason']}"
        if name in _ENDS and (name != "rolled_back" or not course.cancelled):
            course.end, course.ended = index, name
            break
    if not course.failure or course.cancelled:
        return course
    course.faults = _faults(event, step, course.failure, device)
    if course.faults and not injected(course.failure):  # a world has its own words for it
        course.failure = f"{step}: injected in {course.faults[0]}"
        course.changed += ("reason",)
    elif course.faults and course.end is not None:
        for moment in moments[course.end + 1 : course.end + 2]:
            if moment.type == "kernel.halted":
                course.faults += injected(moment.event["reason"])
    return course


def _own(moments: Sequence[Moment], at: int) -> Iterator[tuple[int, str]]:
    """Yield the indices and names of an operation's own events, from its request on."""
    epoch, operation = moments[at].epoch, moments[at].event["operation_id"]
    for index in range(at, len(moments)):
        if moments[index].epoch != epoch:
            return
        if moments[index].event.get("operation_id") == operation:
            yield index, moments[index].type.split(".")[1]


def _faults(event: Mapping[str, Any], step: str, failure: str, device: str) -> tuple[str, ...]:
    """Return the effects to let fail so that an operation fails again."""
    if again := injected(failure):
        return again
    if any(own in failure for own in _OWN_REASONS) or step not in _DEVICE_STEPS:
        return ()
    return (_DEVICE_STEPS[step].format(target=event.get("target"), device=device),)


def proved_after(moments: Sequence[Moment], at: int) -> int:
    """Return after how many messages a reload's new code was found good, 0 where it was not.

    It may have handled more than it had to until somebody looked; what is recovered later begins
    there.
    """
    event, drained = moments[at].event, 0
    for moment in moments[at:]:
        told, own = moment.event, moment.event.get("kernel_id") == event["kernel_id"]
        if moment.type == "reload.drained" and told["operation_id"] == event["operation_id"]:
            drained = int(told["applied_sequence"])
        if moment.type == "kernel.recovery_point" and own and told["reason"] == "reload":
            ours = str(told["checkpoint"]).endswith(event["operation_id"])
            return int(told["replay_from"]) - 1 - drained if ours else 0
    return 0
