"""A journal told as a scenario: the requests, messages, crashes and openings that made it. Pure.

- What a request led to stands below it as its expected output, up to the next input.
- Where inputs came while an operation ran, or a kernel acted by itself (traps, routes), the order
  between kernels is not the language's to fix: those commands are quiet, and what each kernel and
  operation did, in its own order, is asked for at the end.
- What can't be said stands in comments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import assert_never, final

from ringflow.journal.record import RawRecord
from ringflow.scenario import recorded_inputs as inputs
from ringflow.scenario.recorded_inputs import Input, Moment
from ringflow.scenario.recorded_order import (
    Act,
    Await,
    Cancel,
    Deliver,
    Do,
    Handled,
    Settle,
    Until,
    in_order,
)
from ringflow.scenario.recorded_requests import Finder, Stored
from ringflow.scenario.recorded_runs import as_one, is_run
from ringflow.scenario.script import RULER, quoted
from ringflow.scenario.short import Names, short
from ringflow.scenario.telling import source_lines, words


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
        finder = Finder(moments, stored)
        found, self._notes = finder.find(), finder.notes
        self._acts = in_order(moments, found)
        self._names = Names()
        for act in self._acts:  # names are given in the order in which the scenario asks
            if isinstance(act, Do):
                self._names.shorten(act.input.operation)
        self._lines = [short(moment.event, self._names) for moment in moments]
        self._parts: list[str] = []
        self._quieted: dict[str, None] = {}
        self._left_open: dict[str, tuple[str, ...]] = {}

    def text(self, purpose: str) -> str:
        """Return the whole file."""
        head = [f"# {purpose}"]
        devices = self._moments[0].event["devices"]
        if self._notes:
            head += ["", *(f"# {note}" for note in dict.fromkeys(self._notes))]
        self._command(f"devices {' '.join(devices)}")
        if limits := inputs.limits_said(self._moments):
            self._command(f"limits {limits}")
        acts = self._acts
        opening, *groups = _grouped(acts)
        self._say(opening)
        stops = (isinstance(act, Until) or (isinstance(act, Do) and act.stop_at) for act in acts)
        if any(stops):  # it stops right behind an event
            self._command("disk prompt=yes")
        for group in groups:
            self._say(group)
        self._summary()
        return "\n".join([*head, "", *self._parts]).rstrip("\n") + "\n"

    def _say(self, group: Sequence[Act]) -> None:
        match act := group[0]:
            case Do():
                self._do([one for one in group if isinstance(one, Do)])
            case Until(event, of):
                self._command(words("quiet until", event, f"of={self._names.shorten(of)}"))
            case Deliver(kernel_id, through):
                limit = "" if through is None else f"through={through}"
                self._command(words("quiet deliver", kernel_id, limit))
            case Handled(kernel_id, sequence):
                self._command(f"quiet handled {kernel_id} {sequence}")
            case Settle():
                self._command("quiet settle")
            case Cancel(one):
                self._command(f"quiet cancel {self._names.shorten(one.name)}")
            case Await(one):
                fails = "expect-error " if one.error else ""
                name = self._names.shorten(one.name)
                self._command(f"quiet {fails}await {name}", expected=self._own(one))
            case _:
                assert_never(act)

    def _do(self, group: Sequence[Do]) -> None:
        """Say one command; several are equal messages."""
        first, one = group[0], group[0].input
        for note in one.notes:
            self._parts += [f"# {self._names.shorten(note)}"]
        for at, fault in enumerate(one.faults):
            nth = one.faults[: at + 1].count(fault)
            self._command(f"fault {fault}" + (f" nth={nth}" if nth > 1 else ""))
        for source in one.sources:
            self._command(source.line, source_lines(source.code, []))
        line = as_one([self._line(act.input) for act in group])
        spans = [index for act in group for index in range(*act.span)]
        if first.left_open:
            self._left_open[one.operation] = first.left_open
        if (stop := first.stop_at) is not None:
            of = f"of={self._names.shorten(stop.of)}" if stop.of else ""
            line = words(line, f"until={stop.event}", of)
        if first.quiet:
            for index in spans:
                self._quieted[inputs.subject(self._moments[index].event)] = None
        if first.begun:
            self._command(f"quiet begin {self._names.shorten(one.name)} {line}")
            return
        fails = "expect-error " if one.error else ""
        if first.quiet:
            self._command(f"quiet {fails}{line}", expected=self._own(one))
        else:
            lines = [self._lines[index] for index in spans]
            self._command(f"{fails}{line}", expected=[*lines, *self._own(one)])

    def _own(self, one: Input) -> list[str]:
        return [self._names.shorten(text) for text in (one.error or one.result,) if text]

    def _line(self, one: Input) -> str:
        return one.line if one.line.startswith("send ") else self._names.named(one.line)

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
            found = [at for at, line in enumerate(self._lines) if wanted in line]
            without = self._left_open.get(subject.strip(), ())
            expected = [
                short(self._moments[at].event, self._names, without=without) for at in found
            ]
            option = f"without={','.join(without)}" if without else ""
            if expected:
                self._command(words("journal", quoted(wanted), option), expected=expected)

    def _command(self, line: str, body: Sequence[str] = (), expected: Sequence[str] = ()) -> None:
        self._parts += [line, *body, RULER, *expected, ""]


def _grouped(acts: Sequence[Act]) -> Iterator[list[Act]]:
    """Yield each act alone, but messages that follow each other as one if a command can say so."""
    group: list[Act] = []
    for act in acts:
        if group and not _continues(group, act):
            yield group
            group = []
        group.append(act)
    if group:
        yield group


def _continues(group: Sequence[Act], act: Act) -> bool:
    last = group[-1]
    if not isinstance(last, Do) or not isinstance(act, Do) or act.quiet != last.quiet:
        return False
    follows = act.quiet or act.span[0] == last.span[1] == last.span[0] + 1
    if not follows or not act.input.sequence or act.input.notes:
        return False
    lines = [one.input.line for one in group[-2:] if isinstance(one, Do)]
    return is_run([*lines, act.input.line])
