"""A journal told as a scenario: the requests, messages, crashes and openings that made it. Pure.

- What a request led to stands below it as its expected output, up to the next input.
- Where inputs came while an operation ran, or a kernel acted by itself (traps, routes, periodic
  checkpoints), the order between kernels is not the language's to fix: those commands are quiet,
  and what each kernel and operation did, in its own order, is asked for at the end.
- What can't be said stands in comments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

from ringflow.journal.record import RawRecord
from ringflow.scenario import recorded_inputs as inputs
from ringflow.scenario.recorded_inputs import Input, Kind, Moment
from ringflow.scenario.recorded_requests import Finder, Stored
from ringflow.scenario.script import RULER
from ringflow.scenario.short import Names, short
from ringflow.scenario.telling import source_lines


def recorded(records: Iterable[RawRecord], stored: Stored, *, purpose: str) -> str:
    """Return the scenario's text.

    Args:
        records: a journal's, from its first on.
        purpose: the file's first line.
    """
    return _Recording(list(inputs.moments(records)), stored).text(purpose)


@final
class _Recording:
    def __init__(self, moments: Sequence[Moment], stored: Stored) -> None:
        self._moments = moments
        self._names = Names()
        self._lines = [short(moment.event, self._names) for moment in moments]
        finder = Finder(moments, stored)
        self._inputs, self._notes = finder.find(), finder.notes
        self._parts: list[str] = []
        self._quieted: dict[str, None] = {}
        self._open: dict[str, Input] = {}
        self._until_said: set[str] = set()
        self._unsteady = inputs.unsteady_epochs(moments)

    def text(self, purpose: str) -> str:
        """Return the whole file."""
        head = [f"# {purpose}"]
        devices = self._moments[0].event["devices"]
        if self._notes:
            head += ["", *(f"# {note}" for note in dict.fromkeys(self._notes))]
        self._command(f"devices {' '.join(devices)}")
        if limits := inputs.limits_said(self._moments):
            self._command(f"limits {limits}")
        for number, one in enumerate(self._inputs):
            following = self._inputs[number + 1 :]
            end = following[0].start if following else len(self._moments)
            self._say(one, end)
        self._end_those_open(len(self._moments))
        self._summary()
        return "\n".join([*head, "", *self._parts]).rstrip("\n") + "\n"

    def _say(self, one: Input, end: int) -> None:
        self._end_those_open(one.start)
        if one.kind in (Kind.CRASH, Kind.CLOSE):
            self._leave_open(one)
        elif self._open:
            self._reach(one.start, list(self._open.values())[-1])
        for note in one.notes:
            self._parts += [f"# {self._names.shorten(note)}"]
        for at, fault in enumerate(one.faults):
            nth = one.faults[: at + 1].count(fault)
            self._command(f"fault {fault}" + (f" nth={nth}" if nth > 1 else ""))
        for source in one.sources:
            self._command(source.line, source_lines(source.code, []))
        lines = self._lines[one.start : end]
        if one.kind is Kind.LONG and (one.end is None or one.cancelled or one.end >= end):
            self._quiet(one.start, end)
            name = self._names.shorten(one.name)
            self._command(f"quiet begin {name} {self._line(one)}")
            self._open[name] = one
            return
        fails = "expect-error " if one.error else ""
        own = [self._names.shorten(text) for text in (one.error or one.result,) if text]
        if self._open or self._moments[one.start].epoch in self._unsteady or one.hidden:
            self._quiet(one.start, end)
            self._command(f"quiet {fails}{self._line(one)}", expected=own)
        else:
            self._command(f"{fails}{self._line(one)}", expected=[*lines, *own])

    def _end_those_open(self, at: int) -> None:
        """Await, or cancel, what had ended before the moment ``at``."""
        for name, one in list(self._open.items()):
            if one.end is None or one.end >= at:
                continue
            del self._open[name]
            if one.cancelled:
                self._reach(one.cancelled, one)
                self._command(f"quiet cancel {name}")
                continue
            fails = "expect-error " if one.error else ""
            own = [self._names.shorten(text) for text in (one.error or one.result,) if text]
            self._command(f"quiet {fails}await {name}", expected=own)

    def _leave_open(self, end: Input) -> None:
        """Bring what a crash or a close finds unfinished to where it was."""
        if self._open:
            self._reach(end.start, list(self._open.values())[-1])
        self._open.clear()

    def _reach(self, at: int, one: Input) -> None:
        """Move the world to the last event before ``at`` of what runs, once for each."""
        own = [
            moment.event["type"]
            for moment in self._moments[one.start : at]
            if inputs.belongs(moment.event, self._moments[one.start].event)
            and moment.type != "kernel.hold_released"  # what a cancellation itself leads to
        ]
        if own and one.name not in self._until_said:
            self._until_said.add(one.name)
            self._command(f"quiet until {own[-1].rsplit('.', 1)[0]}")

    def _line(self, one: Input) -> str:
        return one.line if one.line.startswith("send ") else self._names.shorten(one.line)

    def _quiet(self, start: int, end: int) -> None:
        for moment in self._moments[start:end]:
            self._quieted[inputs.subject(moment.event)] = None

    def _summary(self) -> None:
        """Ask for what those did whose events no command shows."""
        batched = {
            inputs.subject(moment.event)
            for moment in self._moments
            if "route.taken.v1" in moment.with_types
        }
        for subject in self._quieted:
            if subject in batched:  # how many sends one record takes is chance
                continue
            wanted = self._names.shorten(subject)
            expected = [line for line in self._lines if wanted in line]
            if expected:
                self._command(f'journal "{wanted}"', expected=expected)

    def _command(self, line: str, body: Sequence[str] = (), expected: Sequence[str] = ()) -> None:
        self._parts += [line, *body, RULER, *expected, ""]
