"""Bringing a world to rest after all that was done to it, so that it can be checked.

Faults are taken away, what was begun is awaited, the engine comes back, and halted kernels are
brought back as a person would. What can't be brought to rest has broken a promise already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ringflow.engine.engine import Engine
from ringflow.errors import (
    CorruptError,
    DeviceError,
    IllegalTransitionError,
    InvariantError,
    MessageSkippedError,
    OperationCancelledError,
    OperationFailedError,
    SimulatedCrashError,
    StorageError,
    UsageError,
)
from ringflow.simulate.process import Started
from ringflow.simulate.world import World

_DISK_BYTES: Final = 1 << 40
_ANSWERS: Final = (
    UsageError,
    StorageError,
    DeviceError,
    OperationFailedError,
    OperationCancelledError,
    MessageSkippedError,
    SimulatedCrashError,
    TimeoutError,
)
_TRIES_MAX: Final = 60
_PATIENCE_S: Final = 200.0
_NO_ROOM: Final = "were asked for"  # a device without room for a kernel is nobody's fault


@contextlib.contextmanager
def answers() -> Iterator[None]:
    """Take every error that an engine may answer with while it is being harmed.

    Damage that nobody did, a step that a machine does not know, and what never ends are none.
    """
    try:
        yield
    except (IllegalTransitionError, CorruptError):
        raise
    except _ANSWERS:
        pass


def come_to_rest(world: World, begun: Iterable[Started[Any]]) -> None:
    """Bring a world to rest, with an open engine and no kernel halted.

    Raises:
        InvariantError: a kernel can't be brought back.
        SimulationStuckError: something never ends.
    """
    world.faults.clear()
    world.files.free = _DISK_BYTES
    _await(world, list(begun))
    if world.is_running and (not world.is_open or world.engine.health()["closed"]):
        with answers():
            world.close()
    if not world.is_running:
        world.open()
    world.settle()
    _heal(world)


def _await(world: World, begun: list[Started[Any]]) -> None:
    """Let what was begun end by itself, if it does; what waits for messages is cancelled."""
    if not world.is_running:
        return
    with answers():
        world.settle()
        world.advance(_PATIENCE_S)
    for started in begun:
        if not started.done and world.is_running:
            started.cancel()
        with answers():
            if world.is_running:
                world.until_done(started)
            started.result()


def _heal(world: World) -> None:
    """Open the engine again for kernels that could not be started, and resume the halted ones."""
    if _stranded(world):
        world.close()
        world.open()
        world.settle()
    if stranded := _stranded(world):
        raise InvariantError("kernels_come_back", f"kernels can't be started: {stranded}")
    for kernel_id in [one.kernel_id for one in world.engine.kernels() if one.state == "halted"]:
        _resume(world, kernel_id)


def _stranded(world: World) -> dict[str, str]:
    engine = world.engine
    halted = {one.kernel_id for one in engine.kernels() if one.state == "halted"}
    reasons = engine.health()["halted"]
    return {
        kernel_id: reason
        for kernel_id, reason in reasons.items()
        if kernel_id not in halted and _NO_ROOM not in reason
    }


def _resume(world: World, kernel_id: str) -> None:
    """Retry once; then skip what traps it, and go back before the last reload."""

    def decide(decision: Callable[[Engine], Any]) -> None:
        with answers():
            world.run(decision)
        world.settle()

    for attempt in range(_TRIES_MAX):
        if attempt == 0:
            decide(lambda engine: engine.resume(kernel_id, "retry"))
        elif attempt == 4:
            decide(lambda engine: engine.rollback(kernel_id, before_reload=True))
        else:
            decide(lambda engine: engine.resume(kernel_id, "skip"))
        status = next(one for one in world.engine.kernels() if one.kernel_id == kernel_id)
        if status.state != "halted":
            return
        if _NO_ROOM in status.reason:
            return
    raise InvariantError("kernels_come_back", f"{kernel_id} stays halted: {status.reason}")
