"""What migrations, hot reloads and rollbacks give back to who asked for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, final

import attrs

from ringflow.statemachines import effects


@final
@attrs.frozen(kw_only=True)
class MigrationResult:
    """A completed migration.

    Attributes:
        state_bytes: bytes of the kernel's regions, all of which were moved.
        pause_s: from the quiesce request until the target took messages.
        parked_count: messages that waited on the host in the pause; 0 for a user's own object.
        path: how the bytes went, e.g. ``"host"``, or ``"storage"`` through a saved checkpoint.
        digests: SHA-256 (hex) by region, read from the target's memory.
        step_s: seconds that each step took; empty for who asks again after the end, by its key.
        retire_failure: why giving back what is not needed any more failed, empty if it did not.
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
    retire_failure: str = ""

    @property
    def checkpoint_size(self) -> int:
        """Bytes of state that were checkpointed and moved."""
        return self.state_bytes

    @property
    def checkpoint_s(self) -> float:
        """Seconds to take the quiesced source's state and digest it."""
        return self.step_s.get(effects.DigestSource.__name__, 0.0)

    @property
    def transfer_s(self) -> float:
        return self.step_s.get(effects.TransferState.__name__, 0.0)

    @property
    def restore_s(self) -> float:
        """Seconds to put the state in place on the target and digest it there."""
        return self.step_s.get(effects.RestoreTarget.__name__, 0.0)

    @property
    def total_s(self) -> float:
        return sum(self.step_s.values())


@final
@attrs.frozen(kw_only=True)
class ReloadResult:
    """A completed hot reload.

    Attributes:
        at_sequence: the first message that the new code handled.
        state_bytes: bytes of the new code's regions.
        pause_s: from the quiesce request until the new code took messages.
        parked_count: messages that waited on the host in the pause; 0 for a user's own object.
        digests: SHA-256 (hex) by region, after the swap and before the first message.
        step_s: seconds that each step took; empty for who asks again after the end, by its key.
        state_preserved: False where the new code was to start from fresh regions.
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
    state_preserved: bool = True

    @property
    def checkpoint_size(self) -> int:
        """Bytes of state that the new code started with."""
        return self.state_bytes

    @property
    def drain_s(self) -> float:
        return self.step_s.get(effects.QuiesceKernel.__name__, 0.0)

    @property
    def checkpoint_s(self) -> float:
        """Seconds to take the drained kernel's state and digest it."""
        return self.step_s.get(effects.DigestSource.__name__, 0.0)

    @property
    def compile_s(self) -> float:
        """Seconds to compile, while the old code worked."""
        return self.step_s.get(effects.CompileCode.__name__, 0.0)

    @property
    def swap_s(self) -> float:
        """Seconds to change the code and fill its regions."""
        return self.step_s.get(effects.SwapCode.__name__, 0.0)

    @property
    def restore_s(self) -> float:
        """Seconds until the new code took messages."""
        return self.step_s.get(effects.RestoreCode.__name__, 0.0)

    @property
    def total_s(self) -> float:
        return sum(self.step_s.values())


@final
@attrs.frozen(kw_only=True)
class RollbackResult:
    """A kernel that was rolled back.

    Attributes:
        checkpoint: the recovery point whose state and code are in place again.
        applied_sequence: the last message in that state.
        undone_count: messages that were applied since, or trapped, and never will be again.
    """

    kernel_id: str
    checkpoint: str
    version_id: str
    applied_sequence: int
    undone_count: int


HotReloadResult: TypeAlias = ReloadResult
