"""A process that works until it is killed; its arguments are FOLDER, LIFE and SEED.

Producers with numbers, two consumers and an operator that moves and reloads the kernel all the
time, poisons it, and brings it back; whatever they see is written down in FOLDER beside the
engine's own folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import anyio
import numpy as np

import ringflow
from ringflow.device.host.device import HostDevice
from tests.recovery.soak import kernel as k
from tests.recovery.soak.checks import EXACT, LAZY
from tests.recovery.soak.witness import Effect, Effects, EffectStore, Log, Witness

DEVICES: Final = ("host:0", "host:1")
ENGINE, WITNESS, EFFECTS = "engine", "witness.jsonl", "effects.bin"
BATCH: Final = 8
WORK: Final = ("migrate", "reload", "trap", "checkpoint", "poison", "undo")
HALTED: Final = (
    ringflow.KernelStateError,
    ringflow.KernelStalledError,
    ringflow.MessageSkippedError,
)


async def main(folder: Path, life: int, seed: int) -> None:
    """Work until killed; ``life`` 0 does no new work: it reads everything and ends in order."""
    log: Log = Witness(folder / WITNESS, life=life)
    devices = [HostDevice(name) for name in DEVICES]
    async with ringflow.open_engine(folder / ENGINE, devices=devices) as engine:
        kernel = await find_kernel(engine, log)
        await note_opened(engine, kernel, log)
        async with anyio.create_task_group() as tasks:
            effects = Effects(folder / EFFECTS)
            if not life:
                await settle(engine, kernel, effects, log)
                return
            tasks.start_soon(while_halted_wait, consume_exactly_once, kernel, effects)
            tasks.start_soon(while_halted_wait, consume_lazily, kernel, log)
            for producer in k.PRODUCERS:
                tasks.start_soon(while_halted_wait, produce, kernel, producer, log)
            await operate(engine, kernel, devices, random.Random(seed), log)


async def find_kernel(engine: ringflow.Engine, log: Log) -> ringflow.KernelHandle:
    """Return the kernel; a launch that was cut short has used its id up."""
    kernels = engine.kernels()
    if not kernels or kernels[-1].state == "failed":
        kernel_id = f"soak-{len(kernels) + 1}"
        await engine.launch(k.spec(kernel_id), device=DEVICES[0])
        log.note("launched", kernel=kernel_id)
    return engine.kernel(engine.kernels()[-1].kernel_id)


async def note_opened(engine: ringflow.Engine, kernel: ringflow.KernelHandle, log: Log) -> None:
    """Write down what a restart has made of the folder, before any new work."""
    log.note(
        "opened",
        epoch=engine.epoch,
        states=[(one.kernel_id, one.state, one.device, one.reason) for one in engine.kernels()],
        last_numbers={producer: kernel.last_number(producer) for producer in k.PRODUCERS},
        unfinished=[
            one.operation_id
            for one in engine.operations()
            if one.state not in ("completed", "saved", "rolled_back", "cancelled", "failed")
        ],
    )
    while True:  # what was poisoned before the crash may halt it only now
        with contextlib.suppress(*HALTED):
            await bring_back(engine, kernel)
            await kernel.call(k.Probe(), timeout_s=60)
            break
    await note_state(engine, kernel, log)


async def bring_back(engine: ringflow.Engine, kernel: ringflow.KernelHandle) -> None:
    """Decide as a person does about a halted kernel: every second time the message is skipped."""
    if status_of(engine, kernel).state == "halted":
        if engine.epoch % 2:
            await engine.resume(kernel.id, "skip", actor="soak", reason="poisoned")
        else:
            await engine.rollback(kernel.id, undo_messages=True, actor="soak", reason="poisoned")


def status_of(engine: ringflow.Engine, kernel: ringflow.KernelHandle) -> ringflow.KernelStatus:
    return next(one for one in engine.kernels() if one.kernel_id == kernel.id)


async def while_halted_wait(work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Do it again whenever it ends because the kernel was halted, until it is back."""
    while True:
        with contextlib.suppress(*HALTED):
            await work(*arguments)
        await anyio.sleep(0.001)


async def state_words(kernel: ringflow.KernelHandle) -> list[int]:
    """Return region ``state`` after every message that was sent."""
    await kernel.call(k.Probe(), timeout_s=60)
    async with kernel.held() as state:
        return [int(word) for word in state["state"].numpy()]


async def note_state(engine: ringflow.Engine, kernel: ringflow.KernelHandle, log: Log) -> None:
    async with kernel.held() as state:
        log.note(
            "state",
            applied=state.applied_sequence,
            words=[int(word) for word in state["state"].numpy()],
            cells=hashlib.sha256(state["cells"].numpy().tobytes()).hexdigest(),
            skipped=engine._core.state.marks[kernel.id].skipped,
        )


