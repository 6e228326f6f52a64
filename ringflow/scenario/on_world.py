"""Commands on the world around the engine: devices, time, faults, crashes; and what shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from ringflow.errors import RingflowError, SpecError
from ringflow.scenario.arguments import Arguments, duration_s, size_bytes
from ringflow.scenario.describing import OPTIONS, code_of, header_of, spec_of
from ringflow.scenario.short import short
from ringflow.scenario.stage import Stage, must_be_new
from ringflow.simulate import invariants
from ringflow.simulate.faults import KINDS
from ringflow.simulate.files import Loss
from ringflow.simulate.process import Started
from ringflow.simulate.resting import come_to_rest
from ringflow.simulate.world import ROOT

Lines = Sequence[str]
SHIPPED: Final = "ringflow:"
"""A file of this name is one of ringflow's own kernels for simulations."""
KERNELS: Final = Path(invariants.__file__).with_name("kernels")
_LOSSES: Final = {loss.name.lower(): loss for loss in Loss}
_FAILURES: Final = {name: name for name in KINDS}


def devices(stage: Stage, arguments: Arguments) -> Lines:
    must_be_new(stage, arguments)
    stage.devices = {}
    for word in (arguments.plain["DEVICE"], *arguments.rest):
        name, _, limit = word.text.partition("/")
        try:
            stage.devices[name] = size_bytes(limit) if limit else None
        except ValueError:
            raise arguments.error(f"{limit!r} is no size such as 64KiB", word) from None
    return ()


def limits(stage: Stage, arguments: Arguments) -> Lines:
    must_be_new(stage, arguments)
    known = {field.name for field in attrs.fields(type(stage.limits))}
    given: dict[str, Any] = {}
    for key, word in arguments.others.items():
        if key not in known:
            raise arguments.error(f"no limit {key!r}; there are: {', '.join(sorted(known))}", word)
        try:
            given[key] = duration_s(word.text) if key.endswith("_s") else int(word.text)
        except ValueError:
            raise arguments.error(f"{word.text!r} is no value of {key}", word) from None
    stage.limits = attrs.evolve(stage.limits, **given)
    return ()


def _source(stage: Stage, arguments: Arguments) -> str:
    file = arguments.text("file")
    if bool(file) == bool(arguments.command.body):
        raise arguments.error("give the source either by file= or in the lines that follow")
    if not file:
        return arguments.command.body
    path = (
        KERNELS / shipped
        if (shipped := file.removeprefix(SHIPPED)) != file
        else (stage.folder / file)
    )
    try:
        return _defined(path.read_text(encoding="utf-8"), arguments)
    except OSError as error:
        problem = f"can't read {file!r}: {error.strerror}"
        raise arguments.error(problem, arguments.word("file")) from None


def _defined(source: str, arguments: Arguments) -> str:
    """Return a source with the macros of ``define=``, behind the comments that it begins with."""
    given = [text.partition("=") for text in arguments.text("define").split()]
    if not given:
        return source
    lines = source.splitlines(keepends=True)
    at = next((at for at, line in enumerate(lines) if not line.startswith("//")), len(lines))
    defines = [f"#define {name} {value}\n" for name, _, value in given]
    return "".join([*lines[:at], *defines, *lines[at:]])


def _version(arguments: Arguments, name: str) -> str:
    return arguments.text("version") or Path(arguments.text("file")).stem or name


def kernel(stage: Stage, arguments: Arguments) -> Lines:
    name, source = arguments.text("KERNEL"), _source(stage, arguments)
    given = {key: arguments.text(key) for key in OPTIONS if arguments.word(key)}
    try:
        stage.specs[name] = spec_of(name, source, given, _version(arguments, name))
    except (SpecError, ValueError) as error:
        raise arguments.error(str(error)) from None
    return ()


def code(stage: Stage, arguments: Arguments) -> Lines:
    name, source = arguments.text("CODE"), _source(stage, arguments)
    options = {**header_of(source)}
    if arguments.word("entry"):
        options["entry"] = arguments.text("entry")
    try:
        stage.codes[name] = code_of(source, options, _version(arguments, name))
    except SpecError as error:
        raise arguments.error(str(error)) from None
    return ()


def seed(stage: Stage, arguments: Arguments) -> Lines:
    must_be_new(stage, arguments)
    stage.seed = arguments.integer("SEED")
    return ()


def settle(stage: Stage, arguments: Arguments) -> Lines:
    stage.world.settle()
    return ()


def advance(stage: Stage, arguments: Arguments) -> Lines:
    stage.world.advance(arguments.duration_s("TIME"))
    stage.world.settle()
    return ()


