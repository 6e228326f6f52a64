"""The engine's bounds, in one place; every queue and every wait has one."""

from __future__ import annotations

import attrs

from ringflow.errors import UsageError


@attrs.frozen(kw_only=True)
class EngineLimits:
    """Bounds of an engine.

    Attributes:
        parked_messages: accepted messages of a kernel that are not done; more wait in ``send``.
        parked_bulk_bytes: bytes of the arrays and large payloads among them; more wait likewise.
        cycle_messages: the same bound for what kernels that are connected in a circle send each
            other, so that they can't wait for one another before.
        waiting_outputs: outputs of a kernel that wait for one consumer or one route, or are held.
            At the bound it gets no messages and emits nothing between them, and ``send`` waits;
            what was on its way comes on top.
        waiting_data_bytes: bytes of the arrays among them, with the same effect.
        step_timeout_s: deadline of one step of an operation.
        launch_timeout_s: until a launched grid must have answered.
        traps_in_a_row: a message that traps its kernel so often halts it.
        recovery_points_kept: older ones are retired.
        state_snapshot_records: so many records after the last snapshot of the engine's folded state
            a new one is taken, which bounds how long an opening takes; 0 for never.
    """

    parked_messages: int = 65_536
    parked_bulk_bytes: int = 1 << 30
    cycle_messages: int = 262_144
    waiting_outputs: int = 65_536
    waiting_data_bytes: int = 1 << 30
    step_timeout_s: float = 30.0
    launch_timeout_s: float = 30.0
    traps_in_a_row: int = 3
    recovery_points_kept: int = 3
    state_snapshot_records: int = 50_000

    def __attrs_post_init__(self) -> None:
        for name, value in attrs.asdict(self).items():
            never = name == "state_snapshot_records" and value == 0
            if not (isinstance(value, int | float) and (value > 0 or never)):
                raise UsageError(f"EngineLimits.{name} is {value!r}; it must be above 0")
