"""Runs a script, command by command, in a world of its own.

- A command's output is the events that it caused, then what it found out itself.
- An error that no ``expect-error`` waits for ends the script, with the command's line; a crash that
  a fault has caused is an output.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, final

import attrs

from ringflow.errors import RingflowError, ScenarioError, SimulatedCrashError
from ringflow.scenario.arguments import Arguments
from ringflow.scenario.script import Command, Script, parse
from ringflow.scenario.short import first_line
from ringflow.scenario.stage import Stage
from ringflow.scenario.table import COMMANDS, PREFIXES, OfEngine
from ringflow.simulate.resting import answers

CRASHED: Final = "crashed"


@final
@attrs.frozen
class Outcome:
    """What a run of a script gave.

    Attributes:
        outputs: the lines of each command that was run.
        failure: why the rest was not run, "" if all was.
        error: what ended it, None if nothing did.
        contents: the bytes of all files of the world, by path.
    """

    script: Script
    outputs: tuple[tuple[str, ...], ...]
    failure: str
    contents: Mapping[str, bytes]
    error: RingflowError | TimeoutError | None = None

    @property
    def differences(self) -> str:
        """Where outputs are not the expected ones: unified, with file and line; "" if nowhere."""
        found = []
        for command, output in zip(self.script.commands, self.outputs, strict=False):
            if command.expected != output:
                place = f"{self.script.path}:{command.line}: {command.name}"
                lines = difflib.unified_diff(
                    command.expected, output, "expected", "found", lineterm="", n=2
                )
                found.append("\n".join([place, *lines]))
        return "\n".join(found)

    @property
    def passed(self) -> bool:
        return not self.failure and not self.differences

    @property
    def report(self) -> str:
        """What a person wants to know of a run that has not passed."""
        return "\n".join(part for part in (self.differences, self.failure) if part)

    def rewritten(self) -> str:
        """Return the script's text with the found outputs; those not run keep theirs."""
        rest = [command.expected for command in self.script.commands[len(self.outputs) :]]
        return self.script.with_outputs([*self.outputs, *rest])


def run(script: Script, *, folder: Path, seed: int = 0) -> Outcome:
    """Run a script in a world of this seed; blocks, where no event loop runs.

    Args:
        folder: from where the script names files.
    """
    return perform(script, Stage(folder, seed=seed))


def perform(script: Script, stage: Stage) -> Outcome:
    """Run a script on a stage of one's own, which tells more than the outcome does."""
    outputs, failure = [], ""
    ended: RingflowError | TimeoutError | None = None
    for command in script.commands:
        try:
            outputs.append(tuple(_output(stage, command, script.path)))
        except (RingflowError, TimeoutError) as error:
            failure, ended = _said(script.path, command, error), error
            stage.abandon()
            break
    else:
        try:
            stage.close()
        except RingflowError as error:
            failure = f"{script.path}: closing the engine: {type(error).__name__}: {error}"
            ended = error
            stage.abandon()
    return Outcome(script, tuple(outputs), failure, stage.contents(), ended)


def run_file(path: Path, *, seed: int = 0) -> Outcome:
    """Run a scenario file; raises ``ScenarioError`` where it is not well formed, or no text."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(str(path), 1, 1, f"it can't be read: {error}") from error
    script = parse(text, str(path))
    return run(script, folder=path.parent, seed=seed)


def _said(path: str, command: Command, error: BaseException) -> str:
    if isinstance(error, ScenarioError):
        return str(error)
    return f"{path}:{command.line}:1: {type(error).__name__}: {error}"


def _output(stage: Stage, command: Command, path: str) -> Sequence[str]:
    """Do a command; return its events and its own lines."""
    prefixes, bare = _prefixes(command)
    fails = any(prefix.name == "expect-error" for prefix in prefixes)
    begins = next((prefix for prefix in prefixes if prefix.name == "begin"), None)
    quiet = any(prefix.name == "quiet" for prefix in prefixes) or not stage.shows_events
    if any(prefix.name == "try" for prefix in prefixes):
        return _try(stage, bare, path, begins)
    problem = ""
    try:
        lines = _do(stage, bare, path, begins)
    except ScenarioError:
        raise
    except SimulatedCrashError:
        lines = [CRASHED]
    except (RingflowError, TimeoutError) as error:
        if not fails:
            raise
        problem = first_line(f"{type(error).__name__}: {error}")
        lines = [problem]
        stage.settle()
    if fails and not problem:
        raise ScenarioError(path, command.line, 1, "an error was expected, there was none")
    events = stage.new_events()
    shown = [] if quiet or bare.name in ("journal", "check") else events
    return [*shown, *(stage.names.shorten(line) for line in lines)]


def _try(stage: Stage, command: Command, path: str, begins: _Prefix | None) -> Sequence[str]:
    """Do a command, whatever the engine answers; its events are passed over."""
    with answers():
        _do(stage, command, path, begins)
    if begins is None:
        with answers():
            stage.settle()
    stage.pass_over()
    return ()


def _do(stage: Stage, command: Command, path: str, begins: _Prefix | None) -> Sequence[str]:
    entry = COMMANDS.get(command.name)
    if entry is None:
        word = command.words[0]
        known = ", ".join((*COMMANDS, *PREFIXES))
        raise ScenarioError(
            path, command.line, word.column, f"no command {word.text!r}; there are: {known}"
        )
    arguments = Arguments(command, entry.usage, path)
    if isinstance(entry, OfEngine):
        handler = entry.handler
        if begins is None:
            return stage.do(lambda engine: handler(stage, arguments, engine))
        stage.begun[begins.argument] = stage.world.start(
            lambda engine: handler(stage, arguments, engine)
        )
        return ()
    if begins is not None:
        raise arguments.error(f"{command.name!r} can't be begun; it is done at once")
    return entry.handler(stage, arguments)


@attrs.frozen
class _Prefix:
    name: str
    argument: str


def _prefixes(command: Command) -> tuple[list[_Prefix], Command]:
    """Return the prefixes of a command, and the command without them."""
    words, found = list(command.words), []
    while len(words) > 1 and words[0].text in PREFIXES and not words[0].key:
        name = words.pop(0).text
        takes = name == "begin" and len(words) > 1
        found.append(_Prefix(name, words.pop(0).text if takes else ""))
    return found, attrs.evolve(command, words=tuple(words))
