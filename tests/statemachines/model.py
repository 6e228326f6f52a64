"""One kernel, one operation and a journal as a small world whose every next step is listed.

- The machines are the real ones: only their effects are performed on values here.
- A world is immutable; ``choices`` gives all worlds that one step leads to.
- A crash keeps what is durable and any number of later records, as a disk may.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from ringflow.statemachines import effects as e
from ringflow.statemachines.effects import Effect, Restarted, StepFailure
from tests.events.samples import sample
from tests.statemachines.machines import Machine

MESSAGES = 3


@attrs.frozen
class Instance:
    """A kernel's regions on a device: the messages applied, each with the code that did."""

    code: str
    applied: tuple[tuple[int, str], ...] = ()
    running: bool = False

    @property
    def digest(self) -> dict[str, str]:
        return {"region": repr([message for message, _ in self.applied])}


@attrs.frozen(kw_only=True)
class World:
    """Everything that a step may look at or change.

    Attributes:
        old, new: the instance before the operation, and the one that it makes; None: no memory.
        open_new: messages flow to the new instance.
        history: the operation after each of its records; the first ``durable`` ones survive.
        outputs: of the new code on probation, held.
        seen: outputs that left the process: message, code.
        copied: a snapshot's copy, ``saved`` once it is a file.
        finished: the operation is over and what it left has been cleared up.
    """

    machine: Machine
    history: tuple[Any, ...]
    durable: int = 1
    old: Instance | None = Instance("old", running=True)
    new: Instance | None = None
    open_new: bool = False
    accepted: int = 0
    outputs: tuple[tuple[int, str], ...] = ()
    seen: frozenset[tuple[int, str]] = frozenset()
    copied: tuple[tuple[int, str], ...] | None = None
    saved: bool = False
    cancels: int = 1
    crashes: int = 1
    faults: int = 2
    finished: bool = False

    @property
    def operation(self) -> Any:
        return self.history[-1]

    @property
    def live(self) -> list[Instance]:
        """The instances to which messages flow."""
        flowing = [self.new] if self.open_new else [self.old]
        return [instance for instance in flowing if instance is not None and instance.running]

    def key(self) -> object:
        """Worlds of one key go on alike."""
        frozen = [repr(operation) for operation in self.history[self.durable - 1 :]]
        values = attrs.asdict(self, recurse=False)
        del values["history"], values["durable"], values["machine"]
        return tuple(frozen), tuple(values.values())


def after(world: World, given: Any, **changes: Any) -> World:
    """Take an outcome or input in, as the engine does: decide, then fold."""
    operation = world.machine.after(world.operation, given)
    return attrs.evolve(world, history=(*world.history, operation), **changes)


def choices(world: World) -> Iterator[tuple[str, World]]:
    """Yield every next step by name, with the world that it leads to."""
    if world.operation.state.value == "failed" and world.machine.name != "snapshot":
        return  # the way back failed too: the kernel is rebuilt from its recovery point
    if world.accepted < MESSAGES:
        yield "accept a message", attrs.evolve(world, accepted=world.accepted + 1)
    yield from _applications(world)
    if world.durable < len(world.history):
        yield "fsync", attrs.evolve(world, durable=len(world.history))
    if not world.operation.is_terminal:
        yield from _steps(world)
    elif world.durable == len(world.history) and not world.finished:
        yield "finish", _finished(world)
    if world.crashes:
        for kept in range(world.durable, len(world.history) + 1):
            yield f"crash with {kept} records", _crashed(world, kept)


def _finished(world: World) -> World:
    """Clear up after an end that is durable: show what was held, free what is left over."""
    if world.operation.state.value == "completed":
        shown = world.seen | set(world.outputs)
        return attrs.evolve(
            world, old=None, outputs=(), open_new=True, seen=shown, finished=True
        )  # a gate that did not open by itself leads to an instance from the recovery point
    old = world.old and attrs.evolve(world.old, running=True)  # a hold ends with its operation
    return attrs.evolve(world, old=old, new=None, finished=True)


def _applications(world: World) -> Iterator[tuple[str, World]]:
    for instance in world.live:
        if len(instance.applied) >= world.accepted:
            continue
        output = (len(instance.applied) + 1, instance.code)
        moved = attrs.evolve(instance, applied=(*instance.applied, output))
        place = "new" if world.open_new else "old"
        there: World = attrs.evolve(world, **{place: moved})  # type: ignore[arg-type]
        if instance.code == "new code" and not world.finished:
            yield "apply", attrs.evolve(there, outputs=(*world.outputs, output))
        else:
            yield "apply", attrs.evolve(there, seen=world.seen | {output})


