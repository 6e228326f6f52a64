"""What a migration gives back to who asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import attrs


@final
@attrs.frozen(kw_only=True)
class MigrationResult:
    """A completed migration.

    Attributes:
        state_bytes: bytes of the kernel's regions, all of which were moved.
        pause_s: from the quiesce request until the target took messages.
        parked_count: messages that waited on the host in the pause.
        path: how the bytes went, e.g. ``"host"``.
        digests: SHA-256 (hex) by region, read from the target's memory.
        step_s: seconds that each step took.
    """

    operation_id: str
    kernel_id: str
    source_device: str
    target_device: str
    state_bytes: int
    pause_s: float
    parked_count: int
    path: str
    digests: Mapping[str, str]
    step_s: Mapping[str, float]

    @property
    def total_s(self) -> float:
        return sum(self.step_s.values())
