"""Commands that ask the engine for something; each can also be begun and left to go on."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import anyio

from ringflow.code_source import KernelCodeSource
from ringflow.engine.engine import Engine
from ringflow.errors import SpecError
from ringflow.kernel import OnFull, Reply
from ringflow.messages import MessageLayout
from ringflow.scenario.arguments import Arguments
from ringflow.scenario.describing import CHANGES, array_of, changes_of, payload_of
from ringflow.scenario.stage import Stage
from ringflow.simulate.witness import Told
from ringflow.simulate.world import ROOT
from ringflow.storage import FileStorage
from ringflow.storage.api import CHECKPOINT_FOLDER

if TYPE_CHECKING:
    import numpy as np

Lines = Sequence[str]
_ON_OFF: Final = {"yes": True, "no": False}
_ON_FULL: Final[dict[str, OnFull]] = {"wait": "wait", "raise": "raise"}
_DATA_BYTES_SAID: Final = 16
_REPLY_TIMEOUT_S: Final = 60.0


async def launch(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    spec = stage.spec(arguments.text("KERNEL"), arguments)
    await engine.launch(
        spec,
        device=arguments.text("on") or None,
        actor=arguments.text("actor"),
        reason=arguments.text("reason"),
    )
    return ()


def _message(stage: Stage, arguments: Arguments, engine: Engine) -> tuple[str, MessageLayout]:
    """Return a message of those that the kernel has by now: a reload may have changed them."""
    kernel_id, name = arguments.text("KERNEL"), arguments.text("MESSAGE")
    stage.spec(kernel_id, arguments)
    spec = engine.spec(kernel_id)
    for layout in spec.messages:
        if layout.name == name:
            return kernel_id, layout
    if name.isdecimal():  # its bytes are given
        return kernel_id, MessageLayout(int(name), name, (), 0)
    known = ", ".join(layout.name for layout in spec.messages) or "none"
    raise arguments.error(f"no message {name!r}; there are: {known}", arguments.word("MESSAGE"))


def _data(arguments: Arguments) -> np.ndarray[Any, Any] | None:
    """Return the array that goes with a message."""
    try:
        return array_of(arguments.text("data")) if arguments.word("data") else None
    except SpecError as error:
        raise arguments.error(str(error), arguments.word("data")) from None


def _payload(layout: MessageLayout, arguments: Arguments, index: int = 0) -> bytes:
    """Return the payload of the ``index``-th message of a command; ``7..`` counts up from 7."""
    if arguments.word("bytes"):
        return arguments.payload("bytes")
    values = {key: word.text for key, word in arguments.others.items()}
    for key, text in values.items():
        if text.endswith("..") and text[:-2].isdecimal():
            values[key] = str(int(text[:-2]) + index)
    try:
        return payload_of(layout, values)
    except SpecError as error:
        raise arguments.error(str(error)) from None


async def send(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    """``count`` messages one after the other; with a producer they are numbered on."""
    kernel_id, layout = _message(stage, arguments, engine)
    producer, receipt = arguments.text("producer"), None
    on_full = arguments.choice("full", _ON_FULL, "wait")
    volatile = engine.spec(kernel_id).durability == "volatile"
    for index in range(arguments.integer("count", 1)):
        payload = _payload(layout, arguments, index)
        number = arguments.integer("number", 0) + index
        if producer and not arguments.word("number"):
            number = engine.last_number(kernel_id, producer) + 1
        number = number if producer else 0
        receipt = await engine.send(
            kernel_id,
            layout.id,
            payload,
            data=_data(arguments),
            producer=producer,
            number=number,
            on_full=on_full,
        )
        told = Told(
            kernel_id,
            receipt.sequence,
            layout.id,
            payload,
            producer,
            number,
            engine.epoch,
            volatile,
        )
        stage.witness.accepted(told)
    if receipt is not None and arguments.choice("done", _ON_OFF, False):
        await receipt.done()
    return ()


async def call(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    kernel_id, layout = _message(stage, arguments, engine)
    timeout_s = arguments.duration_s("timeout", 60.0)
    payload, data = _payload(layout, arguments), _data(arguments)
    reply = await engine.call(kernel_id, layout.id, payload, data=data, timeout_s=timeout_s)
    stage.witness.saw(reply)
    return (f"reply {said(reply)}",)


def said(reply: Reply) -> str:
    """Return a reply's identity, payload and array.

    Payloads of words of 8 bytes are numbers, others and arrays are hexadecimal.
    """
    payload = reply.payload
    if payload and len(payload) % 8 == 0:
        text = " ".join(str(word) for word in struct.unpack(f"<{len(payload) // 8}Q", payload))
    else:
        text = payload.hex() or "empty"
    if size := reply.data.nbytes:
        more = " ..." if size > _DATA_BYTES_SAID else ""
        text += f" with {size}B {bytes(reply.data[:_DATA_BYTES_SAID]).hex()}{more}"
    return f"{reply.sequence}.{reply.index}: {text}"


async def replies(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    """Read what a consumer has not acknowledged, and acknowledge it."""
    lines, acknowledges = [], arguments.choice("acknowledge", _ON_OFF, True)
    left = arguments.integer("count", 1 << 30)
    consumer, clock = arguments.text("CONSUMER"), stage.world.clock
    kernel_id = arguments.text("KERNEL")
    async with engine.replies(kernel_id, consumer) as queue:
        reading = stage.witness.begins(kernel_id, consumer, engine.epoch)
        with clock.timeout(arguments.duration_s("for", 0.01)):
            while left > 0:
                reply = await anext(queue, None)
                if reply is None:  # the kernel has ended
                    break
                lines.append(said(reply))
                stage.witness.saw(reply)
                reading.identities.append((reply.sequence, reply.index))
                left -= 1
                if acknowledges:
                    stage.witness.asks(reading, reply)
                    with anyio.CancelScope(shield=True):
                        await reply.ack()
    return lines


async def acknowledge(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    """Acknowledge a consumer's replies up to an output; without one it is only made known."""
    kernel_id, consumer = arguments.text("KERNEL"), arguments.text("CONSUMER")
    through = arguments.output("through")
    async with engine.replies(kernel_id, consumer) as queue:
        reading = stage.witness.begins(kernel_id, consumer, engine.epoch)
        with stage.world.clock.timeout(_REPLY_TIMEOUT_S):
            while through is not None:
                reply = await anext(queue)
                stage.witness.saw(reply)
                reading.identities.append((reply.sequence, reply.index))
                if (reply.sequence, reply.index) < through:
                    continue
                stage.witness.asks(reading, reply)
                await reply.ack()
                break
            return ()
    problem = f"no reply {arguments.text('through')} came"
    raise arguments.error(problem, arguments.word("through"))