def _steps(world: World) -> Iterator[tuple[str, World]]:
    effect = world.machine.effect_of(world.operation) if world.machine.effect_of else None
    assert effect is not None, f"{world.operation.state} rests and asks for nothing"
    if effect.durable_first and world.durable < len(world.history):
        return
    done, outcome = perform(world, effect)
    yield effect.step, after(done, outcome)
    if world.faults and isinstance(effect, e.TransferState | e.SwapCode) and world.accepted:
        yield f"{effect.step} garbles", _garbled(world, effect)
    if world.faults:
        failure = StepFailure(step=effect.step, reason="broken")
        for what, found in (("before", world), ("after", done)):
            failed = after(found, failure, faults=world.faults - 1)
            yield f"{effect.step} fails {what} its work", failed
    if world.cancels and world.operation.may_cancel:
        withdrawn = StepFailure(step=effect.step, reason="withdrawn", cancelled=True)
        yield f"cancel {effect.step}", after(world, withdrawn, cancels=0)


def _garbled(world: World, effect: Effect) -> World:
    """The copy is not what was copied; whoever digests the target's memory sees it."""
    assert world.old is not None
    wrong = attrs.evolve(world.old, applied=((0, "garbled"),))
    done, outcome = perform(attrs.evolve(world, old=wrong), effect)
    return after(attrs.evolve(done, old=world.old, faults=world.faults - 1), outcome)


def perform(world: World, effect: Effect) -> tuple[World, Any]:
    """Return the world after an effect, and the event that tells its outcome."""
    old, new = world.old, world.new

    def event(name: str, **fields: Any) -> Any:
        prefix = {"reload": "Reload", "migration": "Migration", "snapshot": "Snapshot"}
        named = prefix[world.machine.name] + name
        (kind,) = [one for one in world.machine.events if one.__name__ == named]
        return sample(kind, operation_id="x", kernel_id="x", **fields)

    match effect:
        case e.BeginOperation():
            names = {"reload": "CompileStarted", "migration": "PreparationStarted"}
            return world, event(names.get(world.machine.name, "Started"))
        case e.CompileCode():
            return world, event("Compiled")
        case e.PrepareTarget():
            return attrs.evolve(world, new=Instance("old")), event("TargetPrepared")
        case e.ValidateCode():
            return attrs.evolve(world, new=Instance("new code")), event("Validated")
        case e.QuiesceKernel():
            assert old is not None
            stopped = attrs.evolve(world, old=attrs.evolve(old, running=False))
            name = "Drained" if world.machine.name == "reload" else "SourceQuiesced"
            return stopped, event(name, applied_sequence=len(old.applied))
        case e.DigestSource():
            assert old is not None
            return world, event("Checkpointed", digests=old.digest)
        case e.TransferState():
            assert old is not None
            assert new is not None
            filled = attrs.evolve(new, applied=old.applied)
            return attrs.evolve(world, new=filled), event("StateTransferred")
        case e.SwapCode():
            assert old is not None
            assert new is not None
            filled = attrs.evolve(new, applied=old.applied)
            told = event("Swapped", kept=("region",), digests=filled.digest)
            return attrs.evolve(world, new=filled), told
        case e.RestoreTarget():
            assert new is not None
            launched = attrs.evolve(new, running=True)
            told = event("TargetRestored", digests=new.digest)
            return attrs.evolve(world, new=launched), told
        case e.OpenGate():
            return attrs.evolve(world, open_new=True), event("GateOpened")
        case e.RestoreCode():
            assert new is not None
            launched = attrs.evolve(new, running=True)
            return attrs.evolve(world, new=launched, open_new=True), event("Restored")
        case e.RetireSource():
            return attrs.evolve(world, old=None), event("Completed")
        case e.WatchProbation():
            return world, event("Completed")
        case e.ResumeSource() | e.ResumeOldCode():
            assert old is not None
            resumed = attrs.evolve(old, running=True)
            back = attrs.evolve(world, old=resumed, new=None, open_new=False, outputs=())
            return back, event("RolledBack", applied_sequence=len(old.applied))
        case e.HoldKernel():
            assert old is not None
            held = attrs.evolve(world, old=attrs.evolve(old, running=False))
            return held, event("Held", applied_sequence=len(old.applied))
        case e.CopyState():
            assert old is not None
            going_on = attrs.evolve(old, running=True)
            copied = attrs.evolve(world, old=going_on, copied=old.applied)
            return copied, event("Copied", digests=old.digest)
        case e.SaveCheckpoint():
            return attrs.evolve(world, saved=True), event("Saved")
        case _:
            raise AssertionError(effect)


def _crashed(world: World, kept: int) -> World:
    """Return the world after the next opening: placed by its rule, messages applied again."""
    operation = world.history[kept - 1]
    if not operation.is_terminal:
        operation = world.machine.after(operation, Restarted())
    completed = operation.state.value == "completed"
    reloaded = completed and world.machine.name == "reload"
    swapped_after = operation.applied_sequence if reloaded else world.accepted
    applied = tuple(
        (message, "old" if message <= swapped_after else "new code")
        for message in range(1, world.accepted + 1)
    )
    where = Instance("new code" if reloaded else "old", applied, running=True)
    return attrs.evolve(
        world,
        history=(operation,),
        durable=1,
        old=None if completed else where,
        new=where if completed else None,
        open_new=completed,
        outputs=(),
        seen=world.seen | set(applied),
        copied=None,
        crashes=world.crashes - 1,
        finished=True,
    )
