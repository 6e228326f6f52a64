"""Messages that stay on the host although their kernel could take them.

- A scenario says so, to fix what a real run left to chance: how far a kernel had come when it was
  stopped. It holds for a kernel's name, so also for the engine after a restart.
- Where nobody has said anything it costs a look at an empty mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar
from typing import Final, final


@final
class Withheld:
    """Up to which message kernels get what is sent to them."""

    def __init__(self) -> None:
        self._through: dict[str, int] = {}
        self._tell: Callable[[str], None] = lambda kernel_id: None

    @property
    def through(self) -> Mapping[str, int]:
        """The last sequence that may be posted, by kernel; the mapping is always the same one."""
        return self._through

    def on_change(self, tell: Callable[[str], None]) -> None:
        """Have ``tell`` called with a kernel's name when more of its messages may be posted."""
        self._tell = tell

    def withhold(self, kernel_id: str, *, after: int) -> None:
        """Post nothing after the message ``after``; what is on the device already stays there."""
        self._through[kernel_id] = after
        self._tell(kernel_id)

    def release(self, kernel_id: str) -> None:
        """Post all that comes; what waited goes now."""
        self._through.pop(kernel_id, None)
        self._tell(kernel_id)


_HERE: Final[ContextVar[Withheld | None]] = ContextVar("withheld", default=None)


def withheld_here() -> Withheld:
    """Return what the context says; an own, empty one where it says nothing."""
    return _HERE.get() or Withheld()


def let_withhold(context: Context, withheld: Withheld) -> None:
    """Let engines that are opened in ``context`` follow ``withheld``."""
    context.run(_HERE.set, withheld)