async def migrate(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    result = await engine.migrate(
        arguments.text("KERNEL"),
        to=arguments.text("to"),
        key=arguments.text("key") or None,
        actor=arguments.text("actor"),
        reason=arguments.text("reason"),
    )
    return (f"moved from {result.source_device} to {result.target_device}",)


def _code(stage: Stage, arguments: Arguments) -> KernelCodeSource:
    name = arguments.text("code")
    if name not in stage.codes:
        known = ", ".join(stage.codes) or "none"
        raise arguments.error(f"no code {name!r}; there are: {known}", arguments.word("code"))
    return stage.codes[name]


async def fork(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    """A new kernel from what another one was."""
    source = arguments.text("KERNEL")
    handle = await engine.fork(
        source,
        at_sequence=arguments.integer("at") if arguments.word("at") else None,
        code=_code(stage, arguments) if arguments.word("code") else None,
        kernel_id=arguments.text("as") or None,
        device=arguments.text("on") or None,
        actor=arguments.text("actor"),
        reason=arguments.text("reason"),
    )
    stage.specs[handle.id] = handle.spec
    return (f"forked {handle.id}",)


async def reload(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    at, kernel_id = arguments.integer("at"), arguments.text("KERNEL")
    given = {name: arguments.text(name) for name in CHANGES if arguments.word(name)}
    try:
        changes = changes_of(given, engine.spec(kernel_id).messages)
    except SpecError as error:
        raise arguments.error(str(error)) from None
    result = await engine.reload(
        kernel_id,
        _code(stage, arguments),
        convert=arguments.text("convert") or None,
        at_sequence=at or None,
        probation_messages=arguments.integer("probation", 0),
        probation_timeout_s=arguments.duration_s("for", 1.0),
        **changes,
        key=arguments.text("key") or None,
        actor=arguments.text("actor"),
        reason=arguments.text("reason"),
    )
    return (f"reloaded from {result.old_version} to {result.new_version}",)


async def snapshot(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    info = await engine.checkpoint(
        arguments.text("KERNEL"),
        name=arguments.text("name") or None,
        key=arguments.text("key") or None,
        actor=arguments.text("actor"),
        reason=arguments.text("reason"),
    )
    return (f"saved {info.name}",)


async def restore(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    storage = FileStorage(ROOT / CHECKPOINT_FOLDER, files=stage.world.files)
    checkpoint = await storage.load(stage.names.whole(arguments.text("from")))
    await engine.kernel(arguments.text("KERNEL")).restore(checkpoint)
    return ()


async def stop(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    await engine.stop(
        arguments.text("KERNEL"), actor=arguments.text("actor"), reason=arguments.text("reason")
    )
    return ()


async def resume(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    decisions = {"retry": "retry", "skip": "skip"}
    decision = arguments.choice("DECISION", decisions, "retry")
    await engine.resume(
        arguments.text("KERNEL"),
        "skip" if decision == "skip" else "retry",
        actor=arguments.text("actor"),
        reason=arguments.text("reason"),
    )
    return ()


async def rollback(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    await engine.rollback(
        arguments.text("KERNEL"),
        to=stage.names.whole(arguments.text("to")) or None,
        before_reload=arguments.choice("before_reload", _ON_OFF, False),
        undo_messages=arguments.choice("undo_messages", _ON_OFF, False),
        actor=arguments.text("actor"),
        reason=arguments.text("reason"),
    )
    return ()


async def region(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    """Values of a region, or its digest, of the kernel held at a message boundary."""
    name, first = arguments.text("REGION"), arguments.integer("first", 8)
    async with engine.kernel(arguments.text("KERNEL")).held() as state:
        if arguments.choice("as", {"values": False, "digest": True}, False):
            return (f"{name} {state[name].digest}",)
        values = state[name].numpy().reshape(-1)
        more = " ..." if len(values) > first else ""
        return (f"{name} {' '.join(str(value) for value in values[:first])}{more}",)


async def forget(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    kernel_id, consumer = arguments.text("KERNEL"), arguments.text("CONSUMER")
    await engine.forget_consumer(kernel_id, consumer)
    stage.witness.forgets(kernel_id, consumer)
    return ()


async def hold(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    """Hold a kernel for a time, worth beginning; or while its checkpoint is taken as a value."""
    kernel, says = engine.kernel(arguments.text("KERNEL")), arguments.choice("say", _ON_OFF, True)
    if arguments.choice("as", {"checkpoint": True}, False):
        applied = (await kernel.checkpoint()).metadata.current_step
        return (f"held at {applied}",) if says else ()
    async with kernel.held() as state:
        await stage.world.clock.sleep(arguments.duration_s("for", 1.0))
        return (f"held at {state.applied_sequence}",) if says else ()


async def connect(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    await engine.connect(
        arguments.text("KERNEL"),
        arguments.text("ROUTE"),
        arguments.text("TARGET"),
        actor=arguments.text("actor"),
        reason=arguments.text("reason"),
    )
    return ()


async def disconnect(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    dropped = await engine.disconnect(
        arguments.text("KERNEL"),
        arguments.text("ROUTE"),
        actor=arguments.text("actor"),
        reason=arguments.text("reason"),
    )
    return (f"dropped {dropped}",)


async def connections(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    return [
        f"{one.route} to {one.target or 'nobody'}: {one.taken_count} taken, "
        f"{one.waiting_count} waiting, {one.dropped_count} dropped"
        for one in engine.connections(arguments.text("KERNEL"))
    ]


async def last_number(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    """Where a producer goes on after a restart."""
    producer = arguments.text("PRODUCER")
    return (f"{producer} {engine.last_number(arguments.text('KERNEL'), producer)}",)


async def points(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    """A kernel's recovery points, oldest first."""
    return [
        f"{one.checkpoint} after {one.applied_sequence} with {one.version_id}"
        + (", barrier" if one.barrier else "")
        + (", named" if one.pinned else "")
        for one in engine.recovery_points(arguments.text("KERNEL"))
    ]


async def retire(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    await engine.retire_checkpoint(
        arguments.text("KERNEL"),
        stage.names.whole(arguments.text("CHECKPOINT")),
        actor=arguments.text("actor"),
        reason=arguments.text("reason"),
    )
    return ()
