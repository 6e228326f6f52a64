"""Finds the inputs in a journal's events, and the commands that say them. Pure."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import attrs

from ringflow.errors import UsageError
from ringflow.scenario.recorded_inputs import TORN, Input, Kind, Moment, Source
from ringflow.scenario.recorded_operations import course_of, injected, proved_after
from ringflow.scenario.script import quoted
from ringflow.scenario.short import first_line
from ringflow.scenario.telling import (
    array_value,
    changed_words,
    kernel_line,
    message_words,
    word,
    words,
)
from ringflow.spec import KernelSpec


@attrs.frozen
class Stored:
    """What a journal names and does not hold; each gives None for what is not there.

    Attributes:
        spec: by its digest.
        regions: bytes by region's name, by the checkpoint's name.
        data: bytes by digest.
    """

    spec: Callable[[str], KernelSpec | None]
    regions: Callable[[str], Mapping[str, bytes] | None]
    data: Callable[[str], bytes | None]


@final
class Finder:
    """Walks through the moments; ``notes`` are what the whole scenario can't say."""

    def __init__(self, moments: Sequence[Moment], stored: Stored) -> None:
        self._moments, self._stored = moments, stored
        self.notes: list[str] = []
        self._found: list[Input] = []
        self._specs: dict[str, KernelSpec] = {}
        self._devices: dict[str, str] = {}
        self._accepted: dict[str, int] = {}
        self._until: dict[str, int] = {}  # a kernel's own events up to there are consequences
        self._codes = 0
        self._closing = -1  # the epoch that is being closed

    def find(self) -> list[Input]:
        """Return all inputs in their order."""
        handlers: Mapping[str, Callable[[int, Mapping[str, Any]], None]] = {
            "engine.opened": self._opened,
            "engine.closed": self._closed,
            "kernel.launch_requested": self._launch,
            "kernel.launched": self._placed,
            "kernel.resumed": self._placed,
            "kernel.recovery_point": self._point,
            "kernel.quiesce_started": self._quiesce,
            "kernel.stop_requested": self._stop,
            "kernel.halt_resolved": self._halt_resolved,
            "kernel.hold_started": self._hold,
            "migration.requested": self._migration,
            "reload.requested": self._reload,
            "snapshot.requested": self._snapshot,
            "messages.accepted": self._message,
            "messages.bulk_accepted": self._message,
            "consumer.registered": self._consumer,
            "consumer.acknowledged": self._consumer,
            "consumer.forgotten": self._consumer,
            "route.connected": self._route,
            "route.disconnected": self._route,
            "checkpoint.retired": self._retired,
            "kernel.device_lost": self._device_lost,
        }
        for at, moment in enumerate(self._moments):
            if (handler := handlers.get(moment.type)) is not None:
                handler(at, moment.event)
        return self._found

    def _add(self, at: int, line: str, **more: Any) -> None:
        event = self._moments[at].event
        kernel_id = event.get("kernel_id") or event.get("source") or ""
        self._found.append(Input(start=at, line=line, kernel_id=kernel_id, **more))

    def _next(self, at: int, kernel_id: str, *types: str) -> int | None:
        """Return the index of a kernel's next event of these types in the same epoch."""
        epoch = self._moments[at].epoch
        for index in range(at, len(self._moments)):
            moment = self._moments[index]
            if moment.epoch != epoch:
                return None
            if moment.type in types and moment.event.get("kernel_id") == kernel_id:
                return index
        return None

    def _inside(self, at: int, kernel_id: str) -> bool:
        return at <= self._until.get(kernel_id, -1)

    def _long(self, at: int, line: str, kernel_id: str, end: int | None, **more: Any) -> None:
        name = more.pop("name", f"{line.split()[0]}-{kernel_id}-{at}")
        self._until[kernel_id] = len(self._moments) if end is None else end
        self._add(at, line, kind=Kind.LONG, end=end, name=name, **more)

    # The engine

    def _opened(self, at: int, event: Mapping[str, Any]) -> None:
        if at == 0:
            self._add(at, "settle")
            return
        self._until.clear()
        if self._moments[at - 1].type != "engine.closed":
            self._add(at, "crash", kind=Kind.CRASH)
        self._add(at, "restart")
        if TORN in self._moments[at].with_types:
            self.notes.append("a torn tail was cut from the journal; no command here tears it")

    def _closed(self, at: int, event: Mapping[str, Any]) -> None:
        if self._closing != self._moments[at].epoch:
            self._add(at, "close", kind=Kind.CLOSE, end=at)

    # Kernels

    def _device_lost(self, at: int, event: Mapping[str, Any]) -> None:
        raise UsageError(
            f"kernel {event['kernel_id']!r} lost its device, and the host devices that a recording "
            "runs on can't be lost; record from a copy of the folder from before"
        )

    def _placed(self, at: int, event: Mapping[str, Any]) -> None:
        self._devices[event["kernel_id"]] = event["device"]

    def _point(self, at: int, event: Mapping[str, Any]) -> None:
        """Take what a rolled-back kernel is again; what else changes it is seen at its request."""
        spec = self._stored.spec(event["spec_digest"]) if event["reason"] == "rollback" else None
        if spec is not None:
            self._specs[event["kernel_id"]] = spec

    def _launch(self, at: int, event: Mapping[str, Any]) -> None:
        kernel_id, gaps = event["kernel_id"], list[str]()
        spec = self._stored.spec(event["spec_digest"])
        end = self._next(at, kernel_id, "kernel.launched", "kernel.launch_failed")
        failed = end is not None and self._moments[end].type == "kernel.launch_failed"
        failure = self._moments[end].event if end is not None and failed else {}
        reason, kind = failure.get("reason", ""), failure.get("error", "DeviceError")
        cancelled = failed and reason.lower().startswith("cancel")
        self._devices[kernel_id] = event["device"]
        if spec is None:
            self.notes.append(f"kernel {kernel_id}'s spec is gone: what it did is left out")
            return
        if spec.durability == "volatile" and self._has_worked(kernel_id):
            raise UsageError(
                f"kernel {kernel_id!r} is volatile: its messages are in no journal, so nothing "
                "can send them again; only durable and async kernels can be recorded"
            )
        self._specs[kernel_id] = spec
        more: dict[str, Any] = {
            "error": first_line(f"{kind}: {reason}") if failed and not cancelled else "",
            "cancelled": end if cancelled else 0,
            "faults": injected(reason),
        }
        who = _who(event)
        forked = self._next(at, kernel_id, "kernel.forked")
        if forked is not None:
            self._fork(at, end, self._moments[forked].event, spec, who, more)
            return
        point = self._next(at, kernel_id, "kernel.recovery_point")
        name = self._moments[point].event["checkpoint"] if point is not None else ""
        initial = self._stored.regions(name) if name else {}
        told = attrs.evolve(spec, checkpoint_every_messages=0, checkpoint_every_s=0.0)
        described = Source(line=kernel_line(told, initial, gaps), code=spec.code)
        line = words("launch", kernel_id, f"on={event['device']}", who)
        notes = tuple(gaps)
        self._long(at, line, kernel_id, end, sources=(described,), notes=notes, **more)

    def _has_worked(self, kernel_id: str) -> bool:
        """Whether some event of a kernel shows that it got messages."""
        mine = [one.event for one in self._moments if one.event.get("kernel_id") == kernel_id]
        return any(
            int(event.get("applied_sequence", 0)) > 0
            or int(event.get("replay_from", 0)) > 1
            or event["type"].startswith("messages.lost")
            for event in mine
        )

    def _fork(
        self,
        at: int,
        end: int | None,
        forked: Mapping[str, Any],
        spec: KernelSpec,
        who: str,
        more: dict[str, Any],
    ) -> None:
        source, kernel_id = forked["source"], spec.kernel_id
        known = self._specs.get(source)
        code = () if known is not None and known.code.hash == spec.code.hash else (spec,)
        described = tuple(self._code(one) for one in code)
        line = words(
            "fork",
            source,
            f"as={kernel_id}",
            f"at={forked['at_sequence']}",
            f"code={described[0].line.split()[1]}" if described else "",
            f"on={self._devices[kernel_id]}",
            who,
        )
        result = "" if more["error"] else f"forked {kernel_id}"
        self._accepted[kernel_id] = int(forked["at_sequence"])
        self._long(at, line, kernel_id, end, sources=described, result=result, **more)

    def _code(self, spec: KernelSpec) -> Source:
        self._codes += 1
        options = (word("version", spec.code.version_id), word("entry", spec.code.entry_point))
        return Source(line=words("code", f"code{self._codes}", *options), code=spec.code)

    def _quiesce(self, at: int, event: Mapping[str, Any]) -> None:
        kernel_id, purpose = event["kernel_id"], event["purpose"]
        epoch = self._moments[at].epoch
        if purpose == "close":
            ends = [
                index
                for index, moment in enumerate(self._moments)
                if index > at and moment.epoch == epoch and moment.type == "engine.closed"
            ]
            if ends and self._closing != epoch:
                self._closing = epoch
                self._add(at, "close", kind=Kind.CLOSE, end=ends[0])
        elif self._inside(at, kernel_id):
            return
        elif purpose == "stop":
            self._stop(at, event)
        elif purpose == "rollback":
            self._rollback(at, event)
        elif purpose == "restore":
            raise UsageError(
                f"kernel {kernel_id!r} was restored from a checkpoint that its program held, and "
                "no journal has what was in it; record from a copy of the folder from before"
            )

    def _stop(self, at: int, event: Mapping[str, Any]) -> None:
        kernel_id = event["kernel_id"]
        if self._inside(at, kernel_id):
            return
        asked = self._next(at, kernel_id, "kernel.stop_requested")
        end = self._next(at, kernel_id, "kernel.stopped")
        who = _who(self._moments[asked].event) if asked is not None else ""
        self._long(at, words("stop", kernel_id, who), kernel_id, end)

    def _halt_resolved(self, at: int, event: Mapping[str, Any]) -> None:
        if event["decision"] == "rollback":
            self._rollback(at, event)
            return
        kernel_id = event["kernel_id"]
        end = self._next(at, kernel_id, "kernel.resumed", "kernel.halted")
        line = words("resume", kernel_id, event["decision"], _who(event))
        self._long(at, line, kernel_id, end)

    def _rollback(self, at: int, event: Mapping[str, Any]) -> None:
        kernel_id = event["kernel_id"]
        done = self._next(at, kernel_id, "kernel.rolled_back")
        if done is None:
            self.notes.append(f"a rollback of {kernel_id} was not done; it is left out")
            return
        told = self._moments[done].event
        line = words(
            "rollback",
            kernel_id,
            f"to={told['checkpoint']}",
            "undo_messages=yes" if told["undone"] else "",
            _who(told),
        )
        self._long(at, line, kernel_id, self._next(done, kernel_id, "kernel.resumed"))

    def _hold(self, at: int, event: Mapping[str, Any]) -> None:
        kernel_id = event["kernel_id"]
        if event["purpose"] not in ("held", "checkpoint") or self._inside(at, kernel_id):
            return
        end = self._next(at, kernel_id, "kernel.hold_released")
        how = "as=checkpoint" if event["purpose"] == "checkpoint" else "for=1ms"
        self._long(at, f"hold {kernel_id} {how} say=no", kernel_id, end)

    # Operations

    def _migration(self, at: int, event: Mapping[str, Any]) -> None:
        line = words("migrate", event["kernel_id"], f"to={event['target']}", _who(event))
        self._operation(at, line)

    def _reload(self, at: int, event: Mapping[str, Any]) -> None:
        kernel_id = event["kernel_id"]
        spec, old = self._stored.spec(event["spec_digest"]), self._specs.get(kernel_id)
        if spec is None or old is None:
            self.notes.append(f"the code of {event['operation_id']} is gone: it is left out")
            return
        gaps: list[str] = []
        changed = changed_words(old, spec, gaps)
        source = self._code(spec)
        for_s = int(event["probation_timeout_ns"]) / 1e9
        asked, proved = int(event["probation_messages"]), proved_after(self._moments, at)
        probation = proved or asked
        line = words(
            "reload",
            kernel_id,
            f"code={source.line.split()[1]}",
            f"at={event['at_sequence']}" if int(event["at_sequence"]) else "",
            f"probation={probation}" if probation else "",
            f"for={for_s:.12g}s" if for_s != 1 else "",
            word("convert", event["convert"]),
            changed,
            _who(event),
        )
        beside = "" if probation == asked else "probation_messages"
        ended = self._operation(at, line, beside=beside, notes=gaps, sources=(source,))
        if ended == "completed":
            self._specs[kernel_id] = spec

    def _snapshot(self, at: int, event: Mapping[str, Any]) -> None:
        kernel_id, checkpoint = event["kernel_id"], event["checkpoint"]
        own = checkpoint == f"{kernel_id}@{event['operation_id']}"
        name = "" if own else f"name={checkpoint.removeprefix(f'{kernel_id}@')}"
        self._operation(at, words("snapshot", kernel_id, name, _who(event)))

    def _operation(
        self, at: int, line: str, *, beside: str = "", notes: Sequence[str] = (), **more: Any
    ) -> str:
        """Add an operation; return how it ended, "" if it did not in its epoch.

        Args:
            beside: a field of its request in which the scenario asks for something else.
        """
        event = self._moments[at].event
        kernel_id = event["kernel_id"]
        course = course_of(self._moments, at, self._devices[kernel_id])
        course.changed += (beside,) if beside else ()
        course.notes += tuple(notes)
        self._long(at, line, kernel_id, course.end, **course.as_input(event), **more)
        return course.ended

    # Messages

    def _message(self, at: int, event: Mapping[str, Any]) -> None:
        kernel_id = event["kernel_id"]
        spec = self._specs.get(kernel_id)
        bulk = self._moments[at].type == "messages.bulk_accepted"
        self._accepted[kernel_id] = int(event["sequence" if bulk else "first_sequence"])
        if spec is None or "route.taken.v1" in self._moments[at].with_types:
            return
        one = event if bulk else {key: event[f"{key}s"][0] for key in ("producer", "number")}
        type_id = event["message_type"] if bulk else event["types"][0]
        payload = base64.b64decode(event["payload"] if bulk else event["payloads"][0])
        gaps: list[str] = []
        line = words(
            "send",
            kernel_id,
            message_words(spec.messages, int(type_id), payload, gaps),
            self._data(event, gaps) if bulk else "",
            word("producer", one["producer"]),
            f"number={one['number']}" if one["producer"] else "",
        )
        hidden, sequence = spec.durability == "async", self._accepted[kernel_id]
        self._add(at, line, hidden=hidden, sequence=sequence, notes=tuple(gaps))

    def _data(self, event: Mapping[str, Any], gaps: list[str]) -> str:
        data, size = self._stored.data(event["digest"]), int(event["size_bytes"])
        value = array_value(data, "uint8") if data is not None else None
        if value is None:
            gaps.append("the next array is one that no line can hold: it is zeros here")
        return f"data=uint8[{size}]" + (f"={value}" if value else "")

    def _consumer(self, at: int, event: Mapping[str, Any]) -> None:
        kind = self._moments[at].type
        both = words(event["kernel_id"], quoted(event["consumer"]))
        if kind == "consumer.forgotten":
            self._add(at, f"forget {both}")
        elif kind == "consumer.registered":
            self._add(at, f"acknowledge {both}")
        else:
            self._add(at, f"acknowledge {both} through={event['sequence']}.{event['index']}")

    def _route(self, at: int, event: Mapping[str, Any]) -> None:
        source, route = event["source"], event["route"]
        if self._inside(at, source) or self._inside(at, event["target"]):
            return
        if self._moments[at].type == "route.connected":
            self._add(at, words("connect", source, route, event["target"], _who(event)))
            return
        dropped = f"dropped {event['dropped_count']}"
        self._add(at, words("disconnect", source, route, _who(event)), result=dropped)

    def _retired(self, at: int, event: Mapping[str, Any]) -> None:
        if event["reason"] != "limit":
            self._add(at, words("retire", event["kernel_id"], event["checkpoint"], _who(event)))


def _who(event: Mapping[str, Any]) -> str:
    return words(*(word(key, event.get(key, "")) for key in ("key", "actor", "reason")))
