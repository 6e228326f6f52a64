"""An operation in a paragraph of plain words: who, why, steps, pause, digests, outcome."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

from ringflow.cli.operations import OperationStory, Step
from ringflow.cli.story import size_text, timestamp
from ringflow.errors import UsageError

_DIGEST_CHARACTERS: Final = 12
_NAMED: Final = 3  # ids that an error names
_OUTCOMES: Final = {
    "migration": {
        "completed": "completed: the kernel works on {target}",
        "rolled_back": "was rolled back: the kernel works on {source} as before",
        "cancelled": "was cancelled: the kernel works on {source} as before",
        "failed": "failed, and so did the way back ({reason}): the kernel was restored or halted",
    },
    "reload": {
        "completed": "completed: the kernel runs version {new_version}",
        "rolled_back": "was rolled back: the kernel runs version {old_version} as before",
        "cancelled": "was cancelled: the kernel runs version {old_version} as before",
        "failed": "failed, and so did the way back ({reason}): the kernel was restored or halted",
    },
    "snapshot": {
        "saved": "was saved as checkpoint {checkpoint}",
        "failed": "failed ({reason}): the kernel went on, its last recovery point stands",
        "cancelled": "was cancelled: the kernel went on, its last recovery point stands",
    },
}


def find_operation(operations: Mapping[str, OperationStory], wanted: str) -> OperationStory:
    """Return the operation whose id is, or alone begins with, ``wanted``.

    Raises:
        UsageError: there is none, or more than one.
    """
    if wanted in operations:
        return operations[wanted]
    found = [one for one in operations if one.startswith(wanted) or one.endswith(wanted)]
    if len(found) == 1:
        return operations[found[0]]
    problem = "more than one operation's" if found else "no operation's"
    near = found[:_NAMED] or difflib.get_close_matches(wanted, operations, _NAMED, cutoff=0.0)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    said = f"{', '.join(near)}{more}" or "none, the journal has no operation"
    raise UsageError(
        f"{wanted!r} is {problem} id; {'they are' if found else 'the nearest'}: {said}; "
        "`ringflow journal explain PATH` lists all"
    )


def explain(operation: OperationStory) -> str:
    """Return the paragraph."""
    sentences = [_request(operation), *_steps(operation), *_failure(operation)]
    return " ".join([*sentences, _outcome(operation), *_digests(operation)])


def _request(operation: OperationStory) -> str:
    facts = operation.facts
    what = {
        "migration": "to move kernel {kernel_id} from {source} to {target}",
        "reload": "to reload kernel {kernel_id}, version {old_version}, as {new_version}",
        "snapshot": "to take a checkpoint of kernel {kernel_id}",
    }[operation.kind].format(**facts)
    by = f" by {facts['actor']}" if facts.get("actor") else ""
    request = operation.events[0]
    why = f" ({request['reason']})" if request.get("reason") else ""
    when = timestamp(operation.began_ns)
    return f"{operation.id} was asked for at {when}{by}{why}, {what}."


def _steps(operation: OperationStory) -> list[str]:
    parts = [f"{step.state} {_duration(step)}" for step in operation.steps if step.ended_ns]
    sentences = [f"Its steps: {', '.join(parts)}."] if parts else []
    facts = operation.facts
    if "applied_sequence" in facts:
        sentences.append(f"The state held all messages to {facts['applied_sequence']}.")
    if facts.get("path"):
        size = size_text(int(facts.get("transferred_bytes", 0)))
        sentences.append(f"{size} went by way of {facts['path']}.")
    pause_ns = int(facts.get("pause_ns", 0))
    if pause_ns:
        parked = facts.get("parked_count")
        waiting = f", {parked} messages were parked by then" if parked is not None else ""
        sentences.append(f"The kernel paused for {pause_ns / 1e6:.1f} ms{waiting}.")
    return sentences


def _duration(step: Step) -> str:
    assert step.ended_ns is not None
    return f"{(step.ended_ns - step.began_ns) / 1e6:.1f} ms"


def _failure(operation: OperationStory) -> list[str]:
    failed = operation.find("step_failed")
    if failed is None:
        return []
    if failed.get("cancelled"):
        return [f"It was withdrawn during {failed['step']}."]
    return [f"Step {failed['step']} failed: {str(failed['reason']).strip()}."]


def _outcome(operation: OperationStory) -> str:
    if operation.ended_ns is None:
        return f"It is not over: {operation.state} since {timestamp(operation.steps[-1].began_ns)}."
    text = _OUTCOMES[operation.kind][operation.state].format(**operation.facts)
    took_ms = (operation.ended_ns - operation.began_ns) / 1e6
    sentence = f"It {text} ({timestamp(operation.ended_ns)}, after {took_ms:.1f} ms)."
    failure = operation.facts.get("retire_failure")
    return f"{sentence} Giving the source's memory back failed: {failure}." if failure else sentence


def _digests(operation: OperationStory) -> list[str]:
    digests: Mapping[str, Any] = operation.facts.get("digests") or {}
    if not digests:
        return []
    shown = ", ".join(f"{name} {str(one)[:_DIGEST_CHARACTERS]}" for name, one in digests.items())
    return [f"Digests of the regions: {shown}."]
