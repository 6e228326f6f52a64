"""The commands of the language, as a table: a usage line and a handler each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import attrs

from ringflow.engine.engine import Engine
from ringflow.scenario import on_engine, on_world
from ringflow.scenario.arguments import Arguments, Usage
from ringflow.scenario.stage import Stage

OnEngine = Callable[[Stage, Arguments, Engine], Awaitable[Sequence[str]]]
OnWorld = Callable[[Stage, Arguments], Sequence[str]]


@attrs.frozen
class OfEngine:
    """A command that the engine does; it can be begun and go on while others are given."""

    usage: Usage
    handler: OnEngine


@attrs.frozen
class OfWorld:
    """A command on the world itself."""

    usage: Usage
    handler: OnWorld


_WHO: Final = "[actor=TEXT] [reason=TEXT]"


def _engine(usage: str, handler: OnEngine) -> tuple[str, OfEngine]:
    return usage.split()[0], OfEngine(Usage.of(usage), handler)


def _world(usage: str, handler: OnWorld) -> tuple[str, OfWorld]:
    return usage.split()[0], OfWorld(Usage.of(usage), handler)


_KERNEL: Final = (
    "kernel KERNEL [file=PATH] [define=TEXT] [version=TEXT] [entry=NAME] [messages=TEXT] "
    "[regions=TEXT] [arguments=TEXT] [grid=N] [block=N] [durability=WORD] [replay=WORD] "
    "[release=WORD] [ring_slots=N] [reply_slots=N] [slot_bytes=N] [max_replies=N] [type=NAME] "
    "[routes=TEXT] [bulk_bytes=N] [max_reply_data_bytes=N] [reply_bulk_bytes=N] "
    "[checkpoint_every_messages=N] [checkpoint_every_s=N] [dynamic_shared_bytes=N] "
    "[track_dirty=yes]"
)

COMMANDS: Final[Mapping[str, OfEngine | OfWorld]] = dict(
    (
        # the world before it begins
        _world("devices DEVICE [DEVICE...]", on_world.devices),
        _world("seed SEED", on_world.seed),
        _world("limits [FIELD=VALUE]", on_world.limits),
        _world(_KERNEL, on_world.kernel),
        _world("code CODE [file=PATH] [define=TEXT] [version=TEXT] [entry=NAME]", on_world.code),
        # kernels and messages
        _engine(f"launch KERNEL [on=DEVICE] {_WHO}", on_engine.launch),
        _engine(
            "send KERNEL MESSAGE [count=N] [data=ARRAY] [producer=NAME] [number=N] [done=yes] "
            "[full=raise] [bytes=HEX] [FIELD=VALUE]",
            on_engine.send,
        ),
        _engine("call KERNEL MESSAGE [data=ARRAY] [timeout=TIME] [FIELD=VALUE]", on_engine.call),
        _engine(
            "replies KERNEL CONSUMER [count=N] [for=TIME] [acknowledge=yes]", on_engine.replies
        ),
        _engine("acknowledge KERNEL CONSUMER [through=OUTPUT]", on_engine.acknowledge),
        _engine("forget KERNEL CONSUMER", on_engine.forget),
        _engine("last-number KERNEL PRODUCER", on_engine.last_number),
        _engine(f"connect KERNEL ROUTE TARGET {_WHO}", on_engine.connect),
        _engine(f"disconnect KERNEL ROUTE {_WHO}", on_engine.disconnect),
        _engine("connections KERNEL", on_engine.connections),
        _engine("region KERNEL REGION [as=digest] [first=N]", on_engine.region),
        _engine("hold KERNEL [for=TIME] [as=checkpoint] [say=no]", on_engine.hold),
        # operations
        _engine(f"migrate KERNEL to=DEVICE [key=TEXT] {_WHO}", on_engine.migrate),
        _engine(
            f"reload KERNEL [code=CODE] [at=N] [probation=N] [for=TIME] [convert=NAME] "
            f"[messages=TEXT] [regions=TEXT] [arguments=TEXT] [routes=TEXT] "
            f"[key=TEXT] {_WHO}",
            on_engine.reload,
        ),
        _engine(f"snapshot KERNEL [name=NAME] [key=TEXT] {_WHO}", on_engine.snapshot),
        _engine("restore KERNEL [from=NAME]", on_engine.restore),
        _engine(
            f"rollback KERNEL [to=NAME] [before_reload=yes] [undo_messages=yes] {_WHO}",
            on_engine.rollback,
        ),
        _engine(f"fork KERNEL [as=KERNEL] [at=N] [code=CODE] [on=DEVICE] {_WHO}", on_engine.fork),
        _engine(f"resume KERNEL [DECISION] {_WHO}", on_engine.resume),
        _engine("points KERNEL", on_engine.points),
        _engine(f"retire KERNEL CHECKPOINT {_WHO}", on_engine.retire),
        _engine(f"stop KERNEL {_WHO}", on_engine.stop),
        # what was begun
        _world("await NAME", on_world.awaited),
        _world("cancel NAME", on_world.cancel),
        # moving
        _world("settle", on_world.settle),
        _world("advance TIME", on_world.advance),
        _world("step [COUNT]", on_world.step),
        _world("until EVENT [of=SUBJECT] [steps=N]", on_world.until),
        _world("deliver KERNEL [through=N]", on_world.deliver),
        _world("handled KERNEL SEQUENCE [steps=N]", on_world.handled),
        _world("clock [step=TIME]", on_world.clock),
        # trouble
        _world(
            "fault EFFECT [EFFECT...] [nth=N] [failure=WORD] [loss=WORD] [chance=P]",
            on_world.fault,
        ),
        _world("disarm", on_world.disarm),
        _world("lose DEVICE", on_world.lose),
        _world("crash [loss=WORD]", on_world.crash),
        _world("restart [until=EVENT] [of=SUBJECT]", on_world.restart),
        _world("close", on_world.close),
        _world("open-again", on_world.again),
        _world("disk [free=SIZE] [prompt=yes]", on_world.disk),
        _world("corrupt PLACE [at=OFFSET]", on_world.corrupt),
        _world("tear PLACE [bytes=N]", on_world.tear),
        _world("delete PLACE", on_world.delete),
        # looking
        _world("kernels", on_world.kernels),
        _world("operations", on_world.operations),
        _world("journal [FILTER] [without=FIELDS]", on_world.journal),
        _world("effects [FILTER]", on_world.effects),
        _world("events SHOWN", on_world.events),
        _world("verify", on_world.verify),
        _world("check [closed=yes]", on_world.check),
    )
)

PREFIXES: Final[Mapping[str, str]] = {
    "begin": "begin NAME COMMAND: a command of the engine's starts and goes on with later ones",
    "expect-error": "expect-error COMMAND: it must fail, and its error is the output",
    "try": "try COMMAND: it may fail; it prints nothing, nor do the events that it causes",
    "quiet": "quiet COMMAND: without the events that it causes",
}