def step(stage: Stage, arguments: Arguments) -> Lines:
    for _ in range(arguments.integer("COUNT", 1)):
        stage.world.step()
    return ()


def until(stage: Stage, arguments: Arguments) -> Lines:
    """Move the world until an event of this name is durable, from now on.

    With ``of=`` one of this kernel, or of this operation: that may have come already.
    """
    _until(stage, arguments, "EVENT", before=sum(1 for _ in stage.records()))
    return ()


def _until(stage: Stage, arguments: Arguments, name: str, *, before: int) -> None:
    """Move the world until the event that the word ``name`` gives; not one up to ``before``."""
    wanted, subject, world = arguments.text(name), arguments.text("of"), stage.world

    def is_it(event: Mapping[str, Any], sequence: int) -> bool:
        operation = stage.names.shorten(event.get("operation_id") or "")
        if not event["type"].startswith(wanted):
            return False
        if subject and subject == operation:
            return name == "EVENT" or sequence > before
        return sequence > before and subject in ("", event.get("kernel_id"))

    known = 0
    for _ in range(arguments.integer("steps", 100_000)):
        fresh = [record for record in stage.records() if record.sequence > known]
        if any(is_it(event, record.sequence) for record in fresh for event in record.events):
            return
        known = max((record.sequence for record in fresh), default=known)
        if not world.step():
            break
    what = f"{wanted!r} of {subject!r}" if subject else repr(wanted)
    raise arguments.error(f"no event {what} came", arguments.word(name))


def deliver(stage: Stage, arguments: Arguments) -> Lines:
    """Keep a kernel's messages after ``through`` on the host; without it, no longer."""
    kernel_id, withheld = arguments.text("KERNEL"), stage.world.withheld
    if arguments.word("through") is None:
        withheld.release(kernel_id)
    else:
        withheld.withhold(kernel_id, after=arguments.integer("through"))
    return ()


def handled(stage: Stage, arguments: Arguments) -> Lines:
    """Move the world until a kernel has handled a message."""
    kernel_id, world = arguments.text("KERNEL"), stage.world
    wanted = arguments.integer("SEQUENCE")
    for _ in range(arguments.integer("steps", 1_000_000)):
        known = (one for one in world.engine.kernels() if one.kernel_id == kernel_id)
        if any(one.applied_sequence >= wanted for one in known):
            return ()
        if not world.step():
            break
    problem = f"{kernel_id!r} does not come to message {wanted}"
    raise arguments.error(problem, arguments.word("SEQUENCE"))


def clock(stage: Stage, arguments: Arguments) -> Lines:
    stage.world.clock.step_wall(arguments.step_s("step"))
    return ()


def fault(stage: Stage, arguments: Arguments) -> Lines:
    faults, pattern = stage.world.faults, arguments.text("EFFECT")
    stage.world.loss = arguments.choice("loss", _LOSSES, stage.world.loss)
    if chance := arguments.number("chance"):
        faults.by_chance(chance, pattern, *(word.text for word in arguments.rest))
    else:
        failure = arguments.choice("failure", _FAILURES, "fail")
        faults.fail(pattern, nth=arguments.integer("nth", 1), failure=failure)
    return ()


def disarm(stage: Stage, arguments: Arguments) -> Lines:
    stage.world.faults.clear()
    return ()


def lose(stage: Stage, arguments: Arguments) -> Lines:
    """Lose a GPU; its kernels go on elsewhere."""
    stage.world.lose(arguments.text("DEVICE"))
    stage.settle()
    return ()


def crash(stage: Stage, arguments: Arguments) -> Lines:
    stage.world.crash(arguments.choice("loss", _LOSSES, Loss.ALL))
    return ()


def restart(stage: Stage, arguments: Arguments) -> Lines:
    """Open the engine; with ``until=`` only up to an event of its recovery, to crash there."""
    stage.begun.clear()
    if arguments.word("until") is not None:
        before = sum(1 for _ in stage.records())
        stage.world.begin_opening()
        _until(stage, arguments, "until", before=before)
        return ()
    stage.world.restart()
    stage.world.settle()
    return ()


def close(stage: Stage, arguments: Arguments) -> Lines:
    stage.world.close()
    left = stage.world.unreturned_bytes
    return [f"{name} has not got back {size} bytes" for name, size in left.items()]


def disk(stage: Stage, arguments: Arguments) -> Lines:
    world = stage.world
    if arguments.word("free") is not None:
        world.files.free = arguments.size_bytes("free")
    prompt = {"yes": True, "no": False}
    world.journal_is_prompt = arguments.choice("prompt", prompt, world.journal_is_prompt)
    return ()


