"""Forks: a new kernel with the state that another one had after some message.

- The source is only read: its recovery point and its journaled messages, never its memory.
- Messages are applied again by the code that applied them; new code begins after the last one.
- A fork is a kernel like any other: its messages count from 1, its first recovery point is its own.
"""

from __future__ import annotations

import anyio
import attrs

from ringflow.code_source import KernelCodeSource
from ringflow.device.api import Device
from ringflow.device.posting import Posting
from ringflow.engine import instances
from ringflow.engine.core import Core
from ringflow.engine.instances import OUTPUT_INDEX_KEY, Instance
from ringflow.engine.launching import bring_to_life, check_launchable
from ringflow.engine.placing import choose_device
from ringflow.engine.rerun_run import Run
from ringflow.engine.restoring import Rebuilt, history, rebuild_at
from ringflow.engine.skipped import is_in
from ringflow.errors import SpecError, UsageError
from ringflow.events.lifecycle import KernelForked
from ringflow.spec import KernelSpec
from ringflow.statemachines.lifecycle import KernelLife, RecoveryPoint, point_through


@attrs.frozen
class _Origin:
    """Where a fork begins: after ``sequence``, made from ``point`` and ``messages``."""

    life: KernelLife
    sequence: int
    point: RecoveryPoint
    messages: tuple[Posting, ...]


async def fork(
    core: Core,
    source: str,
    *,
    at_sequence: int | None,
    code: KernelCodeSource | None,
    kernel_id: str | None,
    device: str | None,
    actor: str,
    reason: str,
) -> str:
    """Bring a fork to life; return its id."""
    core.check_accepting()
    sequence, point = _choose(core, source, at_sequence)
    forked_id = kernel_id or f"{source}.at-{sequence}"
    check_launchable(core, forked_id)
    target = choose_device(core.devices.values()) if device is None else core.device(device)
    spec = attrs.evolve(await core.spec_of(point.spec_digest), kernel_id=forked_id)
    if code is not None:
        spec = attrs.evolve(spec, code=code)
    check_launchable(core, forked_id)
    forked = KernelForked(
        kernel_id=forked_id,
        source=source,
        at_sequence=sequence,
        checkpoint=point.checkpoint,
    )
    with core.lease(forked_id, "fork()"):
        origin = await _origin(core, source, sequence, point)
        rebuilt = await rebuild_at(core, origin.life, point, target)
        try:
            instance = await core.in_thread(lambda: _make(core, origin, rebuilt, spec, target))
        except BaseException:  # cancelled before it began; else nothing is left to free
            with anyio.CancelScope(shield=True):
                await core.in_thread(rebuilt.instance.discard)
            raise
        await bring_to_life(core, instance, actor=actor, reason=reason, facts=(forked,))
    return forked_id


def _choose(core: Core, source: str, at_sequence: int | None) -> tuple[int, RecoveryPoint]:
    """Return the message after which the fork begins, and the recovery point before it."""
    life = core.state.kernel(source)
    last = core.state.marks[source].next_sequence - 1
    if (runtime := core.runtimes.get(source)) is not None:
        last = min(last, max(runtime.durable_through, runtime.done_sequence))
    sequence = last if at_sequence is None else at_sequence
    if not 0 <= sequence <= last:
        raise UsageError(
            f"kernel {source!r} has durable messages up to {last}, it can't be forked at "
            f"{sequence}; choose one of them"
        )
    point = point_through(life, sequence)
    if point is None:
        known = ", ".join(str(one.applied_sequence) for one in life.recovery_points) or "none"
        raise UsageError(
            f"no recovery point of kernel {source!r} leads to message {sequence} without a change "
            f"of code or state in between; those that are kept hold messages up to {known}"
        )
    return sequence, point


async def _origin(core: Core, source: str, sequence: int, point: RecoveryPoint) -> _Origin:
    skipped = core.state.marks[source].skipped
    wanted = [
        number for number in range(point.replay_from, sequence + 1) if not is_in(skipped, number)
    ]
    messages = tuple(
        message
        for message in await history(core, source, point.replay_from)
        if message.sequence <= sequence and not is_in(skipped, message.sequence)
    )
    if [message.sequence for message in messages] != wanted:
        raise UsageError(
            f"the journal does not have all messages of kernel {source!r} up to {sequence}; fork "
            f"it at {point.applied_sequence}, its recovery point"
        )
    return _Origin(core.state.kernels[source], sequence, point, messages)


def _make(
    core: Core, origin: _Origin, rebuilt: Rebuilt, spec: KernelSpec, device: Device
) -> Instance:
    """Apply the messages up to the fork, then put the state under the fork's own code."""
    old = rebuilt.instance
    try:
        instances.check_listed(old, "fork")
        run = Run(timeout_s=core.limits.step_timeout_s)
        index = rebuilt.checkpoint.metadata.custom.get(OUTPUT_INDEX_KEY)
        run.begin(rebuilt.applied_sequence, output_index=int(index or 0))
        run.through(old, origin.messages, origin.sequence)
        compiled = instances.compile_for(spec, device, core.cache)
        grid = old.resident.grid
        new = instances.create(device, spec, compiled, grid=grid, epoch=core.epoch)
        try:
            _check_variables(old, new)
            names = instances.shared_regions(old.spec, spec) | instances.shared_globals(old, new)
            instances.transfer(old, new, names)
        except BaseException:
            new.discard()
            raise
    finally:
        old.discard()
    return new


def _check_variables(old: Instance, new: Instance) -> None:
    """Raise ``SpecError`` if the fork's code has no place for a variable's value."""
    if lost := instances.lost_globals(old, new):
        raise SpecError(
            f"variables {', '.join(lost)} change their size or go in the fork's code; fork with "
            "code that keeps them, then reload with a convert kernel"
        )
