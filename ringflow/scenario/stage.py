"""What a running scenario has: its world, its kernels' specs, what was begun, what was printed."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar, final

import attrs

from ringflow.code_source import KernelCodeSource
from ringflow.engine.engine import Engine
from ringflow.errors import ScenarioError, SimulatedCrashError, StorageError
from ringflow.journal.reader import read_records
from ringflow.journal.record import RawRecord
from ringflow.limits import EngineLimits
from ringflow.scenario.arguments import Arguments
from ringflow.scenario.short import Names, short
from ringflow.simulate.process import Started
from ringflow.simulate.witness import Witness
from ringflow.simulate.world import ROOT, World
from ringflow.spec import KernelSpec

T = TypeVar("T")


@final
@attrs.define(eq=False)
class Stage:
    """A scenario's state between its commands.

    Attributes:
        folder: where the scenario file lies; its kernels' files are named from here.
        devices: of the world to come, their memory limits by name.
        begun: work that was begun by name.
        shows_events: whether commands print the events that they caused.
        witness: what senders and readers were told.
    """

    folder: Path
    seed: int = 0
    devices: dict[str, int | None] = attrs.field(
        factory=lambda: dict.fromkeys(("host:0", "host:1"))
    )
    limits: EngineLimits = attrs.field(factory=EngineLimits)
    specs: dict[str, KernelSpec] = attrs.field(factory=dict)
    codes: dict[str, KernelCodeSource] = attrs.field(factory=dict)
    begun: dict[str, Started[object]] = attrs.field(factory=dict)
    names: Names = attrs.field(factory=Names)
    shows_events: bool = True
    witness: Witness = attrs.field(factory=Witness)
    _world: World | None = None
    _printed_sequence: int = 0
    _printed_effects: int = 0

    @property
    def is_made(self) -> bool:
        """Whether the world is there, so that its devices and limits are settled."""
        return self._world is not None

    @property
    def world(self) -> World:
        """The world, whose engine is opened when it is first asked for."""
        if self._world is None:
            self._world = World(self.seed, devices=self.devices, limits=self.limits)
            self._world.open()
            self._world.settle()
        return self._world

    def do(self, work: Callable[[Engine], Awaitable[T]]) -> T:
        """Do work with the engine, and let the world settle."""
        result = self.world.run(work)
        self.world.settle()
        return result

    def settle(self) -> None:
        """Let the world settle, if there is one and it runs."""
        if self._world is not None and self._world.is_running:
            self._world.settle()

    def spec(self, name: str, arguments: Arguments) -> KernelSpec:
        if name not in self.specs:
            known = ", ".join(self.specs) or "none"
            raise arguments.error(f"no kernel {name!r} is described; there are: {known}")
        return self.specs[name]

    def records(self) -> Iterator[RawRecord]:
        """Yield the journal's records."""
        return read_records(ROOT, files=self.world.files)

    def new_events(self) -> list[str]:
        """Return a line for each event that became durable since the last call."""
        if self._world is None:
            return []
        lines, last = [], 0
        with contextlib.suppress(StorageError):  # damaged, or not there yet: the engine says so
            for record in self.records():
                last = record.sequence
                if record.sequence > self._printed_sequence:
                    lines += [short(event, self.names) for event in record.events]
        self._printed_sequence = last
        return lines

    def pass_over(self) -> None:
        """Let no command print the events so far."""
        if self._world is not None and self._world.is_open:
            self._printed_sequence = self._world.engine.health()["journal"]["durable_sequence"]
        else:
            self.new_events()

    def new_effects(self) -> list[str]:
        """Return a line for each effect since the last call."""
        effects = self.world.faults.effects[self._printed_effects :]
        self._printed_effects += len(effects)
        return [self.names.shorten(str(effect)) for effect in effects]

    def close(self) -> None:
        """End the world; the engine is closed in order where one is open."""
        if self._world is not None and self._world.is_running:
            try:
                self._world.faults.clear()
                self._world.close()
            except SimulatedCrashError:
                pass

    def abandon(self) -> None:
        """End the world after an error, as a crash does."""
        if self._world is not None and self._world.is_running:
            self._world.crash()

    def contents(self) -> dict[str, bytes]:
        return {} if self._world is None else self._world.contents()


def must_be_new(stage: Stage, arguments: Arguments) -> None:
    """Raise ``ScenarioError`` once the world is made."""
    if stage.is_made:
        raise ScenarioError(
            arguments.path,
            arguments.command.line,
            1,
            f"{arguments.command.name!r} comes too late; put it before the first command that "
            "needs an engine",
        )