def corrupt(stage: Stage, arguments: Arguments) -> Lines:
    """Flip a bit of the newest file of a place, durably; ``at`` counts from the end if negative."""
    path, whole = _newest(stage, arguments)
    content = bytearray(whole)
    at = arguments.integer("at", len(content) // 2)
    if not -len(content) <= at < len(content):
        raise arguments.error(f"the file has {len(content)} bytes", arguments.word("at"))
    content[at] ^= 1
    stage.world.files.poke(path, bytes(content))
    return (stage.names.shorten(f"flipped a bit of {path.parent.name}/{path.name}"),)


def tear(stage: Stage, arguments: Arguments) -> Lines:
    """Cut the last bytes of the newest file of a place, as a write that was torn."""
    path, content = _newest(stage, arguments)
    cut = arguments.integer("bytes", 10)
    stage.world.files.poke(path, content[:-cut])
    return (stage.names.shorten(f"cut {cut} bytes of {path.parent.name}/{path.name}"),)


def _newest(stage: Stage, arguments: Arguments) -> tuple[Path, bytes]:
    """Return the newest file of a place, and its bytes without reserved space."""
    place, contents = arguments.text("PLACE"), stage.world.files.snapshot()
    found = [path for path in contents if path.parent == ROOT / place]
    if not found:
        raise arguments.error(f"no file is in {place!r}", arguments.word("PLACE"))
    return found[-1], contents[found[-1]].rstrip(b"\0")


def delete(stage: Stage, arguments: Arguments) -> Lines:
    """Delete the newest file of a place, durably."""
    path, _ = _newest(stage, arguments)
    stage.world.files.remove(path)
    return (stage.names.shorten(f"deleted {path.parent.name}/{path.name}"),)


def journal(stage: Stage, arguments: Arguments) -> Lines:
    wanted = arguments.text("FILTER")
    without = frozenset(arguments.text("without").split(","))
    events = [event for record in stage.records() for event in record.events]
    lines = [short(event, stage.names, without=without) for event in events]
    return [line for line in lines if wanted in line]


def effects(stage: Stage, arguments: Arguments) -> Lines:
    wanted = arguments.text("FILTER")
    return [line for line in stage.new_effects() if wanted in line]


def events(stage: Stage, arguments: Arguments) -> Lines:
    stage.shows_events = arguments.choice("SHOWN", {"on": True, "off": False}, True)
    return ()


def cancel(stage: Stage, arguments: Arguments) -> Lines:
    _begun(stage, arguments).cancel()
    stage.world.settle()
    return ()


def awaited(stage: Stage, arguments: Arguments) -> Lines:
    """Move the world until what was begun has ended; its lines, or its error."""
    started = _begun(stage, arguments)
    stage.world.until_done(started)
    del stage.begun[arguments.text("NAME")]
    stage.world.settle()
    result = started.result()
    return [str(line) for line in result] if isinstance(result, (list, tuple)) else ()


def _begun(stage: Stage, arguments: Arguments) -> Started[object]:
    name = arguments.text("NAME")
    if name not in stage.begun:
        known = ", ".join(stage.begun) or "none"
        raise arguments.error(f"nothing begun is named {name!r}; there are: {known}")
    return stage.begun[name]


def kernels(stage: Stage, arguments: Arguments) -> Lines:
    return [
        f"{one.kernel_id} {one.state} on {one.device} with {one.version_id}, "
        f"done {one.applied_sequence} of {one.next_sequence - 1}"
        for one in stage.world.engine.kernels()
    ]


def operations(stage: Stage, arguments: Arguments) -> Lines:
    return [
        stage.names.shorten(f"{one.operation_id} of {one.kernel_id}: {one.state}")
        for one in stage.world.engine.operations()
    ]


def again(stage: Stage, arguments: Arguments) -> Lines:
    """Open the folder a second time while the engine has it."""
    stage.world.open_again()
    return ()


def check(stage: Stage, arguments: Arguments) -> Lines:
    """Bring the world to rest and check everything that must always hold."""
    come_to_rest(stage.world, stage.begun.values())
    stage.begun.clear()
    invariants.check(stage.world, stage.witness)
    if arguments.choice("closed", {"yes": True, "no": False}, False):
        invariants.check_closed(stage.world)
    return ("everything holds",)


def verify(stage: Stage, arguments: Arguments) -> Lines:
    """Verify the journal, and recompute every decision in it."""
    from ringflow.engine.replay import replay_records
    from ringflow.events.registry import default_codec

    codec = default_codec()
    report = replay_records(record.decoded(codec) for record in stage.records())
    if report.difference is not None:
        raise RingflowError(f"the journal does not replay: {report.difference}")
    return ("every decision follows from its inputs",)
