"""Faults: any effect of device, storage or journal fails, the n-th of its kind or by chance.

- An effect's kind is ``PLACE.CALL``: ``journal.datasync``, ``checkpoints.rename``,
  ``objects.write``, ``host:1.copy_in``. A pattern may have ``*`` for either part.
- Each effect is noted before it happens; ``effects`` is what a scenario prints.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from random import Random
from typing import Final, final

import attrs

from ringflow.errors import DeviceError, UsageError
from ringflow.simulate.files import CrashError

Failure = Callable[[str], Exception]

FAILURES: Final[dict[str, Failure]] = {
    "crash": lambda kind: CrashError(f"the power goes off at {kind}"),
    "io": lambda kind: OSError(errno.EIO, f"injected in {kind}"),
    "full": lambda kind: OSError(errno.ENOSPC, f"injected in {kind}"),
    "device": lambda kind: DeviceError(f"injected in {kind}", call=kind.split(".")[-1]),
}
"""What a fault can be; ``fail`` takes ``io`` for files and ``device`` for devices by itself."""
FLIP: Final = "flip"
"""A fault that raises nothing: of what ``copy_in`` wrote one bit is wrong."""
KINDS: Final = ("fail", *FAILURES, FLIP)

CALLS_OF_FILES: Final = (
    "create", "write", "reserve", "trim", "datasync", "rename", "truncate", "delete",
    "fsync_folder",
)  # fmt: skip
CALLS_OF_DEVICES: Final = (
    "allocate", "allocate_mapped", "free", "copy_in", "copy_out", "copy_to_peer",
    "digest_blocks", "load", "unload", "launch",
)  # fmt: skip


@final
@attrs.frozen
class Effect:
    """One effect that happened, or failed.

    Attributes:
        kind: ``PLACE.CALL``.
        what: the file's or allocation's name.
    """

    kind: str
    what: str
    failed: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.what}{' fails' if self.failed else ''}".rstrip()


@attrs.define
class _Armed:
    pattern: str
    left: int
    failure: str


@final
class Faults:
    """What is armed, and what happened so far.

    Attributes:
        effects: all effects since the world began, in order.
        crashed: the power went off at one of them.
        muted: nothing is noted and nothing fails: whose effects these are has crashed.
    """

    def __init__(self, random: Random) -> None:
        self.effects: list[Effect] = []
        self.crashed = False
        self.muted = False
        self._random = random
        self._armed: list[_Armed] = []
        self._chance = 0.0
        self._chance_of: tuple[str, ...] = ()

    def fail(self, pattern: str, *, nth: int = 1, failure: str = "fail") -> None:
        """Let the ``nth`` effect from now on, of those that the pattern names, fail once.

        Args:
            failure: one of ``KINDS``; ``"fail"`` is the usual one of files or devices.
        Raises:
            UsageError: no effect can be of this kind.
        """
        place, _, call = pattern.rpartition(".")
        known = ("*", *CALLS_OF_FILES, *CALLS_OF_DEVICES)
        if not place or call not in known:
            raise UsageError(f"no effect is a {pattern!r}; name PLACE.CALL, CALL one of {known}")
        if failure not in KINDS:
            raise UsageError(f"no fault is a {failure!r}; use {', '.join(KINDS)}")
        if failure == FLIP and call != "copy_in":
            raise UsageError(f"{call} writes nothing that could be flipped; name DEVICE.copy_in")
        if nth < 1:
            raise UsageError(f"there is no {nth}. time; count from 1")
        self._armed.append(_Armed(pattern, nth, failure))

    def by_chance(self, probability: float, *patterns: str) -> None:
        """Let each effect of these patterns fail with a probability, as the seed has it."""
        self._chance, self._chance_of = probability, patterns

    @property
    def armed_count(self) -> int:
        return len(self._armed)

    def clear(self) -> None:
        """Disarm everything."""
        self._armed.clear()
        self._chance = 0.0

    def reached(self, place: str, call: str, what: str) -> bool:
        """Note an effect that is about to happen; raises what is armed for it.

        Returns whether it is to write one bit wrongly.
        """
        if self.muted:
            return False
        kind = f"{place}.{call}"
        failure = self._due(kind)
        self.effects.append(Effect(kind, what, failure is not None))
        if failure is None or failure == FLIP:
            return failure == FLIP
        if failure == "crash":
            self.crashed = True
        if failure == "fail":
            failure = "device" if ":" in place else "io"
        raise FAILURES[failure](kind)

    def _due(self, kind: str) -> str | None:
        due = None
        for armed in [armed for armed in self._armed if matches(armed.pattern, kind)]:
            armed.left -= 1  # each counts all effects of its kind, also those that another fails
            if armed.left == 0:
                self._armed.remove(armed)
                due = due or armed.failure
        if due is not None:
            return due
        if self._chance and any(matches(pattern, kind) for pattern in self._chance_of):
            return "fail" if self._random.random() < self._chance else None
        return None


def matches(pattern: str, kind: str) -> bool:
    """Return whether an effect's kind is one that a pattern means."""
    (place, _, call), (own_place, _, own_call) = pattern.rpartition("."), kind.rpartition(".")
    return place in ("*", own_place) and call in ("*", own_call)
