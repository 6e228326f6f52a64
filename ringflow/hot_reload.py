"""What a hot reload gives back to who asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import attrs


@final
@attrs.frozen(kw_only=True)
class ReloadResult:
    """A completed hot reload.

    Attributes:
        at_sequence: the first message that the new code handled.
        state_bytes: bytes of the new code's regions.
        pause_s: from the quiesce request until the new code took messages.
        digests: SHA-256 (hex) by region, after the swap and before the first message.
        step_s: seconds that each step took.
    """

    operation_id: str
    kernel_id: str
    old_version: str
    new_version: str
    at_sequence: int
    state_bytes: int
    pause_s: float
    parked_count: int
    digests: Mapping[str, str]
    step_s: Mapping[str, float]

    @property
    def total_s(self) -> float:
        return sum(self.step_s.values())
