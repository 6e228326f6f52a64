"""What the engine says about its kernels and operations, as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import attrs

from ringflow.engine.core import JOURNAL_FAILED, Core
from ringflow.engine.state import kind_of


@final
@attrs.frozen(kw_only=True)
class KernelStatus:
    """A kernel at a glance.

    Attributes:
        state: ``"running"``, ``"halted"`` and so on, as in ``ringflow diagram lifecycle``; or
            ``"not_restarted"``: this opening could not bring it back, ``reason`` says why, and the
            next one tries again.
        next_sequence: what the next accepted message is numbered.
        applied_sequence: the last message that is done; for a halted kernel the last that is known
            to have been; 0 where nothing runs.
        parked_count: messages on the host that the device does not have yet.
        busy_s: seconds that the kernel has spent in finished messages, by its device's clock
            (``%globaltimer``); counted anew after a migration, a reload and a rebuilding.
    """

    kernel_id: str
    device: str
    state: str
    version_id: str
    next_sequence: int
    applied_sequence: int
    parked_count: int
    busy_s: float
    reason: str


@final
@attrs.frozen(kw_only=True)
class OperationStatus:
    """An operation as the journal tells it.

    Attributes:
        kind: ``"migration"``, ``"reload"`` or ``"snapshot"``.
        details: the operation's fields that are known by now, by name.
    """

    operation_id: str
    kind: str
    kernel_id: str
    state: str
    details: Mapping[str, Any]


def kernel_status(core: Core, kernel_id: str) -> KernelStatus:
    life = core.state.kernels[kernel_id]
    runtime = core.runtimes.get(kernel_id)
    return KernelStatus(
        kernel_id=kernel_id,
        device=life.device,
        state="not_restarted" if kernel_id in core.stranded else life.state.value,
        version_id=life.version_id,
        next_sequence=core.state.marks[kernel_id].next_sequence,
        applied_sequence=life.halted_after or (runtime.done_sequence if runtime else 0),
        parked_count=runtime.inbox.parked_count if runtime else 0,
        busy_s=runtime.busy_ns / 1e9 if runtime else 0.0,
        reason=core.stranded.get(kernel_id, life.reason),
    )


def operation_statuses(core: Core) -> tuple[OperationStatus, ...]:
    """Return all operations that the journal knows, oldest first."""
    return tuple(
        OperationStatus(
            operation_id=operation.operation_id,
            kind=kind_of(operation),
            kernel_id=operation.kernel_id,
            state=operation.state.value,
            details={
                key: value
                for key, value in attrs.asdict(operation, recurse=False).items()
                if key not in ("operation_id", "kernel_id", "state")
            },
        )
        for operation in core.state.operations.values()
    )


def health(core: Core) -> Mapping[str, Any]:
    """Return what an operator wants to know; see ``Engine.health``."""
    halted = {
        life.kernel_id: life.reason
        for life in core.state.kernels.values()
        if life.state.value == "halted"
    }
    halted.update(core.stranded)
    # Its watcher, which closes the engine, may not have run yet.
    closed = core.closed or (JOURNAL_FAILED if core.journal.failed.is_set() else "")
    lost = {device.name: device.lost for device in core.devices.values() if device.lost}
    times_s = {name: runtime.stalled_s() for name, runtime in core.runtimes.items()}
    stalled = {name: s for name, s in times_s.items() if s >= core.limits.step_timeout_s}
    return {
        "ok": not closed and not halted and not lost and not stalled,
        "closed": closed,
        "halted": halted,
        "died_in_a_row": max(core.state.fruitless - 1, 0),
        "stalled": stalled,
        "lost_devices": lost,
        "running_operations": len(core.running),
        "journal": dict(core.journal.statistics()),
    }