async def produce(kernel: ringflow.KernelHandle, producer: str, log: Log) -> None:
    """Send numbered messages, one or a batch at a time; note what was acknowledged."""
    number = kernel.last_number(producer)
    count = BATCH if producer == "batches" else 1
    while True:
        first, number = number + 1, number + count
        values = [k.value_of(producer, one) for one in range(first, number + 1)]
        if count == 1:
            receipt = await kernel.send(k.Fold(values[0]), producer=producer, number=first)
        else:
            rows = np.array(values, dtype=np.uint64)
            receipt = await kernel.send_many(k.Fold, rows, producer=producer, number=first)
        log.note("acknowledged", producer=producer, number=number, sequence=receipt.sequence)
        if producer != "steady":
            await receipt.done()


async def consume_exactly_once(kernel: ringflow.KernelHandle, effects: EffectStore) -> None:
    """Store each effect with its position in one step; what comes again must be equal."""
    async with kernel.replies(consumer=EXACT) as replies:
        async for reply in replies:
            take_exactly_once(effects, Effect(reply.sequence, reply.index, reply.payload))
            if reply.sequence % 8 == 0:
                await reply.ack()


def take_exactly_once(effects: EffectStore, effect: Effect) -> None:
    if effect.identity > effects.position:
        effects.store(effect)
    else:
        assert effect in effects.stored, f"{effect.identity} came again with other bytes"


async def consume_lazily(kernel: ringflow.KernelHandle, log: Log) -> None:
    """Acknowledge rarely, so that much comes again after a crash; note all that comes."""
    count = 0
    async with kernel.replies(consumer=LAZY) as replies:
        log.note("reading")
        async for reply in replies:
            log.note("seen", id=(reply.sequence, reply.index), payload=reply.payload.hex())
            count += 1
            if count % 64 == 0:
                log.note("acking", id=(reply.sequence, reply.index))
                await reply.ack()


async def operate(
    engine: ringflow.Engine,
    kernel: ringflow.KernelHandle,
    devices: list[HostDevice],
    choice: random.Random,
    log: Log,
) -> None:
    """Migrate, reload and checkpoint without a pause; look at the state in between."""
    while True:
        what = choice.choices(WORK, [8, 6, 4, 4, 1, 1])[0]
        outcome = await operation(engine, kernel, what, choice)
        log.note("operation", what=what, outcome=outcome)
        homes = [label for device in devices for label in device._arena.labels()]
        log.note("instances", count=homes.count(f"{kernel.id}/state"))
        await note_state(engine, kernel, log)


async def operation(
    engine: ringflow.Engine, kernel: ringflow.KernelHandle, what: str, choice: random.Random
) -> str:
    options: dict[str, Any] = {"actor": "soak", "reason": what}
    try:
        if what == "migrate":
            here = status_of(engine, kernel).device
            await engine.migrate(kernel.id, to=DEVICES[here == DEVICES[0]], **options)
        elif what == "checkpoint":
            await engine.checkpoint(kernel.id, **options)
        elif what == "poison":
            poison = await kernel.send(k.Poison())
            with contextlib.suppress(ringflow.KernelStalledError):
                await poison.done()
            await bring_back(engine, kernel)
        elif what == "undo":
            await engine.rollback(kernel.id, undo_messages=True, **options)
        else:
            new = k.code(choice.choice(k.FACTORS))
            if what == "trap":
                new = k.code(5, trap_at=choice.choice((1, 4)))
            options |= {"probation_messages": choice.choice((8, 40)), "probation_timeout_s": 60.0}
            await engine.reload(kernel.id, new, **options)
    except ringflow.OperationFailedError as error:
        return f"{error.state}: {error}"
    return "done"


async def settle(
    engine: ringflow.Engine, kernel: ringflow.KernelHandle, effects: EffectStore, log: Log
) -> None:
    """Read what both consumers still lack, to the end, without any new work."""
    async with kernel.replies(consumer=EXACT) as exact, kernel.replies(consumer=LAZY) as lazy:
        log.note("reading")
        last = (await kernel.call(k.Probe(), timeout_s=60)).sequence
        async for reply in exact:
            take_exactly_once(effects, Effect(reply.sequence, reply.index, reply.payload))
            if reply.sequence == last:
                await reply.ack()
                break
        async for reply in lazy:
            log.note("seen", id=(reply.sequence, reply.index), payload=reply.payload.hex())
            if reply.sequence == last:
                await reply.ack()
                break
    await note_state(engine, kernel, log)
    log.note("settled", kernel=kernel.id, last=last)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
