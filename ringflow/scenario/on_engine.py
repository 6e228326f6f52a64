"""Commands that ask the engine for something; each can also be begun and left to go on."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import anyio

from ringflow.engine.engine import Engine
from ringflow.errors import SpecError
from ringflow.kernel import Reply
from ringflow.messages import MessageLayout
from ringflow.scenario.arguments import Arguments
from ringflow.scenario.describing import payload_of
from ringflow.scenario.stage import Stage
from ringflow.simulate.world import ROOT
from ringflow.spec import KernelCodeSource
from ringflow.storage import FileStorage

Lines = Sequence[str]
_ON_OFF: Final = {"yes": True, "no": False}


async def launch(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    spec = stage.spec(arguments.text("KERNEL"), arguments)
    await engine.launch(
        spec,
        device=arguments.text("on") or None,
        actor=arguments.text("actor"),
        reason=arguments.text("reason"),
    )
    return ()


def _message(stage: Stage, arguments: Arguments) -> tuple[str, MessageLayout]:
    kernel_id, name = arguments.text("KERNEL"), arguments.text("MESSAGE")
    spec = stage.spec(kernel_id, arguments)
    for layout in spec.messages:
        if layout.name == name:
            return kernel_id, layout
    known = ", ".join(layout.name for layout in spec.messages) or "none"
    raise arguments.error(f"no message {name!r}; there are: {known}", arguments.word("MESSAGE"))


def _payload(layout: MessageLayout, arguments: Arguments) -> bytes:
    try:
        return payload_of(layout, {key: word.text for key, word in arguments.others.items()})
    except SpecError as error:
        raise arguments.error(str(error)) from None


async def send(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    """``count`` messages one after the other; with a producer they are numbered on."""
    kernel_id, layout = _message(stage, arguments)
    payload, producer = _payload(layout, arguments), arguments.text("producer")
    receipt = None
    for index in range(arguments.integer("count", 1)):
        number = arguments.integer("number", 0) + index
        if producer and not arguments.word("number"):
            number = engine.last_number(kernel_id, producer) + 1
        receipt = await engine.send(
            kernel_id, layout.id, payload, producer=producer, number=number if producer else 0
        )
    if receipt is not None and arguments.choice("done", _ON_OFF, False):
        await receipt.done()
    return ()


async def call(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    kernel_id, layout = _message(stage, arguments)
    timeout_s = arguments.duration_s("timeout", 60.0)
    reply = await engine.call(
        kernel_id, layout.id, _payload(layout, arguments), timeout_s=timeout_s
    )
    return (f"reply {said(reply)}",)


def said(reply: Reply) -> str:
    """Return a reply's identity and payload: words of 8 bytes as numbers, else hexadecimal."""
    payload = reply.payload
    if payload and len(payload) % 8 == 0:
        text = " ".join(str(word) for word in struct.unpack(f"<{len(payload) // 8}Q", payload))
    else:
        text = payload.hex() or "empty"
    return f"{reply.sequence}.{reply.index}: {text}"


async def replies(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    """Read what a consumer has not acknowledged, and acknowledge it."""
    lines, acknowledges = [], arguments.choice("acknowledge", _ON_OFF, True)
    left = arguments.integer("count", 1 << 30)
    consumer, clock = arguments.text("CONSUMER"), stage.world.clock
    async with engine.replies(arguments.text("KERNEL"), consumer) as queue:
        with clock.timeout(arguments.duration_s("for", 0.01)):
            while left > 0:
                reply = await anext(queue)
                lines.append(said(reply))
                left -= 1
                if acknowledges:
                    with anyio.CancelScope(shield=True):
                        await reply.ack()
    return lines


async def migrate(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    result = await engine.migrate(
        arguments.text("KERNEL"),
        to=arguments.text("to"),
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
    at = arguments.integer("at")
    result = await engine.reload(
        arguments.text("KERNEL"),
        _code(stage, arguments),
        convert=arguments.text("convert") or None,
        at_sequence=at or None,
        probation_messages=arguments.integer("probation", 0),
        probation_timeout_s=arguments.duration_s("for", 1.0),
        actor=arguments.text("actor"),
        reason=arguments.text("reason"),
    )
    return (f"reloaded from {result.old_version} to {result.new_version}",)


async def snapshot(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    info = await engine.checkpoint(
        arguments.text("KERNEL"),
        name=arguments.text("name") or None,
        actor=arguments.text("actor"),
        reason=arguments.text("reason"),
    )
    return (f"saved {info.name}",)


async def restore(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    storage = FileStorage(ROOT / "checkpoints", files=stage.world.files)
    checkpoint = await storage.load(arguments.text("from"))
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
        to=arguments.text("to") or None,
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
    await engine.forget_consumer(arguments.text("KERNEL"), arguments.text("CONSUMER"))
    return ()


async def hold(stage: Stage, arguments: Arguments, engine: Engine) -> Lines:
    """Hold a kernel for a time; worth beginning."""
    async with engine.kernel(arguments.text("KERNEL")).held() as state:
        await stage.world.clock.sleep(arguments.duration_s("for", 1.0))
        return (f"held at {state.applied_sequence}",)
